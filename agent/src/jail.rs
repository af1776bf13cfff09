//! The jail of a VMM, made by `votive-jailer` (`docs/jail.md`).
//!
//! The agent has no `unsafe`, and so neither clones nor executes: it starts the jailer, which makes the namespaces, sends the
//! pidfd of the process in them and is gone. The VMM is the agent's child nevertheless: [`Jailed`] waits for it, kills it and
//! reaps it by that descriptor, and only then is its user id free for another.
//!
//! **Invariant:** whatever is dropped, and whenever, a process that was begun is killed and reaped.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping, FdMappingCollision};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

mod process;
#[cfg(test)]
mod tests;
mod uids;

pub use process::{Ended, Jailed};
pub use uids::{NoUid, UidGuard, UidRange, Uids, WrongRange};

/// How long the jailer may take. It takes milliseconds; a hundred at once on a crowded host that is emulated take seconds each.
/// One that hangs must not hold up the start for ever.
const JAILER_TIMEOUT: Duration = Duration::from_secs(60);
/// What the jailer says of a process: `p` and its id.
const MESSAGE_LEN: usize = 5;
/// The first descriptor that is inherited beside the standard ones.
const FIRST_FD: i32 = 3;
/// What lets a VMM fill guest memory on demand. Who may open it differs from host to host.
const USERFAULTFD: &str = "/dev/userfaultfd";

/// What makes jails: a program, and users for them.
#[derive(Clone, Debug)]
pub struct Jails {
    jailer: PathBuf,
    uids: Uids,
    userfaultfd: bool,
}

/// The jail of one microVM.
#[derive(Debug)]
pub struct Jail {
    /// What makes it.
    pub jails: Jails,
    /// The folder of the control group that the VMM is started in; in its maker's otherwise.
    pub cgroup: Option<OwnedFd>,
    /// The network namespace that it is in; in a new one without any interface otherwise.
    pub network: Option<OwnedFd>,
}

