//! The machines that are measured, and how each is told to boot the same kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;

/// A virtual machine monitor under measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// `votive-vmm`
    Votive,
    /// Firecracker, started from a configuration file without its API
    Firecracker,
    /// QEMU's `microvm` machine
    QemuMicrovm,
}

impl Subject {
    /// The name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Votive => "votive",
            Self::Firecracker => "firecracker",
            Self::QemuMicrovm => "qemu-microvm",
        }
    }
}

/// What is booted: one vCPU and this much, by every subject alike.
#[derive(Clone, Debug)]
pub struct Guest {
    /// An uncompressed ELF kernel.
    pub kernel: PathBuf,
    /// The initial RAM file system; none for guests of a few instructions.
    pub initrd: Option<PathBuf>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Whether the subject may choose its own best options for reaching PID 1, or starts as all do.
    pub own_options: bool,
}

/// The options that Firecracker's documents advise for a quick boot without a console, on its virtio-mmio transport.
const FIRECRACKER_CMDLINE: &str = "reboot=k panic=1 pci=off nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.nopnp \
                                   i8042.dumbkbd swiotlb=noforce quiet loglevel=0";
/// The options that QEMU's documents advise for `microvm`, without a console.
const QEMU_CMDLINE: &str = "reboot=t panic=-1 tsc=reliable quiet loglevel=0";

/// Makes the command that boots `guest` in `subject`, whose program is `program`. Files that it needs go to `scratch`.
///
/// # Errors
/// `scratch` cannot be written.
pub fn command(
    subject: Subject,
    program: &Path,
    guest: &Guest,
    scratch: &Path,
) -> anyhow::Result<Command> {
    let mut command = Command::new(program);
    match subject {
        Subject::Votive => {
            command.arg("--kernel").arg(&guest.kernel);
            if let Some(initrd) = &guest.initrd {
                command.arg("--initrd").arg(initrd);
            }
            command.arg("--memory-mib").arg(guest.memory_mib.to_string());
            command.args(["--vcpus", "1"]);
            if guest.own_options {
                command.args(["--kernel-memory", "copied"]);
            }
        }
        Subject::Firecracker => {
            let config = scratch.join("firecracker.json");
            let mut boot_source = serde_json::json!({
                "kernel_image_path": guest.kernel,
                "boot_args": FIRECRACKER_CMDLINE,
            });
            if let Some(initrd) = &guest.initrd {
                boot_source["initrd_path"] = serde_json::json!(initrd);
            }
            let machine = serde_json::json!({"vcpu_count": 1, "mem_size_mib": guest.memory_mib});
            let all = serde_json::json!({
                "boot-source": boot_source, "machine-config": machine, "drives": [],
            });
            fs::write(&config, all.to_string())
                .with_context(|| format!("writing {}", config.display()))?;
            command.args(["--no-api", "--config-file"]).arg(config);
        }
        Subject::QemuMicrovm => {
            command
                .args(["-M", "microvm,accel=kvm,acpi=off,rtc=off,pic=off,pit=off,isa-serial=off"]);
            command.args(["-cpu", "host", "-smp", "1", "-nodefaults", "-no-user-config"]);
            command.args(["-nographic", "-no-reboot", "-m", &format!("{}M", guest.memory_mib)]);
            command.arg("-kernel").arg(&guest.kernel);
            if let Some(initrd) = &guest.initrd {
                command.arg("-initrd").arg(initrd);
            }
            command.args(["-append", QEMU_CMDLINE]);
        }
    }
    Ok(command)
}
