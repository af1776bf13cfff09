//! One microVM's process: `votive-vmm`, started with everything it needs as inherited descriptors.
//!
//! It gets kernel, initramfs and disks opened, one end of a socket pair for the guest link and of another for its control, and a
//! pipe for its marks: no path of the host is told to it, and no file or socket is left when it ends. It runs in a jail
//! ([`crate::jail`]) if its spec has one. It is killed and reaped on every path out of here; should the agent itself be killed, the
//! kernel kills it (`--parent`); should the agent hang, it ends itself at its deadline.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::time::timeout;
use votive_protocol::AGENT_PORT;

use crate::clock::{BootTime, Moment};
use crate::function::Function;
use crate::images::Images;
use crate::jail::{Ended, Jail, JailError};
use crate::limits::{MARK_LINE_MAX, MARKS_MAX, PIPE_GRACE};
use crate::network::addresses::{GUEST_MAC, MTU};

mod control;
mod limits;
mod options;
mod process;
mod shell;
#[cfg(test)]
mod tests;

use options::{Options, Part};
use process::Running;
use shell::NotAssigned;

pub use control::{ControlError, ControlReceiver, ControlRequest, ControlSender, MicrovmControl};
pub use limits::{DeviceLimits, QueueLimits, Rate};
pub use process::ProcessSpec;
pub use shell::Shell;

/// The longest that a VMM lets a read of a lazy disk wait.
const DISK_TIMEOUT_MAX_MS: u128 = 600_000;
/// The guest's context id. Every microVM has its own vsock, so that one is enough for all.
const GUEST_CID: u32 = 3;

/// What a microVM is made of.
#[derive(Debug)]
pub struct MicrovmSpec {
    /// The VMM's program.
    pub vmm: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its disks: `/dev/vda`, `/dev/vdb`, ...
    pub disks: Vec<Disk>,
    /// The tap of its network device; there is none without.
    pub tap: Option<File>,
    /// What its devices may move.
    pub limits: DeviceLimits,
    /// Where its serial console goes; there is none without.
    pub console: Option<File>,
    /// How its kernel gets into its memory.
    pub kernel_memory: KernelMemory,
    /// When it ends itself, whatever the agent does.
    pub deadline: Option<BootTime>,
    /// The `cgroup.procs` of the control group that it joins before anything else ([`crate::cgroup`]); not for one in a jail.
    pub cgroup: Option<File>,
    /// Its jail; it is a process as any other without.
    pub jail: Option<Jail>,
    /// The process that becomes it, if one was started ahead. Should that have ended, another is started as the rest says.
    pub shell: Option<Shell>,
}

impl MicrovmSpec {
    /// A microVM for a function, with these disks: no network, no limits, no console, no deadline, no control group.
    #[must_use]
    pub fn new(images: &Images, function: &Function, disks: Vec<Disk>) -> Self {
        Self {
            vmm: images.vmm().to_owned(),
            kernel: images.kernel(),
            initrd: images.initrd(),
            vcpus: function.vcpus(),
            memory_mib: function.microvm_memory_mib(),
            disks,
            tap: None,
            limits: DeviceLimits::default(),
            console: None,
            kernel_memory: KernelMemory::default(),
            deadline: None,
            cgroup: None,
            jail: None,
            shell: None,
        }
    }
}

/// How a kernel gets into guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelMemory {
    /// Its pages are the host's page cache until they are written: the first guest instruction comes soonest.
    Mapped,
    /// What Linux writes early is copied to huge pages before the first guest instruction.
    #[default]
    Copied,
    /// The same on demand while the guest runs, as far as the VMM may be told of its accesses.
    Demand,
}

impl KernelMemory {
    /// As the VMM's command line has it.
    fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Copied => "copied",
            Self::Demand => "demand",
        }
    }
}

/// A disk, opened.
#[derive(Debug)]
pub struct Disk {
    /// What it holds.
    pub file: File,
    /// Whether the guest may not write it.
    pub read_only: bool,
    /// What makes it lazy; it is read-only then.
    pub lazy: Option<LazyDisk>,
    /// What an encrypted disk's blocks read as that were never written; it is not lazy and not read-only then.
    pub template: Option<File>,
}

impl Disk {
    /// A disk that is all there.
    #[must_use]
    pub fn new(file: File, read_only: bool) -> Self {
        Self { file, read_only, lazy: None, template: None }
    }