/// What is executed in a jail.
#[derive(Debug)]
pub struct Execution<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments. `--kvm` is added.
    pub arguments: Vec<OsString>,
    /// Its descriptors, from 3 on.
    pub descriptors: Vec<OwnedFd>,
    /// Its standard error.
    pub stderr: OwnedFd,
    /// The most threads that it may have.
    pub threads: u64,
    /// Whether it is given `/dev/userfaultfd`, as `--userfaultfd`.
    pub userfaultfd: bool,
}

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// No user is left.
    #[error(transparent)]
    Uid(#[from] NoUid),
    /// The program to execute.
    #[error("{path} cannot be opened")]
    Program {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The jailer could not be started, or heard.
    #[error("{path} cannot be used")]
    Jailer {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The jailer says why in its last line on standard error.
    #[error("votive-jailer made no jail")]
    Refused,
    /// The jailer was asked whether a jail can be made.
    #[error("{0}")]
    Cannot(String),
    /// It took longer than it may.
    #[error("votive-jailer took longer than {JAILER_TIMEOUT:?}")]
    TimedOut,
}

impl Jails {
    /// Jails made by the program `jailer` for users of `range`.
    #[must_use]
    pub fn new(jailer: &Path, range: UidRange) -> Self {
        // The jailer may open what its maker may.
        let userfaultfd = File::options().read(true).write(true).open(USERFAULTFD).is_ok();
        Self { jailer: jailer.to_owned(), uids: Uids::new(range), userfaultfd }
    }

    /// Whether a program in a jail can be given `/dev/userfaultfd` ([`Execution::userfaultfd`]).
    #[must_use]
    pub fn have_userfaultfd(&self) -> bool {
        self.userfaultfd
    }

    /// Makes a jail, in which nothing is executed, to tell whether one can be made. Blocks, milliseconds as a rule.
    ///
    /// # Errors
    /// [`JailError`], with the jailer's reason.
    pub fn check(&self) -> Result<(), JailError> {
        let uid = self.uids.take()?;
        let mut command = std::process::Command::new(&self.jailer);
        let id = uid.id().to_string();
        command.args(["--check", "--uid", &id, "--gid", &id, "--without", "cgroup"]);
        let output = crate::doctor::bounded_output(&mut command)
            .map_err(|source| JailError::Jailer { path: self.jailer.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().next_back().unwrap_or("it does not say why");
        Err(JailError::Cannot(line.trim_start_matches("votive-jailer: ").to_owned()))
    }
}

impl Jail {
    /// A jail with a network of its own, without any interface.
    #[must_use]
    pub fn new(jails: Jails, cgroup: Option<OwnedFd>) -> Self {
        Self { jails, cgroup, network: None }
    }

    /// Executes a program in the jail. Nothing is left running when this fails or is dropped.
    ///
    /// # Errors
    /// [`JailError`]
    pub async fn execute(self, execution: Execution<'_>) -> Result<Jailed, JailError> {
        let path = self.jails.jailer.clone();
        let jailer = |source| JailError::Jailer { path: path.clone(), source };
        let uid = self.jails.uids.take()?;
        let program = File::open(execution.program)
            .map_err(|source| JailError::Program { path: execution.program.to_owned(), source })?;
        let (ours, theirs) = UnixStream::pair().map_err(jailer)?;
        let theirs = theirs.into_std().map_err(jailer)?;
        let mut command = self.command(&uid, execution, program.into(), theirs.into());
        let child = command.as_mut().map_err(|_| JailError::Refused)?.spawn().map_err(jailer)?;
        // With the jailer's ends of everything.
        drop(command);
        // In a task of its own, which nobody drops half-way: what was begun is known before it is given up.
        let made = tokio::spawn(made(child, ours, uid)).await;
        match made {
            Ok(Ok(jailed)) => Ok(jailed),
            Ok(Err(Failure::Io(source))) => Err(jailer(source)),
            Ok(Err(Failure::TimedOut)) => Err(JailError::TimedOut),
            Ok(Err(Failure::Refused)) | Err(_) => Err(JailError::Refused),
        }
    }

    fn command(
        self,
        uid: &UidGuard,
        execution: Execution<'_>,
        program: OwnedFd,
        socket: OwnedFd,
    ) -> Result<Command, FdMappingCollision> {
        let mut command = Command::new(&self.jails.jailer);
        let mut next = FIRST_FD;
        let mut mappings = Vec::new();
        let mut inherit = |parent_fd: OwnedFd| {
            let child_fd = next;
            next = next.saturating_add(1);
            mappings.push(FdMapping { parent_fd, child_fd });
            child_fd
        };
        let id = uid.id().to_string();
        command.args(["--uid", &id, "--gid", &id, "--parent", &std::process::id().to_string()]);
        command.arg("--name").arg(execution.program);
        command.arg("--limit").arg(format!("nproc={}", execution.threads));
        let last = execution.descriptors.into_iter().map(&mut inherit).last();
        if let Some(last) = last {
            command.arg("--keep").arg(format!("{FIRST_FD}-{last}"));
        }
        let mut options = vec![("--program", program), ("--socket", socket)];
        options.extend(self.cgroup.map(|cgroup| ("--cgroup", cgroup)));
        options.extend(self.network.map(|network| ("--netns", network)));
        if !options.iter().any(|(name, _)| *name == "--cgroup") {
            command.args(["--without", "cgroup"]);
        }
        for (name, descriptor) in options {
            command.arg(name).arg(format!("fd:{}", inherit(descriptor)));
        }
        // The first numbers that nothing is inherited under.
        let kvm = [String::from("--kvm"), format!("fd:{next}")];
        let userfaultfd = [String::from("--userfaultfd"), format!("fd:{}", next.saturating_add(1))];
        let devices: Vec<_> = [Some(kvm), execution.userfaultfd.then_some(userfaultfd)]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        command.args(&devices).arg("--").args(execution.arguments).args(&devices);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(execution.stderr));
        // A group of its own: what it began and could not tell of is found by it.
        command.env_clear().kill_on_drop(true).process_group(0);
        command.fd_mappings(mappings)?;
        Ok(command)
    }
}

/// Why [`made`] has nothing.
enum Failure {
    Io(io::Error),
    TimedOut,
    Refused,
}

/// Waits for the jailer's end; gives the process in the jail.
async fn made(mut child: Child, socket: UnixStream, uid: UidGuard) -> Result<Jailed, Failure> {
    let group = child.id();
    let mut process = None;
    let told = timeout(JAILER_TIMEOUT, async {
        process = receive(&socket).await?;
        child.wait().await
    });
    let failure = match told.await {
        Ok(Ok(status)) if status.success() => None,
        Ok(Ok(_)) => Some(Failure::Refused),
        Ok(Err(error)) => Some(Failure::Io(error)),
        Err(_) => Some(Failure::TimedOut),
    };
    if failure.is_some() {
        // An error: it has ended.
        let _ = child.kill().await;
    }
    match (process, failure) {
        (Some((id, pidfd)), failure) => {
            let jailed = Jailed::new(id, pidfd, uid).map_err(Failure::Io)?;
            let Some(failure) = failure else { return Ok(jailed) };
            jailed.kill();
            let _ = jailed.wait().await;
            Err(failure)
        }
        (None, failure) => {
            reap_group(group).await;
            Err(failure.unwrap_or(Failure::Refused))
        }
    }
}

/// Receives a process's id and its pidfd; nothing when the jailer has ended without.
async fn receive(socket: &UnixStream) -> io::Result<Option<(u32, OwnedFd)>> {
    socket
        .async_io(Interest::READABLE, || {
            let mut message = [0; MESSAGE_LEN];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut message)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(socket, &mut parts, &mut rights, flags)?;
            let descriptors = rights.drain().filter_map(|part| match part {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            let pidfd = descriptors.flatten().next();
            let [b'p', id @ ..] = message else { return Ok(None) };
            let id = (received.bytes == MESSAGE_LEN).then(|| u32::from_le_bytes(id));
            Ok(id.zip(pidfd))
        })
        .await
}

/// Reaps what a jailer began that was killed before it could tell of it: it ends by itself then.
async fn reap_group(group: Option<u32>) {
    let Some(group) = group.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { return };
    let wait = move || rustix::process::waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED);
    // As a rule there is no such process.
    let _ = tokio::task::spawn_blocking(wait).await;
}
