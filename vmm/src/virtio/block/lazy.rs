//! Disks whose bytes come when they are first read: a table says which chunks are there, and a server is asked for the rest.
//!
//! The disk's file is as long as the image and holds a chunk only once the table's byte for it is 1; the server writes the
//! chunk, then the byte, then its answer. A read of chunks that are all there looks at their bytes and nothing else. Any other
//! is put aside, and the queue goes on.
//!
//! ```text
//!  a read --- all chunks there ----------------------------------------------> served
//!    |                                                                           ^
//!    +--- put aside, its absent chunks asked for, each once --- all there now ---+
//!                             |
//!                             +--- one of them failed, the time is up, the server is gone ---> I/O error
//! ```
//!
//! A guest could read everything at once, over and over: a driver has at most as many requests aside as its queue has
//! descriptors, at most [`IN_FLIGHT_MAX`] chunks are asked for at a time, and no chunk twice. The server is trusted with what the
//! disk holds, and with nothing else: whatever it sends that is no answer to what it was asked ends the talk with it, after
//! which the chunks that are there are served on and the others are I/O errors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
use vmm_sys_util::epoll::EventSet;

use super::{BlockError, Pass, Request, log};
use crate::memory;
use crate::virtio::Nonsense;
use crate::virtio::watch::Watch;

#[cfg(test)]
pub(super) mod tests;

/// Bytes of a chunk; the last one of a disk may be shorter.
pub const CHUNK_BYTES: u64 = 512 << 10;
/// Chunks that the server is asked for at a time: 32 MiB that it may have to hold.
pub const IN_FLIGHT_MAX: usize = 64;

/// Bytes of a page, as the table of reads counts.
pub const PAGE_BYTES: u64 = 4096;

/// What the table holds for a chunk that is there.
const PRESENT: u8 = 1;
/// What the table of reads holds for a page that was read.
const READ: u8 = 1;
/// An answer: the chunk's index and a status, 32 bits each, little-endian.
const ANSWER_BYTES: usize = 8;
/// Event data of the server's socket.
const SERVER: u64 = 0;

/// What makes a disk lazy.
#[derive(Debug)]
pub struct LazySpec {
    /// A byte for each chunk of the disk: 1 once the chunk is there, for ever. It must keep its length.
    pub presence: File,
    /// A connected Unix socket, of streams or packets, on which chunks are asked for.
    pub requests: UnixStream,
    /// A byte for each page of the disk, set to 1 once the guest has read it. It must keep its length.
    pub reads: Option<File>,
    /// How long a read may wait for its chunks.
    pub timeout: Duration,
}

/// The state of a lazy disk.
#[derive(Debug)]
pub(super) struct Lazy {
    presence: Presence,
    reads: Option<Reads>,
    /// Gone once it broke the rules or hung up.
    server: Option<Server>,
    /// Chunks that the server was asked for and has not answered for. They outlive a reset: the answers come all the same.
    in_flight: Vec<u64>,
    /// Requests that are aside, in the order of their deadlines.
    waiting: Vec<Waiting>,
    timeout: Duration,
}

/// A request that is aside.
#[derive(Debug)]
struct Waiting {
    head: u16,
    /// Its chunks from the first on that may be absent.
    chunks: Range<u64>,
    /// All of `chunks` before this one are there or in flight.
    next: u64,
    deadline: Instant,
    /// One of its chunks will not come.
    failed: bool,
}

/// The table of chunks. It stays mapped for as long as the process lives: no filter lets anybody unmap it.
#[derive(Debug)]
pub(super) struct Presence(ManuallyDrop<MmapRegion<()>>);

/// The table of pages that were read, which stays mapped as well.
#[derive(Debug)]
struct Reads(ManuallyDrop<MmapRegion<()>>);

/// The other end of the socket.
#[derive(Debug)]
struct Server {
    /// It is used as a file: `read` and `write` are in every filter.
    socket: File,
    /// The answer that is coming in, and how much of it is here.
    answer: [u8; ANSWER_BYTES],
    received: usize,
}

