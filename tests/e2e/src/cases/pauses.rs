//! Pauses of a real guest: its own clocks and counts say that it stood still, and its kernel does not mind.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use votive_agent::clock::BootTime;
use votive_agent::microvm::{KernelMemory, Microvm, MicrovmControl, MicrovmSpec, Spawned};

use super::Case;
use crate::harness::{Spinner, SpinnerConsole, images};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_paused_guest_stands_still_and_its_kernel_does_not_mind", stands_still),
    ("a_paused_guest_of_two_vcpus_stands_still", two_vcpus),
    ("a_deadline_ends_a_paused_guest", deadline),
    ("a_control_that_is_dropped_ends_the_guest", dropped),
];

/// Longer than any watchdog of Linux waits: soft lockups are reported after 20 s, stalls of RCU after 21 s.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// How long an answer may take in an emulated machine on a crowded host.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a kernel says that has missed something.
const COMPLAINTS: [&str; 7] =
    ["lockup", "stall", "stuck", "BUG", "WARNING", "unstable", "hung"];

/// A guest that computes.
struct Computing {
    microvm: Microvm,
    control: MicrovmControl,
    console: SpinnerConsole,
    _images: Spinner,
}

impl Computing {
    /// Starts it and waits until it computes. Must be called inside a runtime.
    fn start(vcpus: u32, deadline: Option<BootTime>) -> Result<Self> {
        let spinner = Spinner::new(vcpus)?;
        let (reader, writer) = std::io::pipe()?;
        let Spawned { microvm, control, .. } =
            Microvm::spawn(spec(&spinner, vcpus, writer.into(), deadline)?)?;
        let mut console = SpinnerConsole::new(reader);
        console.round()?;
        Ok(Self {
            microvm,
            control: control.with_patience(PATIENCE),
            console,
            _images: spinner,
        })
    }
}

/// A guest that computes on `vcpus` vCPUs.
pub(super) fn spec(
    spinner: &Spinner,
    vcpus: u32,
    console: std::os::fd::OwnedFd,
    deadline: Option<BootTime>,
) -> Result<MicrovmSpec> {
    let images = images()?;
    Ok(MicrovmSpec {
        vmm: images.join("bin/votive-vmm"),
        kernel: images.join("vmlinux"),
        initrd: spinner.initrd(),
        vcpus,
        memory_mib: 128,
        disks: Vec::new(),
        console: Some(File::from(console)),
        kernel_memory: KernelMemory::default(),
        deadline,
        cgroup: None,
    })
}
