//! userfaultfd: accesses to memory that is not there yet, whoever makes them, as events.
//!
//! The guest's accesses are made by KVM, inside the kernel; being told of those takes `CAP_SYS_PTRACE`, or
//! `/dev/userfaultfd` and the right to open it.
#![expect(unsafe_code, reason = "userfaultfd has no safe interface")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use vmm_sys_util::ioctl::{
    _IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ref, ioctl_with_val,
};

const DEVICE: &str = "/dev/userfaultfd";
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;
const TYPE: u32 = 0xaa;
const API: u64 = TYPE as u64;
const MODE_MISSING: u64 = 1;
const MESSAGE_BYTES: usize = 32;
const EVENT_PAGEFAULT: u8 = 0x12;
/// Where a page fault's message has the address.
const ADDRESS: usize = 16;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Default)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Default)]
struct Range {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Default)]
struct Registration {
    range: Range,
    mode: u64,
    ioctls: u64,
}

const USERFAULTFD_IOC_NEW: libc::c_ulong = ioctl_expr(_IOC_NONE, TYPE, 0x00, 0);
const UFFDIO_API: libc::c_ulong = both_ways::<Handshake>(0x3f);
const UFFDIO_REGISTER: libc::c_ulong = both_ways::<Registration>(0x00);
const UFFDIO_WAKE: libc::c_ulong = ioctl_expr(_IOC_READ, TYPE, 0x02, size_of::<Range>() as u32);

const fn both_ways<T>(number: u32) -> libc::c_ulong {
    ioctl_expr(_IOC_READ | _IOC_WRITE, TYPE, number, size_of::<T>() as u32)
}

/// Where accesses to missing memory are told, and those who made them are kept asleep. When it is dropped they go on, and
/// find zeroes.
#[derive(Debug)]
pub struct Userfault(File);

impl Userfault {
    /// One for this process.
    ///
    /// # Errors
    /// When the kernel has none, or this process no right to it.
    pub fn open() -> io::Result<Self> {
        Self::through_call(FLAGS).or_else(Self::through_device)?.introduced()
    }

    /// As [`Userfault::open`], by an opened /dev/userfaultfd.
    ///
    /// # Errors
    /// When it is none.
    pub fn open_by(device: &File) -> io::Result<Self> {
        Self::by_device(device)?.introduced()
    }

    /// One that is not told of accesses that the kernel makes; any process may have it.
    #[cfg(test)]
    pub(crate) fn open_for_own_accesses() -> io::Result<Self> {
        const USER_MODE_ONLY: i32 = 1;
        Self::through_call(FLAGS | USER_MODE_ONLY)?.introduced()
    }

    fn through_call(flags: i32) -> io::Result<Self> {
        // SAFETY: takes flags and gives a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(Self::adopt(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Agrees with the kernel on how to talk.
    fn introduced(self) -> io::Result<Self> {
        let mut handshake = Handshake { api: API, ..Default::default() };
        // SAFETY: the argument is what this call reads and writes.
        let done = unsafe { ioctl_with_mut_ref(&self.0, UFFDIO_API, &mut handshake) };
        succeeded(done).map(|()| self)
    }

    /// For a process that may open the device, where `refused` is what the system call said.
    fn through_device(refused: io::Error) -> io::Result<Self> {
        let Ok(device) = File::open(DEVICE) else { return Err(refused) };
        Self::by_device(&device)
    }

    fn by_device(device: &File) -> io::Result<Self> {
        // SAFETY: takes flags and gives a new descriptor.
        let fd = unsafe { ioctl_with_val(device, USERFAULTFD_IOC_NEW, FLAGS as u64) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self::adopt(fd)) }
    }

    fn adopt(fd: i32) -> Self {
        // SAFETY: the descriptor is new and nobody else's.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    /// From now on, an access to a page that is missing among the `bytes` from `host` on sleeps until it is woken.
    ///
    /// # Errors
    /// When they are not anonymous memory in whole pages.
    pub fn register(&self, host: u64, bytes: u64) -> io::Result<()> {
        let range = Range { start: host, len: bytes };
        let mut registration = Registration { range, mode: MODE_MISSING, ..Default::default() };
        // SAFETY: the argument is what this call reads and writes; memory changes only by who answers the faults.
        succeeded(unsafe { ioctl_with_mut_ref(&self.0, UFFDIO_REGISTER, &mut registration) })
    }

    /// Wakes those who sleep for one of the `bytes` from `host` on; they look again.
    ///
    /// # Errors
    /// When the range is none.
    pub fn wake(&self, host: u64, bytes: u64) -> io::Result<()> {
        let mut range = Range { start: host, len: bytes };
        // SAFETY: the argument is what this call reads.
        succeeded(unsafe { ioctl_with_mut_ref(&self.0, UFFDIO_WAKE, &mut range) })
    }

    /// Waits until there is somebody to wake.
    #[cfg(test)]
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut fd = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: the pointer is to one pollfd of our own.
            let done = succeeded(unsafe { libc::poll(&raw mut fd, 1, -1) });
            match done {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// The host address of the next access that nobody has been told of, if there is one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn next(&self) -> io::Result<Option<u64>> {
        let mut message = [0; MESSAGE_BYTES];
        match (&self.0).read(&mut message) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        if message[0] != EVENT_PAGEFAULT {
            // No other has been asked for.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let address = message[ADDRESS..].first_chunk().map(|address| u64::from_le_bytes(*address));
        address.map(Some).ok_or(io::ErrorKind::InvalidData.into())
    }
}

impl AsRawFd for Userfault {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn succeeded(done: i32) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
