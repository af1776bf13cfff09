//! The host's side of a microVM's vsock device: an echo, a sink, a place for reports, each a Unix socket.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use votive_hostile_guest::layout::{PORT_ECHO, PORT_REPORT, PORT_SINK};

use crate::process::Usage;
use crate::subject::{Files, Sockets};

/// Streams that the sink keeps open; of more, the oldest is closed.
const SINK_MAX: usize = 300;
/// Stack of a thread that serves one stream, in bytes.
const STACK_BYTES: usize = 128 << 10;
/// How long a stream may be silent before its thread gives it up.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Longest frame that comes back, in bytes with its header.
const FRAME_BYTES_MAX: usize = 4096;
/// Where destination and source are in a frame behind its header of 12 bytes.
const ADDRESSES: std::ops::Range<usize> = 12..24;
/// Where echoes come from.
const ECHO_MAC: [u8; 6] = [6, 0, 0, 0, 0, 2];

/// What a guest found, as it said itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Facts that hold.
    pub held: u32,
    /// Facts that do not.
    pub failed: u32,
    /// Facts that a VMM can be safe without, and that do not hold.
    pub lax: u32,
}

#[derive(Debug, Default)]
struct Shared {
    /// The VMM's process, once there is one.
    pid: AtomicU32,
    told: Mutex<Option<(Told, Usage)>>,
    stop: AtomicBool,
}

/// The peers of one microVM; gone when dropped.
#[derive(Debug)]
pub struct Peers {
    shared: Arc<Shared>,
    listeners: Vec<(PathBuf, Option<JoinHandle<()>>)>,
}

impl Peers {
    /// Listens beside the vsock socket at `socket`.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn listen(socket: &Path) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut peers = Self { shared: Arc::clone(&shared), listeners: Vec::new() };
        let report = move |stream| take_report(&stream, &shared);
        peers.add(socket, PORT_ECHO, |stream| drop(echo(stream)))?;
        peers.add(socket, PORT_REPORT, report)?;
        let kept = Mutex::new(VecDeque::new());
        let sink = move |stream| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_back(stream);
            if kept.len() > SINK_MAX {
                kept.pop_front();
            }
        };
        peers.add(socket, PORT_SINK, sink)?;
        Ok(peers)
    }

    /// The VMM's ends of a network on which every frame comes back to its sender, and of the server of a lazy disk that has the
    /// first chunk only.
    ///
    /// # Errors
    /// No sockets, no thread, no table.
    pub fn sockets(&self, files: &Files) -> Result<Sockets> {
        let (network, tap) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        thread::Builder::new().stack_size(STACK_BYTES).spawn(move || send_back(&network))?;
        let (server, requests) = UnixStream::pair()?;
        let table = File::options().write(true).open(files.presence())?;
        let serve = move || drop(serve_chunks(&server, &table));
        thread::Builder::new().stack_size(STACK_BYTES).spawn(serve)?;
        Ok(Sockets { tap, presence: File::open(files.presence())?, requests })
    }

    /// Says which process the microVM is.
    pub fn set_process(&self, pid: u32) {
        self.shared.pid.store(pid, Ordering::Relaxed);
    }

    /// What the guest told, and what its VMM had used then.
    #[must_use]
    pub fn told(&self) -> Option<(Told, Usage)> {
        *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &mut self,
        socket: &Path,
        port: u32,
        serve: impl Fn(UnixStream) + Send + Sync + 'static,
    ) -> Result<()> {
        let path = path_of(socket, port);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("listening on {}", path.display()))?;
        let shared = Arc::clone(&self.shared);
        let serve = Arc::new(serve);
        let run = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let serve = Arc::clone(&serve);
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                // No thread left means a stream that is closed, which a guest must be able to bear.
                let _ = thread.spawn(move || serve(stream));
            }
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(run)?;
        self.listeners.push((path, Some(thread)));
        Ok(())
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for (path, thread) in &mut self.listeners {
            // Wakes the listener, which then sees that it is to stop.
            let woken = UnixStream::connect(&*path);
            if let (Ok(_), Some(thread)) = (woken, thread.take()) {
                let _ = thread.join();
            }
        }
    }
}

/// Where a guest's connections to `port` go.
#[must_use]
pub fn path_of(socket: &Path, port: u32) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(format!("_{port}"));
    PathBuf::from(path)
}

fn echo(mut stream: UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            count => stream.write_all(bytes.get(..count).unwrap_or_default())?,
        }
    }
}

/// Sends each frame back, its destination now its source, until the other end is gone. What is not taken is lost.
fn send_back(socket: &OwnedFd) {
    let mut frame = [0; FRAME_BYTES_MAX];
    while let Ok((count @ 1.., _)) = recv(socket, &mut frame[..], RecvFlags::empty()) {
        if let Some([destination @ .., _, _, _, _, _, _]) = frame.get_mut(ADDRESSES) {
            destination.copy_from_slice(&ECHO_MAC);
        }
        if let Some(addresses) = frame.get_mut(ADDRESSES) {
            addresses.rotate_left(ECHO_MAC.len());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // A guest that takes nothing loses it.
        let _ = send(socket, frame.get(..count).unwrap_or_default(), flags);
    }
}

/// Answers requests for chunks until the VMM is gone: the first is there from then on, no other ever is.
fn serve_chunks(mut server: &UnixStream, table: &File) -> std::io::Result<()> {
    let mut index = [0; 4];
    loop {
        server.read_exact(&mut index)?;
        let status = u32::from(index != [0; 4]);
        if status == 0 {
            table.write_all_at(&[1], 0)?;
        }
        server.write_all(&[index, status.to_le_bytes()].concat())?;
    }
}

/// Reads `held=N failed=M lax=L`, looks at the VMM, and lets the guest go on.
fn take_report(stream: &UnixStream, shared: &Shared) {
    let mut line = String::new();
    // A hostile guest's line has its bound, too.
    let read = BufReader::new(stream.take(64)).read_line(&mut line);
    let numbers = |name: &str| {
        let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name))?;
        word.strip_prefix('=')?.parse().ok()
    };
    let counts = (read.ok(), numbers("held"), numbers("failed"), numbers("lax"));
    if let (Some(_), Some(held), Some(failed), Some(lax)) = counts {
        let usage = Usage::of(shared.pid.load(Ordering::Relaxed)).unwrap_or_default();
        let told = Some((Told { held, failed, lax }, usage));
        *shared.told.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
    let mut stream = stream;
    // The guest waits for it, and fails a fact when it does not come.
    let _ = stream.write_all(b"!");
    // The guest's VMM closes it; closing it first would make a race of the answer.
    let _ = stream.read(&mut [0; 1]);
}
