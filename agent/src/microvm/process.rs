//! A VMM's process, in a jail or not: its start, its end, and what kills it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::options::Options;
use super::{KernelMemory, MicrovmError};
use crate::cgroup::threads_max;
use crate::jail::{Ended, Execution, Jail, Jailed};
use crate::limits::{PIPE_GRACE, VMM_STDERR_MAX};

/// The first descriptor that a VMM inherits beside the standard ones.
const FIRST_FD: i32 = 3;

/// What a VMM's process is made of, whoever it is for.
#[derive(Debug)]
pub struct ProcessSpec {
    /// The VMM's program.
    pub vmm: PathBuf,
    /// Its vCPUs.
    pub vcpus: u32,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// The most disks.
    pub disks: u32,
    /// How a kernel gets into that memory.
    pub kernel_memory: KernelMemory,
    /// The `cgroup.procs` of the control group that it joins before anything else; not for one in a jail.
    pub cgroup: Option<File>,
    /// Its jail; it is a process as any other without.
    pub jail: Option<Jail>,
}

/// A child of this process, killed when it is dropped.
#[derive(Debug)]
pub(super) enum Process {
    /// One that was spawned.
    Child(Child),
    /// One that the jailer made.
    Jailed(Jailed),
}

/// A process and what it says.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    stderr: JoinHandle<Vec<u8>>,
}

impl Running {
    /// Starts a VMM with these options beside those of `spec`.
    pub(super) async fn start(spec: ProcessSpec, options: Options) -> Result<Self, MicrovmError> {
        let ProcessSpec { vmm, vcpus, memory_mib, disks, kernel_memory, cgroup, jail } = spec;
        let (stderr_writer, stderr) = pipe::pipe().map_err(MicrovmError::Channels)?;
        let stderr_writer = stderr_writer.into_blocking_fd().map_err(MicrovmError::Channels)?;
        let mut own = Options::default();
        own.text("--vcpus", vcpus);
        own.text("--memory-mib", memory_mib);
        own.text("--kernel-memory", kernel_memory.name());
        own.text("--parent", std::process::id());
        let mut options = own.and(options);
        if let Some(cgroup) = cgroup {
            options.descriptor("--cgroup", cgroup);
        }
        let arguments = options.arguments(FIRST_FD);
        let descriptors = options.into_descriptors();
        let stderr = tokio::spawn(last_bytes(stderr));
        let Some(jail) = jail else {
            let mut command = Command::new(&vmm);
            command.args(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr_writer);
            command.env_clear().kill_on_drop(true);
            let mappings = (FIRST_FD..).zip(descriptors);
            let mappings = mappings.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
            let mapped = command.fd_mappings(mappings.collect()).map_err(std::io::Error::other);
            let child = mapped.and_then(|command| command.spawn());
            let child = child.map_err(|source| MicrovmError::Spawn { vmm, source })?;
            return Ok(Self { process: Process::Child(child), stderr });
        };
        let execution = Execution {
            program: &vmm,
            arguments: arguments.into_iter().map(Into::into).collect(),
            descriptors,
            stderr: stderr_writer,
            threads: threads_max(vcpus, disks),
            userfaultfd: kernel_memory == KernelMemory::Demand && jail.jails.have_userfaultfd(),
        };
        match jail.execute(execution).await {
            Ok(jailed) => Ok(Self { process: Process::Jailed(jailed), stderr }),
            Err(source) => {
                let said = after_colon(said(stderr).await);
                Err(MicrovmError::Jail { vmm, said, source })
            }
        }
    }

    /// The last line that it said. It has ended: its end of the pipe is closed, and waited for no longer than that takes.
    pub(super) async fn said(self) -> String {
        said(self.stderr).await
    }
}

async fn said(stderr: JoinHandle<Vec<u8>>) -> String {
    let bytes = timeout(PIPE_GRACE, stderr).await.map(Result::unwrap_or_default);
    last_line(&bytes.unwrap_or_default())
}

/// A reason to stand behind a sentence; none is nothing.
pub(super) fn after_colon(reason: String) -> String {
    if reason.is_empty() { reason } else { format!(": {reason}") }
}

/// Reads to the end and keeps the last bytes.
pub(super) async fn last_bytes(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = VecDeque::with_capacity(VMM_STDERR_MAX);
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        kept.extend(buffer.iter().take(len));
        let excess = kept.len().saturating_sub(VMM_STDERR_MAX);
        kept.drain(..excess);
    }
    kept.into()
}

pub(super) fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let line = ["votive-vmm: ", "votive-jailer: "]
        .into_iter()
        .find_map(|name| line.strip_prefix(name))
        .unwrap_or(line);
    line.chars().filter(|c| !c.is_control()).collect()
}

impl Process {
    /// Its process id, until it is reaped.
    pub(super) fn id(&self) -> Option<u32> {
        match self {
            Self::Child(child) => child.id(),
            Self::Jailed(jailed) => Some(jailed.id()),
        }
    }

    pub(super) fn kill(&mut self) {
        match self {
            Self::Child(child) => {
                if let Err(error) = child.start_kill() {
                    // It has been reaped: there is nothing to kill.
                    tracing::debug!(%error, "votive-vmm was not killed");
                }
            }
            Self::Jailed(jailed) => jailed.kill(),
        }
    }

    /// Waits for its end and reaps it. May be dropped and called again. What the system does not tell, nobody knows.
    pub(super) async fn ended(&mut self) -> Ended {
        match self {
            Self::Child(child) => child.wait().await.map_or(Ended::default(), |status| Ended {
                code: status.code(),
                signal: status.signal(),
            }),
            Self::Jailed(jailed) => jailed.ended().await.unwrap_or_default(),
        }
    }
}