    /// A disk that reads as `template`; what is written to it, nobody else can read.
    #[must_use]
    pub fn encrypted(file: File, template: File) -> Self {
        Self { template: Some(template), ..Self::new(file, false) }
    }
}

/// What a disk has whose chunks come when they are first read (`docs/vmm.md`, lazy disks).
#[derive(Debug)]
pub struct LazyDisk {
    /// The table of its chunks.
    pub presence: File,
    /// The VMM's end of the socket on which it asks for chunks.
    pub requests: OwnedFd,
    /// The table of pages that the guest reads, if anybody wants to know.
    pub reads: Option<File>,
    /// How long a read waits for its chunks.
    pub timeout: Duration,
}

/// A running microVM.
#[derive(Debug)]
pub struct Microvm {
    running: Running,
    marks: tokio::task::JoinHandle<Vec<Mark>>,
}

/// What a microVM gives when it is started.
#[derive(Debug)]
pub struct Spawned {
    /// Its process.
    pub microvm: Microvm,
    /// The host's end of the guest link.
    pub link: UnixStream,
    /// What pauses it. The microVM ends when this is dropped.
    pub control: MicrovmControl,
    /// When its process was started, or told what it is.
    pub at: Moment,
}

/// A moment that the VMM, or the guest through it, marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// `start`, `machine`, `run`, `guest-0xNN`.
    pub name: String,
    /// When, by the host's clock.
    pub at: Moment,
}

/// How a microVM's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicrovmEnd {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The last line that it wrote on its standard error.
    pub reason: String,
    /// The marks that it wrote.
    pub marks: Vec<Mark>,
}