impl Lazy {
    /// For a disk whose file has `disk_bytes` bytes.
    pub(super) fn new(
        serial: &str,
        disk_bytes: u64,
        spec: LazySpec,
        watch: &Watch,
    ) -> Result<Self, BlockError> {
        let presence = Presence::new(serial, disk_bytes, spec.presence)?;
        let reads = spec.reads.map(|file| Reads::new(serial, disk_bytes, file)).transpose()?;
        let requests = |source| BlockError::Requests { serial: serial.to_owned(), source };
        spec.requests.set_nonblocking(true).map_err(requests)?;
        let socket = File::from(OwnedFd::from(spec.requests));
        let mut lazy = Lazy {
            presence,
            reads,
            server: Some(Server { socket, answer: [0; ANSWER_BYTES], received: 0 }),
            in_flight: Vec::with_capacity(IN_FLIGHT_MAX),
            waiting: Vec::new(),
            timeout: spec.timeout,
        };
        // Nothing is there, unless the server has left or breaks the rules. A socket without any peer says so.
        match lazy.server.as_mut().map(Server::receive) {
            Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                lazy.hang_up(watch, format_args!("{error}"));
            }
            Some(Err(source)) => return Err(requests(source)),
            Some(Ok(Some((chunk, status)))) => lazy.take(chunk, status, watch),
            Some(Ok(None)) | None => {}
        }
        Ok(lazy)
    }

    /// A driver is there: listens to the server.
    pub(super) fn start(&self, watch: &Watch) {
        if let Some(server) = &self.server {
            // It was not watched so far; what came meanwhile is reported now.
            let _ = watch.add(&server.socket, SERVER, EventSet::IN);
        }
    }

    /// No driver is there: forgets what it asked for, and is quiet.
    pub(super) fn stop(&mut self, watch: &Watch) {
        self.waiting.clear();
        if let Some(server) = &self.server {
            watch.remove(&server.socket);
        }
    }

    /// Whether the request that begins at `head` may be served, seen for the first time. [`Pass::Later`] puts it aside.
    pub(super) fn admit(&mut self, head: u16, request: &Request) -> Pass {
        if let Some(reads) = &self.reads {
            reads.note(request);
        }
        let Some(chunks) = self.presence.lacks(request) else { return Pass::Now };
        if self.server.is_none() {
            return Pass::Never;
        }
        // So no more wait than the queue has descriptors.
        if self.waiting.iter().any(|waiting| waiting.head == head) {
            return Pass::Refused(Nonsense::Twice);
        }
        let now = Instant::now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now);
        self.waiting.push(Waiting { head, next: chunks.start, chunks, deadline, failed: false });
        Pass::Later
    }

    /// Takes the server's answers, at most as many as it owes.
    pub(super) fn listen(&mut self, watch: &Watch) {
        while let Some(server) = &mut self.server {
            match server.receive() {
                Ok(Some((chunk, status))) => self.take(chunk, status, watch),
                Ok(None) => return,
                Err(error) => self.hang_up(watch, format_args!("{error}")),
            }
        }
    }

    fn take(&mut self, chunk: u64, status: u32, watch: &Watch) {
        let Some(place) = self.in_flight.iter().position(|asked| *asked == chunk) else {
            let why = format_args!("an answer for chunk {chunk}, which it was not asked");
            return self.hang_up(watch, why);
        };
        self.in_flight.swap_remove(place);
        if status == 0 && self.presence.holds(chunk) {
            return;
        }
        for waiting in &mut self.waiting {
            waiting.failed |= waiting.chunks.contains(&chunk);
        }
    }

    /// Asks for the absent chunks of the requests that are aside, the oldest first.
    pub(super) fn ask(&mut self, watch: &Watch) {
        let Lazy { presence, server: Some(server), in_flight, waiting, .. } = self else { return };
        for waiting in waiting {
            waiting.next = waiting.next.max(waiting.chunks.start);
            while waiting.next < waiting.chunks.end {
                let chunk = waiting.next;
                if !presence.holds(chunk) && !in_flight.contains(&chunk) {
                    if in_flight.len() >= IN_FLIGHT_MAX {
                        return;
                    }
                    match server.ask(chunk) {
                        Ok(()) => in_flight.push(chunk),
                        // It does not read: the rest waits its turn.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                        Err(error) => return self.hang_up(watch, format_args!("{error}")),
                    }
                }
                waiting.next = chunk.saturating_add(1);
            }
        }
    }

    /// Calls `done` for each request that needs to wait no longer, with its head and whether its chunks are there. When the
    /// first of the others may wait no longer.
    pub(super) fn settle(&mut self, mut done: impl FnMut(&Presence, u16, bool)) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        let now = Instant::now();
        let Lazy { presence, server, waiting, .. } = self;
        waiting.retain_mut(|waiting| {
            waiting.chunks.start = presence.absent(waiting.chunks.clone()).start;
            let there = waiting.chunks.is_empty();
            let over = waiting.failed || server.is_none() || waiting.deadline <= now;
            if there || over {
                done(presence, waiting.head, there);
            }
            !there && !over
        });
        waiting.first().map(|first| first.deadline)
    }

    /// The server is of no use any more. Dropping its socket is all that is needed to be rid of its events.
    fn hang_up(&mut self, watch: &Watch, why: std::fmt::Arguments<'_>) {
        if let Some(server) = self.server.take() {
            watch.remove(&server.socket);
            self.in_flight.clear();
            log(format_args!("block: chunks that are absent are errors from now on: {why}"));
        }
    }
}

