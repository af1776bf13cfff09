//! Files given by path or as inherited descriptors (`fd:N`).
#![expect(unsafe_code, reason = "taking over an inherited descriptor")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Descriptors that there is room for from the start: more than 32 vCPUs, 8 disks and some dozen connections need.
const ROOM: libc::c_int = 256;

/// A file that has not been opened: a path, or the number of an inherited descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileRef {
    /// A path on the host.
    Path(PathBuf),
    /// An inherited descriptor.
    Fd(RawFd),
}

/// How a file is opened: never waiting, for a FIFO's other end for example, and no read or write of it waits but for storage.
/// An inherited descriptor is taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
    /// For writing, not made when it does not exist.
    Write,
    /// For appending, made when it does not exist.
    Append,
}

impl FileRef {
    /// Opens the path, or takes over the descriptor.
    ///
    /// Must be called at most once for each descriptor; the validated spec names each only once.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(&self, access: Access) -> io::Result<File> {
        self.open_from(access, &mut Descriptors::Inherited)
    }

    /// As [`FileRef::open`], with the descriptors that its numbers mean.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open_from(&self, access: Access, from: &mut Descriptors) -> io::Result<File> {
        match self {
            Self::Path(path) => {
                let mut options = OpenOptions::new();
                match access {
                    Access::Read => options.read(true),
                    Access::ReadWrite => options.read(true).write(true),
                    Access::Write => options.write(true),
                    Access::Append => options.append(true).create(true),
                };
                options.custom_flags(libc::O_NONBLOCK);
                options.open(path)
            }
            Self::Fd(fd) => from.take(*fd),
        }
    }
}

/// What a descriptor's number means.
#[derive(Debug)]
pub enum Descriptors {
    /// What this process was started with.
    Inherited,
    /// What came with an assignment, from 0.
    Received(Vec<Option<OwnedFd>>),
}

impl Descriptors {
    /// Takes over descriptor `fd`, which is named once.
    ///
    /// # Errors
    /// `EBADF` when it is not open.
    pub fn take(&mut self, fd: RawFd) -> io::Result<File> {
        match self {
            Self::Inherited => adopt(fd),
            Self::Received(all) => {
                let place = usize::try_from(fd).ok().and_then(|at| all.get_mut(at));
                let taken = place.and_then(Option::take).map(File::from);
                taken.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
            }
        }
    }
}

/// Opens `/dev/null` wherever a standard stream is closed, so that no other file gets its number, and what is meant for the stream.
///
/// # Errors
/// The operating system's.
pub fn fill_standard_streams() -> io::Result<()> {
    for stream in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        if !is_open(stream) {
            // Under the lowest number that is free, which is this one.
            let _ = File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
        }
    }
    Ok(())
}

/// Whether a descriptor is open; the last error says `EBADF` otherwise.
fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a number that is no open descriptor gives EBADF.
    (unsafe { libc::fcntl(fd, libc::F_GETFD) }) >= 0
}

/// Takes over the inherited descriptor `fd`, once it is known to be open.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn adopt(fd: RawFd) -> io::Result<File> {
    if !is_open(fd) {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the validated spec names each descriptor once, none of
    // them a standard stream, so that nothing else in this process owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes no read or write of a file wait, for none of its owners.
///
/// # Errors
/// The operating system's.
pub fn without_waiting(file: File) -> io::Result<File> {
    let set: libc::c_int = 1;
    // SAFETY: the call reads one number of ours.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONBIO, &raw const set) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes room for descriptors while this process has one thread. Later, each doubling of their table beyond 64 would wait for
/// all threads of all processors to pass through the scheduler, tens of milliseconds at worst.
pub fn make_room() {
    // SAFETY: F_DUPFD_CLOEXEC takes no pointer. Without standard error or with a low limit there is no such descriptor, and
    // no room either, which costs time at most.
    let highest = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, ROOM - 1) };
    if highest >= 0 {
        // SAFETY: the descriptor is the one just made, and nobody else's.
        drop(unsafe { File::from_raw_fd(highest) });
    }
}

impl fmt::Display for FileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}