impl std::fmt::Display for MicrovmEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(0), _) => f.write_str("the guest powered off")?,
            (Some(1), _) => f.write_str("the microVM could not be set up")?,
            (Some(2), _) => f.write_str("votive-vmm refused the microVM's specification")?,
            (Some(3), _) => f.write_str("the guest was reset")?,
            (Some(4), _) => f.write_str("a vCPU failed")?,
            (Some(5), _) => f.write_str("a device failed")?,
            (Some(6), _) => f.write_str("the microVM's deadline passed")?,
            (Some(7), _) => f.write_str("the agent let go of the microVM")?,
            (Some(code), _) => write!(f, "votive-vmm ended with exit code {code}")?,
            (None, Some(signal)) => write!(f, "votive-vmm was killed by signal {signal}")?,
            (None, None) => f.write_str("votive-vmm is gone")?,
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Why a microVM was not started.
#[derive(Debug, thiserror::Error)]
pub enum MicrovmError {
    /// A socket pair or a pipe could not be made.
    #[error("the microVM's channels cannot be made")]
    Channels(#[source] std::io::Error),
    /// The kernel or the initramfs.
    #[error("{path} cannot be opened")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The jail.
    #[error("{vmm} cannot be jailed{said}")]
    Jail {
        /// The program.
        vmm: PathBuf,
        /// What the jailer said, after a colon.
        said: String,
        /// Why.
        source: JailError,
    },
    /// A shell did not become the microVM.
    #[error("a shell did not take its assignment{said}")]
    Assignment {
        /// What it said, after a colon.
        said: String,
    },
    /// The VMM's program could not be started.
    #[error("{vmm} cannot be started")]
    Spawn {
        /// The program.
        vmm: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Microvm {
    /// Starts a microVM.
    ///
    /// # Errors
    /// [`MicrovmError`]; nothing is left running then, nor when this is dropped before its end.
    pub async fn spawn(spec: MicrovmSpec) -> Result<Spawned, MicrovmError> {
        let (link, guest_end) = UnixStream::pair().map_err(MicrovmError::Channels)?;
        let guest_end = guest_end.into_std().map_err(MicrovmError::Channels)?;
        let (marks_writer, marks) = pipe::pipe().map_err(MicrovmError::Channels)?;
        let marks_writer = marks_writer.into_blocking_fd().map_err(MicrovmError::Channels)?;
        let disks = u32::try_from(spec.disks.len()).unwrap_or(u32::MAX);
        let mut options = Options::default();
        for (name, path) in [("--kernel", &spec.kernel), ("--initrd", &spec.initrd)] {
            let file = File::open(path)
                .map_err(|source| MicrovmError::File { path: path.clone(), source })?;
            options.descriptor(name, file);
        }
        for disk in spec.disks {
            options.parts("--disk", disk.parts(spec.limits.disk));
        }
        if let Some(tap) = spec.tap {
            let [receive, send] = ["rx-", "tx-"].map(|it| spec.limits.network.option(it));
            let rest = format!(",mac={GUEST_MAC},mtu={MTU}{receive}{send}");
            let parts = vec![Part::from("tap="), Part::Descriptor(tap.into()), Part::Text(rest)];
            options.parts("--net", parts);
        }
        let vsock = format!("cid={GUEST_CID},port={AGENT_PORT}:");
        options.parts("--vsock", vec![Part::Text(vsock), Part::Descriptor(guest_end.into())]);
        options.descriptor("--marks", marks_writer);
        if let Some(console) = spec.console {
            options.descriptor("--console", console);
        }
        if let Some(deadline) = spec.deadline {
            options.text("--deadline", deadline.nanoseconds());
        }
        let process = ProcessSpec {
            vmm: spec.vmm,
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            disks,
            kernel_memory: spec.kernel_memory,
            cgroup: spec.cgroup,
            jail: spec.jail,
        };
        let at = Moment::now();
        let assigned = match spec.shell {
            Some(shell) => shell.assign(&options).await,
            None => Err(NotAssigned::Gone),
        };
        let (running, control) = match assigned {
            Ok(became) => became,
            Err(NotAssigned::Failed(error)) => return Err(error),
            Err(NotAssigned::Gone) => {
                let (control, theirs) = UnixStream::pair().map_err(MicrovmError::Channels)?;
                let theirs = theirs.into_std().map_err(MicrovmError::Channels)?;
                options.descriptor("--control", theirs);
                (Running::start(process, options).await?, control)
            }
        };
        let marks = tokio::spawn(read_marks(marks));
        let microvm = Self { running, marks };
        let control = MicrovmControl::new(control);
        Ok(Spawned { microvm, link, control, at })
    }

    /// The process id, until it is reaped.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.process.id()
    }

    /// Waits for the process's end and reaps it; kills it when `kill` says so.
    pub async fn wait(mut self, kill: Arc<Notify>) -> MicrovmEnd {
        let ended = loop {
            tokio::select! {
                ended = self.running.process.ended() => break ended,
                () = kill.notified() => self.running.process.kill(),
            }
        };
        let reason = self.running.said().await;
        // The pipe ends with the process, and is waited for no longer than that takes.
        let marks = timeout(PIPE_GRACE, self.marks).await.map(Result::unwrap_or_default);
        let Ended { code, signal } = ended;
        MicrovmEnd { code, signal, reason, marks: marks.unwrap_or_default() }
    }
}

impl Disk {
    /// The value of `--disk`.
    fn parts(self, limits: QueueLimits) -> Vec<Part> {
        let mut parts = vec![Part::from("path="), Part::Descriptor(self.file.into())];
        parts.push(Part::Text(limits.option("")));
        if self.read_only {
            parts.push(Part::from(",readonly"));
        }
        if let Some(template) = self.template {
            parts.push(Part::from(",encrypted,template="));
            parts.push(Part::Descriptor(template.into()));
        }
        let Some(lazy) = self.lazy else { return parts };
        parts.extend([Part::from(",presence="), Part::Descriptor(lazy.presence.into())]);
        parts.extend([Part::from(",requests="), Part::Descriptor(lazy.requests)]);
        if let Some(reads) = lazy.reads {
            parts.extend([Part::from(",reads="), Part::Descriptor(reads.into())]);
        }
        let timeout = lazy.timeout.as_millis().clamp(1, DISK_TIMEOUT_MAX_MS);
        parts.push(Part::Text(format!(",timeout-ms={timeout}")));
        parts
    }
}

/// Reads marks to the end of the pipe; what is too long or too many is dropped.
async fn read_marks(pipe: pipe::Receiver) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(MARK_LINE_MAX).unwrap_or(u64::MAX);
        match (&mut lines).take(limit).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return marks,
            Ok(_) => {}
        }
        if marks.len() < MARKS_MAX {
            marks.extend(parse_mark(&line));
        }
    }
}

fn parse_mark(line: &[u8]) -> Option<Mark> {
    let text = std::str::from_utf8(line).ok()?;
    let (name, nanoseconds) = text.trim_end().split_once(' ')?;
    let at = Moment::from_nanoseconds(nanoseconds.parse().ok()?);
    Some(Mark { name: name.to_owned(), at })
}