/// Maps a table that has a byte for each of `entries`.
fn map_table(
    serial: &str,
    table: &'static str,
    file: File,
    entries: u64,
    protection: libc::c_int,
) -> Result<ManuallyDrop<MmapRegion<()>>, BlockError> {
    let serial = || serial.to_owned();
    let failed = |source| BlockError::TableMap { serial: serial(), table, source };
    let bytes = memory::size(&file).map_err(failed)?;
    // An index has 32 bits on the socket.
    if bytes != entries || u32::try_from(entries).is_err() {
        return Err(BlockError::Table { serial: serial(), table, bytes, entries });
    }
    let len = usize::try_from(entries).unwrap_or(usize::MAX);
    let from = FileOffset::new(file, 0);
    MmapRegion::build(Some(from), len, protection, libc::MAP_SHARED)
        .map(ManuallyDrop::new)
        .map_err(|error| failed(io::Error::other(error)))
}

impl Reads {
    fn new(serial: &str, disk_bytes: u64, file: File) -> Result<Self, BlockError> {
        let pages = disk_bytes.div_ceil(PAGE_BYTES);
        map_table(serial, "reads", file, pages, libc::PROT_READ | libc::PROT_WRITE).map(Reads)
    }

    /// Notes the pages that a request reads. It lies within the disk, so the table bounds the loop.
    fn note(&self, request: &Request) {
        let Request::Read { offset, bytes: bytes @ 1.. } = *request else { return };
        let table = self.0.as_volatile_slice();
        for page in offset / PAGE_BYTES..offset.saturating_add(bytes).div_ceil(PAGE_BYTES) {
            let at = usize::try_from(page).unwrap_or(usize::MAX);
            if table.store(READ, at, Ordering::Relaxed).is_err() {
                return;
            }
        }
    }
}

impl Presence {
    fn new(serial: &str, disk_bytes: u64, file: File) -> Result<Self, BlockError> {
        let chunks = disk_bytes.div_ceil(CHUNK_BYTES);
        map_table(serial, "presence", file, chunks, libc::PROT_READ).map(Presence)
    }

    /// Whether a chunk is there. What the server wrote before it said so is seen by whoever reads the disk afterwards.
    fn holds(&self, chunk: u64) -> bool {
        let at = usize::try_from(chunk).unwrap_or(usize::MAX);
        let byte = self.0.as_volatile_slice().load::<u8>(at, Ordering::Acquire);
        byte.is_ok_and(|byte| byte == PRESENT)
    }

    /// The chunks that a request needs, from the first absent one on; `None` if none is absent.
    pub(super) fn lacks(&self, request: &Request) -> Option<Range<u64>> {
        let Request::Read { offset, bytes: bytes @ 1.. } = *request else { return None };
        let end = offset.saturating_add(bytes).div_ceil(CHUNK_BYTES);
        let chunks = self.absent(offset / CHUNK_BYTES..end);
        (!chunks.is_empty()).then_some(chunks)
    }

    /// `chunks` from the first absent one on.
    fn absent(&self, chunks: Range<u64>) -> Range<u64> {
        let first = chunks.clone().find(|chunk| !self.holds(*chunk));
        first.unwrap_or(chunks.end)..chunks.end
    }
}

impl Server {
    fn ask(&mut self, chunk: u64) -> io::Result<()> {
        // The table has no more bytes than an index can say.
        let index = u32::try_from(chunk).map_err(io::Error::other)?.to_le_bytes();
        match self.socket.write(&index) {
            Ok(sent) if sent == index.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    /// The next answer: chunk and status. `None`: there is no whole one yet.
    fn receive(&mut self) -> io::Result<Option<(u64, u32)>> {
        while let Some(rest) = self.answer.get_mut(self.received..).filter(|rest| !rest.is_empty())
        {
            match self.socket.read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received = self.received.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.received = 0;
        let [c0, c1, c2, c3, status @ ..] = self.answer;
        let chunk = u64::from(u32::from_le_bytes([c0, c1, c2, c3]));
        Ok(Some((chunk, u32::from_le_bytes(status))))
    }
}
