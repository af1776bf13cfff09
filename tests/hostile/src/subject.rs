//! The VMMs under test, and how each is told to run the same guest with the same devices.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};
use rustix::time::{ClockId, clock_gettime};
use votive_hostile_guest::layout::{CHUNK_BYTES, DISK_SECTORS, MEMORY_BYTES, SECTOR_MARK};

use crate::GUEST;

/// The guest's address in vsock.
const CID: u32 = 3;
/// Its address in the network, and the descriptor of its tap.
const MAC: &str = "06:00:00:00:00:01";
const TAP_FD: i32 = 9;
/// The descriptors of a lazy disk's table and server.
const PRESENCE_FD: i32 = 10;
const REQUESTS_FD: i32 = 11;

/// Which VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// votive-vmm.
    Votive,
    /// Firecracker, started from a configuration file without its API.
    Firecracker,
}

/// A VMM under test.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Which.
    pub kind: Kind,
    /// Its program.
    pub program: PathBuf,
}

/// What the guest is told beside its devices.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Which case.
    pub case: String,
    /// How many processors the guest has.
    pub vcpus: u8,
    /// The seed of what is random.
    pub seed: u64,
    /// Steps of the random case.
    pub steps: u64,
    /// Repetitions in percent.
    pub scale: u64,
}

/// What of the host votive's devices are connected to.
#[derive(Debug)]
pub struct Sockets {
    /// Where frames go.
    pub tap: OwnedFd,
    /// Which chunks of the lazy disk are there.
    pub presence: File,
    /// Who is asked for the others.
    pub requests: UnixStream,
}

/// A microVM's files, made in a folder of its own.
#[derive(Debug)]
pub struct Files {
    folder: tempfile::TempDir,
}

impl Subject {
    /// Its name in the table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Votive => "votive",
            Kind::Firecracker => "firecracker",
        }
    }

    /// The command that runs a guest, with its console on standard output. votive gets a deadline of `limit` from now, and what
    /// `sockets` are for.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn command(
        &self,
        files: &Files,
        orders: &Orders,
        limit: Duration,
        sockets: Option<Sockets>,
    ) -> Result<Command> {
        let Orders { case, vcpus, seed, steps, scale } = orders;
        let words = format!(
            "hostile.case={case} hostile.seed={seed} hostile.steps={steps} hostile.scale={scale} hostile.vmm={}",
            self.name()
        );
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Votive => {
                command.arg("--kernel").arg(files.path("guest"));
                command.args([
                    "--vcpus",
                    &vcpus.to_string(),
                    "--memory-mib",
                    &(MEMORY_BYTES >> 20).to_string(),
                ]);
                command.arg("--disk").arg(format!("path={}", files.path("disk").display()));
                command.arg("--vsock").arg(format!("cid={CID},path={}", files.socket().display()));
                command.arg("--marks").arg(files.path("marks"));
                command.args(["--console", "stdout", "--cmdline", &words]);
                command.args(["--deadline", &deadline_ns(limit).to_string()]);
                let read_only = files.path("read-only");
                let read_only = format!("path={},readonly", read_only.display());
                let Some(sockets) = sockets else {
                    command.args(["--disk", &read_only]);
                    return Ok(command);
                };
                let presence = format!("presence=fd:{PRESENCE_FD},requests=fd:{REQUESTS_FD}");
                command.args(["--disk", &format!("{read_only},{presence}")]);
                let (scratch, template) = (files.path("scratch"), files.path("template"));
                let (scratch, template) = (scratch.display(), template.display());
                let encrypted = format!("path={scratch},encrypted,template={template}");
                command.args(["--disk", &encrypted]);
                command.args(["--net", &format!("tap=fd:{TAP_FD},mac={MAC}")]);
                command.fd_mappings(vec![
                    FdMapping { parent_fd: sockets.tap, child_fd: TAP_FD },
                    FdMapping { parent_fd: sockets.presence.into(), child_fd: PRESENCE_FD },
                    FdMapping { parent_fd: sockets.requests.into(), child_fd: REQUESTS_FD },
                ])?;
            }
            Kind::Firecracker => {
                let config = files.path("config.json");
                let disk = |name: &str, read_only: bool| {
                    serde_json::json!({
                        "drive_id": name.replace('-', "_"), "path_on_host": files.path(name),
                        "is_root_device": false, "is_read_only": read_only,
                    })
                };
                let all = serde_json::json!({
                    "boot-source": {"kernel_image_path": files.path("guest"), "boot_args": words},
                    "machine-config": {"vcpu_count": vcpus, "mem_size_mib": MEMORY_BYTES >> 20},
                    "drives": [disk("disk", false), disk("read-only", true)],
                    "vsock": {"guest_cid": CID, "uds_path": files.socket()},
                    "entropy": {},
                });
                fs::write(&config, all.to_string())?;
                let log = files.log();
                File::create(&log).with_context(|| format!("making {}", log.display()))?;
                command.args(["--no-api", "--config-file"]).arg(config);
                command.args(["--level", "Error", "--log-path"]).arg(log);
            }
        }
        command.stdin(Stdio::null());
        Ok(command)
    }
}

impl Files {
    /// A folder with the guest and disks of numbered sectors.
    ///
    /// # Errors
    /// Files cannot be written.
    pub fn make() -> Result<Self> {
        let files = Self { folder: tempfile::tempdir()? };
        fs::write(files.path("guest"), GUEST)?;
        let mut disk = Vec::new();
        for sector in 0..DISK_SECTORS {
            disk.extend(sector.to_le_bytes());
            disk.extend(SECTOR_MARK.to_le_bytes());
            disk.extend([0; 496]);
        }
        for name in ["disk", "read-only", "template"] {
            fs::write(files.path(name), &disk)?;
        }
        let scratch = File::create(files.path("scratch"))?;
        scratch.set_len(u64::try_from(disk.len())?)?;
        let chunks = disk.len().div_ceil(usize::try_from(CHUNK_BYTES)?);
        fs::write(files.presence(), vec![0; chunks])?;
        Ok(files)
    }

    /// The vsock device's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("v")
    }

    /// The table of a lazy disk's chunks.
    #[must_use]
    pub fn presence(&self) -> PathBuf {
        self.path("presence")
    }

    /// Where Firecracker logs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Bytes in the files that a guest can make grow: marks and log.
    #[must_use]
    pub fn logged_bytes(&self) -> u64 {
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        bytes(&self.path("marks")) + bytes(&self.log())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn deadline_ns(limit: Duration) -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let now_ns = u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec).unwrap_or_default();
    now_ns + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 4)
}
