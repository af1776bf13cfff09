//! The system calls that no safe interface has. Everything here is called while the process has one thread.
#![expect(unsafe_code, reason = "clone3, execveat, close_range and inherited descriptors")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::thread::UnshareFlags;

/// Opens `/dev/null` wherever a standard stream is closed, so that no other file gets its number; a write to a stream that nobody
/// reads any more becomes an error.
///
/// # Errors
/// The operating system's.
pub fn prepare_streams() -> io::Result<()> {
    for stream in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        if !is_open(stream) {
            // Under the lowest number that is free, which is this one.
            let _ = File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
        }
    }
    // SAFETY: to ignore a signal needs no handler.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Which of the two a process is after [`clone_into`].
pub(crate) enum Cloned {
    /// The one that called, with the other's id and pidfd.
    Caller { pid: i32, pidfd: OwnedFd },
    /// The new one.
    Copy,
}

/// Clones this process, with copies of its memory and its descriptors, into new namespaces and a control group.
///
/// `as_sibling` makes the copy a child of this process's parent.
///
/// # Errors
/// The operating system's.
pub(crate) fn clone_into(
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    as_sibling: bool,
) -> io::Result<Cloned> {
    let widened = |flags: libc::c_int| u64::from(flags.cast_unsigned());
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the arguments of clone3 are numbers, for which zero is a value, and means nothing.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = widened(namespaces | libc::CLONE_PIDFD);
    // The kernel writes it through the number.
    arguments.pidfd = ptr::from_mut(&mut pidfd).expose_provenance() as u64;
    if as_sibling {
        // The signal at its end is the one that this process's parent gets for this process.
        arguments.flags |= widened(libc::CLONE_PARENT);
    } else {
        arguments.exit_signal = widened(libc::SIGCHLD);
    }
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: the structure is as long as said and lives over the call; `pidfd` does so too and is written by the kernel only. Without
    // CLONE_VM the copy has memory of its own and goes on behind the call as after fork(2), in a process of one thread.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut arguments), size) };
    match i32::try_from(result) {
        Ok(0) => Ok(Cloned::Copy),
        Ok(pid @ 1..) => {
            // SAFETY: the kernel has just opened it for this process, where nobody else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Caller { pid, pidfd })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Linux 5.7; of 64 bits, unlike the other flags.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Replaces this process's program by an opened one, with an empty environment. Returns only if that failed.
pub(crate) fn execute(program: BorrowedFd<'_>, arguments: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|it| it.as_ptr()).collect();
    pointers.push(ptr::null());
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: the path is a string of C; both lists end with a null pointer, and what they point to lives over the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            pointers.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Closes every descriptor but `kept`, which is in rising order.
///
/// # Errors
/// The operating system's.
pub(crate) fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut first: libc::c_uint = 0;
    for fd in kept.iter().map(|fd| fd.cast_unsigned()) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointers. Whoever still holds one of these descriptors here never uses it again: the process becomes another
    // program, or ends.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a descriptor is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a number that is no open descriptor gives EBADF.
    (unsafe { libc::fcntl(fd, libc::F_GETFD) }) >= 0
}

/// Takes over an inherited descriptor, which no program that is executed inherits.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_SETFD takes no pointer; a number that is no open descriptor gives EBADF.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the spec names each descriptor once and no standard stream, so that nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Moves a file to descriptor `at`, which is not open, for the program that is executed.
///
/// # Errors
/// The operating system's.
pub(crate) fn place(file: OwnedFd, at: RawFd) -> io::Result<()> {
    if file.as_raw_fd() == at {
        let fd = file.into_raw_fd();
        // SAFETY: F_SETFD takes no pointer.
        let set = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        return if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    // SAFETY: `at` was not open, so that nobody's descriptor is replaced.
    let placed = unsafe { libc::dup2(file.as_raw_fd(), at) };
    if placed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this process's control group the root of those that it sees.
///
/// # Errors
/// The operating system's.
pub(crate) fn hide_other_cgroups() -> io::Result<()> {
    // SAFETY: of all that can be unshared, only the table of descriptors would matter to others' use of them.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }?)
}

/// Leaves the keyring of whoever started this process for an empty one.
///
/// # Errors
/// The operating system's; a kernel without keyrings has nothing to leave.
pub(crate) fn leave_keyring() -> io::Result<()> {
    /// linux/keyctl.h
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name makes an anonymous keyring; nothing is read through it.
    let joined = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    };
    match io::Error::last_os_error() {
        error if joined < 0 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}
