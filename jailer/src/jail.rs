//! Outside of the jail: everything that needs the host, and the clone into the new namespaces.
//!
//! ```text
//!   jailer                              the copy, in its namespaces       whoever started the jailer
//!     clone3 ---------------------------> waits
//!     pidfd --------------------------------------------------------------> reaps it from here on
//!     uid_map, gid_map
//!     Mapped ---------------------------> ids, root, limits, ...
//!                                         PR_SET_PDEATHSIG
//!     is the parent still there? <------- Settled
//!     Go -------------------------------> execveat
//!     ends <----------------------------- (end of file)
//! ```
//! At every step the end of the jailer is the end of the copy, and later the parent's is: nothing is left on any path.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use crate::inside::{self, Inside};
use crate::spec::JailSpec;
use crate::system::{self, Cloned};

/// How the making of a jail ended well, or in the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The program runs.
    Made,
    /// The jail can be made.
    Checked,
    /// It cannot be made; the process in it has said why.
    Reported,
}

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Nobody may give a process another user.
    #[error(
        "neither root nor CAP_SETUID and CAP_SETGID: a process cannot be given a user of its own"
    )]
    NotAllowed,
    /// The program would be able to signal whoever made it.
    #[error("user and group of the jail are the jailer's own")]
    OwnId,
    /// A descriptor that should have been inherited, or should not.
    #[error("fd:{fd} is {state}")]
    Descriptor {
        /// Which.
        fd: RawFd,
        /// What it is.
        state: &'static str,
    },
    /// Whoever started the jailer is gone.
    #[error("process {0} is not the parent")]
    ParentGone(u32),
    /// What the kernel refused.
    #[error("cannot {act}")]
    Refused {
        /// What was being done.
        act: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Has `map_err` say what was being done.
pub(crate) fn refused<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError::Refused { act, source: source.into() }
}

/// What is said between the jailer and its copy: packets of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The copy's user and group have their numbers.
    Mapped = b'm' as isize,
    /// The copy is killed with its parent from now on.
    Settled = b's' as isize,
    /// The parent was there then.
    Go = b'g' as isize,
    /// The copy has failed and said why.
    Failed = b'f' as isize,
}

