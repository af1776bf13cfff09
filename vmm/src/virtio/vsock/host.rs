//! The host's side: the listening socket, sockets and descriptors that guests connect to, and the events of them all.

#![expect(
    unsafe_code,
    reason = "socket calls with flags, into memory that no reference may point to"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

use crate::virtio::watch::Watch;

/// Event data of the listening socket; connections have slot numbers.
pub(super) const LISTENER: u64 = u64::MAX;

/// Longest suffix that a port adds to the path: `_4294967295`.
const PORT_SUFFIX_BYTES: usize = 11;

/// What is always watched of a connection.
const OF_A_STREAM: EventSet =
    EventSet::IN.union(EventSet::READ_HANG_UP).union(EventSet::EDGE_TRIGGERED);

/// Why a socket device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// CIDs 0 to 2 and 2^32 - 1 have meanings of their own.
    #[error("context id {0} is reserved, allowed are 3 to 4294967294")]
    Cid(u32),
    /// With a port appended the path does not fit a socket address.
    #[error("socket path {path} is longer than {max} bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// What fits.
        max: usize,
    },
    /// The listening socket.
    #[error("listen on {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A port's stream.
    #[error("wait for nothing on the stream of port {port}")]
    Port {
        /// Which one.
        port: u32,
        /// Why not.
        source: io::Error,
    },
    /// epoll or a timer.
    #[error("watch the host's sockets")]
    Watch {
        /// Why.
        source: io::Error,
    },
}

/// A listening socket whose file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`.
    ///
    /// # Errors
    /// A path that cannot be bound (in use, too long).
    pub fn bind(path: PathBuf) -> Result<Self, VsockError> {
        let max = address_bytes_max().saturating_sub(PORT_SUFFIX_BYTES);
        if path.as_os_str().len() > max {
            return Err(VsockError::PathTooLong { path, max });
        }
        let bound = UnixListener::bind(&path)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match bound {
            Ok(socket) => Ok(Listener { socket, path }),
            Err(source) => Err(VsockError::Listen { path, source }),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // If it is gone already, somebody else took care.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Everything of the host that connections need.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) watch: Watch,
    listener: Option<Listener>,
    ports: BTreeMap<u32, UnixStream>,
}

impl Host {
    pub(super) fn new(
        listener: Option<Listener>,
        ports: Vec<(u32, OwnedFd)>,
        watch: Watch,
    ) -> Result<Self, VsockError> {
        let stream = |(port, fd)| {
            let stream = UnixStream::from(fd);
            stream.set_nonblocking(true).map_err(|source| VsockError::Port { port, source })?;
            Ok((port, stream))
        };
        let ports = ports.into_iter().map(stream).collect::<Result<_, _>>()?;
        Ok(Host { watch, listener, ports })
    }

    /// Lets host programs in. They wait in the socket's backlog until a driver is there.
    pub(super) fn open(&self) {
        if let Some(listener) = &self.listener {
            // Edge-triggered: with the table full, waiting programs must not keep the loop awake. Adding it reports
            // those that wait already. It fails only if it is added already.
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let _ = self.watch.add(&listener.socket, LISTENER, events);
        }
    }

    /// Lets no more host programs in and stops the timer.
    pub(super) fn close(&mut self) {
        if let Some(listener) = &self.listener {
            self.watch.remove(&listener.socket);
        }
        self.watch.disarm();
    }

    /// The next host program that wants in. `None`: there is none now.
    pub(super) fn accept(&self) -> Option<UnixStream> {
        let listener = self.listener.as_ref()?;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: nobody asks for the address; the descriptor is open.
        let fd =
            unsafe { libc::accept4(listener.socket.as_raw_fd(), null_mut(), null_mut(), flags) };
        // SAFETY: a descriptor that is new and nobody else's.
        (fd >= 0).then(|| UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What the guest reaches at `port`.
    pub(super) fn connect(&mut self, port: u32) -> io::Result<UnixStream> {
        if let Some(stream) = self.ports.remove(&port) {
            return Ok(stream);
        }
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut path = OsString::from(&listener.path);
        path.push(format!("_{port}"));
        connect(Path::new(&path))
    }

    /// Watches a connection for everything that can happen to it, each reported once; but see [`Host::watch_room`].
    pub(super) fn watch_stream(&self, stream: &UnixStream, data: u64) -> io::Result<()> {
        self.watch.add(stream, data, OF_A_STREAM)
    }

    /// Also watches a connection for room to write, or no longer: there is some each time that its reader takes something,
    /// which is of interest only after there was none. Room that is there already is reported.
    pub(super) fn watch_room(&self, stream: &UnixStream, data: u64, room: bool) -> io::Result<()> {
        let events = if room { OF_A_STREAM | EventSet::OUT } else { OF_A_STREAM };
        self.watch.change(stream, data, events)
    }
}

/// Bytes of a path in a socket address, less the final zero.
fn address_bytes_max() -> usize {
    // SAFETY: all-zero bytes are a valid `sockaddr_un`.
    let address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_path.len().saturating_sub(1)
}

/// Connects without waiting: a listener with a full backlog refuses (`EAGAIN`), which std's blocking connect would wait out.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero bytes are a valid `sockaddr_un`.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() > address_bytes_max() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or_default();
    // SAFETY: `address` is a live `sockaddr_un` of `len` bytes, its path ended by a zero; the descriptor is open.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
    match result {
        0 => Ok(UnixStream::from(socket)),
        _ => Err(io::Error::last_os_error()),
    }
}

// Every stream here waits for nothing: it was made so when it came. `SIGPIPE` is ignored. So
// `read` and `write` will do, which are in the filter anyway.

/// Reads one byte from `stream`. `None`: its end.
pub(super) fn receive_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    let mut byte = 0_u8;
    // SAFETY: the pointer is to a byte of our own; the descriptor is open.
    let got = unsafe { libc::read(stream.as_raw_fd(), (&raw mut byte).cast(), 1) };
    match usize::try_from(got) {
        Ok(got) => Ok((got > 0).then_some(byte)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Reads from `stream` into guest RAM. 0 is the end of the stream.
pub(super) fn receive(stream: &UnixStream, into: &VolatileSlice<'_, ()>) -> io::Result<usize> {
    let guard = into.ptr_guard_mut();
    // SAFETY: the slice covers guest RAM that stays mapped while it is borrowed; the kernel writes there, and no reference to
    // guest RAM exists anywhere. The descriptor is open.
    let got = unsafe { libc::read(stream.as_raw_fd(), guard.as_ptr().cast(), into.len()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Writes guest RAM to `stream`, as much as it takes.
pub(super) fn send(stream: &UnixStream, from: &VolatileSlice<'_, ()>) -> io::Result<usize> {
    let guard = from.ptr_guard();
    // SAFETY: as for `receive`, with the kernel only reading guest RAM.
    let sent = unsafe { libc::write(stream.as_raw_fd(), guard.as_ptr().cast(), from.len()) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Writes bytes to `stream`, as many as it takes.
pub(super) fn send_bytes(stream: &UnixStream, from: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a live slice; the descriptor is open.
    let sent = unsafe { libc::write(stream.as_raw_fd(), from.as_ptr().cast(), from.len()) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
