//! The peers: a VMM with our kernel, an HTTP server in its guest, and the host agent before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use votive_bench::subject::Subject;

use crate::client::Client;
use crate::freezer::Freezer;
use crate::upstream::Upstream;
use crate::{FUNCTION_OPTION, GUEST_CID, MEMORY_MIB, Pair};

/// How long anything may take to be there, in the clock of where it runs.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long it is between two looks whether it is.
pub const PAUSE: Duration = Duration::from_millis(20);

/// What stands between the client and the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Channel {
    /// A host agent with mutual TLS that has the guest paused between invocations, as votive does.
    Frozen,
    /// A host agent with mutual TLS whose guest runs on.
    Agent,
    /// Nothing: the client has the VMM's own socket.
    Direct,
}

/// What a peer is made of.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Firecracker or QEMU.
    pub subject: Subject,
    /// Its program.
    pub program: PathBuf,
    /// Which function.
    pub pair: Pair,
    /// What is before the guest.
    pub channel: Channel,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its initramfs: `warm-guest`.
    pub initrd: PathBuf,
    /// The image with Python, its first disk.
    pub root: PathBuf,
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    /// The way to it.
    pub client: Client,
    _processes: Vec<Ended>,
    _folder: tempfile::TempDir,
}

impl Peer {
    /// Boots the guest, waits for its server, starts the host agent and connects to it.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(spec: &PeerSpec) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("warm").tempdir()?;
        let root = folder.path();
        let (mut command, upstream, freezer) = match spec.subject {
            Subject::Firecracker => firecracker(spec, root)?,
            Subject::QemuMicrovm => qemu(spec, root),
            Subject::Votive => bail!("votive is no peer"),
        };
        let log = fs::File::create(root.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut vmm = Ended::start(command)?;
        let begun = std::time::Instant::now();
        let direct = loop {
            match Client::connect_directly(&upstream).await {
                Ok(client) => break client,
                Err(error) if vmm.is_over()? || begun.elapsed() > PATIENCE => {
                    let log = fs::read_to_string(root.join("log")).unwrap_or_default();
                    bail!("{error:#}; {} wrote: {log}", spec.program.display());
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let mut processes = vec![vmm];
        let client = match spec.channel {
            Channel::Direct => direct,
            Channel::Frozen | Channel::Agent => {
                drop(direct);
                let keys = root.join("keys");
                votive_control::keys::init(&keys, &[], 30, std::time::SystemTime::now())?;
                let socket = root.join("s");
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("host-agent").arg("--socket").arg(&socket);
                command.arg("--keys").arg(keys.join("worker"));
                command.arg("--upstream").arg(upstream.to_argument());
                if spec.channel == Channel::Frozen {
                    command.arg("--freezer").arg(freezer.to_argument());
                }
                processes.push(Ended::start(command)?);
                connect(&socket, &keys.join("orchestrator")).await?
            }
        };
        Ok(Self { client, _processes: processes, _folder: folder })
    }
}

async fn connect(socket: &Path, keys: &Path) -> anyhow::Result<Client> {
    let begun = std::time::Instant::now();
    loop {
        match Client::connect_tls(socket, keys).await {
            Ok(client) => return Ok(client),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The options that Firecracker's documents advise without a console.
const FIRECRACKER_CMDLINE: &str = "reboot=k panic=1 pci=off nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.nopnp \
                                   i8042.dumbkbd swiotlb=noforce quiet loglevel=0";
/// The options that QEMU's documents advise for `microvm`, without a console.
const QEMU_CMDLINE: &str = "reboot=t panic=-1 tsc=reliable quiet loglevel=0";

fn firecracker(spec: &PeerSpec, folder: &Path) -> anyhow::Result<(Command, Upstream, Freezer)> {
    let socket = folder.join("vsock");
    let api = folder.join("api");
    let config = folder.join("firecracker.json");
    let function = format!("{FUNCTION_OPTION}={}", spec.pair.name());
    let all = serde_json::json!({
        "boot-source": {
            "kernel_image_path": spec.kernel,
            "initrd_path": spec.initrd,
            "boot_args": format!("{FIRECRACKER_CMDLINE} {function}"),
        },
        "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
        "drives": [{
            "drive_id": "root", "path_on_host": spec.root, "is_root_device": false,
            "is_read_only": true,
        }],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": socket},
    });
    fs::write(&config, all.to_string()).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new(&spec.program);
    command.arg("--api-sock").arg(&api).arg("--config-file").arg(config);
    Ok((command, Upstream::Hybrid(socket), Freezer::Firecracker(api)))
}

fn qemu(spec: &PeerSpec, folder: &Path) -> (Command, Upstream, Freezer) {
    let monitor = folder.join("qmp");
    let mut command = Command::new(&spec.program);
    command.args(["-M", "microvm,accel=kvm,acpi=off,rtc=off,pic=off,pit=off,isa-serial=off"]);
    command.args(["-cpu", "host", "-smp", "1", "-nodefaults", "-no-user-config"]);
    command.args(["-nographic", "-no-reboot", "-m", &format!("{MEMORY_MIB}M")]);
    command.arg("-kernel").arg(&spec.kernel).arg("-initrd").arg(&spec.initrd);
    command.args(["-append", &format!("{QEMU_CMDLINE} {FUNCTION_OPTION}={}", spec.pair.name())]);
    let drive = format!("id=root,if=none,format=raw,readonly=on,file={}", spec.root.display());
    command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=root"]);
    command.args(["-device", &format!("vhost-vsock-device,guest-cid={GUEST_CID}")]);
    command.args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())]);
    (command, Upstream::Vhost, Freezer::Qemu(monitor))
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Ended(Child);

impl Ended {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_over(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