pub(crate) fn say(socket: &OwnedFd, word: Word) -> io::Result<()> {
    rustix::net::send(socket, &[word as u8], SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next word; nothing when the other end is gone.
pub(crate) fn hear(socket: &OwnedFd) -> io::Result<Option<u8>> {
    let mut byte = [0];
    loop {
        match rustix::net::recv(socket, &mut byte[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((0, _)) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the jail and executes the program in it. Returns twice if that fails in the jail, each in a process of its own.
///
/// # Errors
/// [`JailError`]; what was begun ends by itself then.
pub fn make(spec: &JailSpec) -> Result<Ended, JailError> {
    let capabilities = rustix::thread::capabilities(None).map_err(refused("read capabilities"))?;
    if !capabilities.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        return Err(JailError::NotAllowed);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if spec.uid == uid.as_raw() || spec.gid == gid.as_raw() {
        return Err(JailError::OwnId);
    }
    end_with_parent(spec)?;
    let own = Own::take(spec)?;
    let (outside, inside) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(refused("make a pair of sockets"))?;
    // Who may not look for another network namespace in the jail is put into the right one here.
    let mut namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    match &own.netns {
        Some(netns) => rustix::thread::move_into_link_name_space(
            netns.as_fd(),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(refused("enter the network namespace"))?,
        None => namespaces |= libc::CLONE_NEWNET,
    }
    // In the user namespace nobody may any more, and the groups of whoever started this would stay.
    rustix::thread::set_thread_groups(&[]).map_err(refused("leave all other groups"))?;
    let cgroup = own.cgroup.as_ref().map(OwnedFd::as_fd);
    let is_check = spec.program.is_none();
    let cloned = system::clone_into(namespaces, cgroup, !is_check);
    match cloned.map_err(refused("make the namespaces"))? {
        Cloned::Copy => {
            drop((outside, own.cgroup, own.netns, own.socket));
            let inside = Inside { spec, program: own.program, outside: inside };
            Ok(inside::enter(inside))
        }
        Cloned::Caller { pid, pidfd } => {
            drop(inside);
            if let Some(socket) = &own.socket {
                send_pidfd(socket, pid, pidfd.as_fd()).map_err(refused("send the pidfd"))?;
            }
            accompany(spec, pid, &outside)?;
            if is_check { checked(&pidfd) } else { made(&outside) }
        }
    }
}

/// Has the kernel kill this process with its parent.
fn end_with_parent(spec: &JailSpec) -> Result<(), JailError> {
    let Some(parent) = spec.parent else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(refused("be killed with the parent"))?;
    is_parent(parent)
}

fn is_parent(parent: u32) -> Result<(), JailError> {
    match std::os::unix::process::parent_id() == parent {
        true => Ok(()),
        false => Err(JailError::ParentGone(parent)),
    }
}

/// The jailer's own descriptors.
struct Own {
    program: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
    netns: Option<OwnedFd>,
    socket: Option<OwnedFd>,
}

impl Own {
    /// Takes over what was inherited, and opens what is the program's to have.
    fn take(spec: &JailSpec) -> Result<Self, JailError> {
        let devices = [("/dev/kvm", spec.kvm), ("/dev/userfaultfd", spec.userfaultfd)]
            .map(|(path, at)| at.map(|at| (path, at)));
        for (_, at) in devices.iter().flatten() {
            if system::is_open(*at) {
                return Err(JailError::Descriptor { fd: *at, state: "open already" });
            }
        }
        for fd in spec.keep.clone().into_iter().flatten() {
            if !system::is_open(fd) {
                return Err(JailError::Descriptor { fd, state: "not open" });
            }
        }
        let adopt = |fd: Option<RawFd>| {
            let adopted = fd.map(|fd| {
                system::adopt(fd).map_err(|_| JailError::Descriptor { fd, state: "not open" })
            });
            adopted.transpose()
        };
        let own = Self {
            program: adopt(spec.program)?,
            cgroup: adopt(spec.cgroup)?,
            netns: adopt(spec.netns)?,
            socket: adopt(spec.socket)?,
        };
        // Before anything else is opened, which could take their numbers.
        for (path, at) in devices.into_iter().flatten() {
            let act = if path == "/dev/kvm" { "open /dev/kvm" } else { "open /dev/userfaultfd" };
            let opened = OpenOptions::new().read(true).write(true).open(path);
            system::place(opened.map_err(refused(act))?.into(), at).map_err(refused(act))?;
        }
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open("/dev/null");
        let null: File = null.map_err(refused("open /dev/null"))?;
        rustix::stdio::dup2_stdin(&null).map_err(refused("replace standard input"))?;
        rustix::stdio::dup2_stdout(&null).map_err(refused("replace standard output"))?;
        Ok(own)
    }
}

fn send_pidfd(socket: &OwnedFd, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [pidfd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    rights.push(SendAncillaryMessage::ScmRights(&descriptors));
    let [a, b, c, d] = pid.to_le_bytes();
    let message = [b'p', a, b, c, d];
    rustix::net::sendmsg(socket, &[io::IoSlice::new(&message)], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Gives the copy its user and group, and has it go on if there is still somebody whose end would be its own.
fn accompany(spec: &JailSpec, pid: i32, outside: &OwnedFd) -> Result<(), JailError> {
    let write = |file: &str, text: &str| fs::write(format!("/proc/{pid}/{file}"), text);
    let (uid, gid) = (spec.uid, spec.gid);
    write("setgroups", "deny").map_err(refused("forbid other groups"))?;
    write("uid_map", &format!("{uid} {uid} 1")).map_err(refused("map the user"))?;
    write("gid_map", &format!("{gid} {gid} 1")).map_err(refused("map the group"))?;
    let talk = refused::<io::Error>;
    say(outside, Word::Mapped).map_err(talk("talk to the jail"))?;
    if hear(outside).map_err(talk("talk to the jail"))? != Some(Word::Settled as u8) {
        // It has failed; how, is heard by who comes next.
        return Ok(());
    }
    spec.parent.map_or(Ok(()), is_parent)?;
    say(outside, Word::Go).map_err(talk("talk to the jail"))
}

/// Waits until the copy is another program: then its end of the socket is closed.
fn made(outside: &OwnedFd) -> Result<Ended, JailError> {
    match hear(outside).map_err(refused("talk to the jail"))? {
        None => Ok(Ended::Made),
        Some(_) => Ok(Ended::Reported),
    }
}

/// Waits for the copy's end.
fn checked(pidfd: &OwnedFd) -> Result<Ended, JailError> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
    let status = status.map_err(refused("wait for the jail"))?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(Ended::Checked),
        _ => Ok(Ended::Reported),
    }
}
