//! Bodies of the fuzz targets: a driver, and for sockets host programs, that do what the bytes say.
//!
//! Each reads its input as a script of small steps, legal and illegal ones, and panics on a finding: a device that panics, does
//! not come to rest, gives back what it was not given, or does not work after a proper reset. Ordinary tests replay inputs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::block::{
    Block, BlockSpec, CHUNK_BYTES, EncryptedSpec, IN_FLIGHT_MAX, LazySpec, PAGE_BYTES, SECTOR_BYTES,
};
use super::driver::{
    Buffer, DATA, GuestDriver, HIGH, REGION_BYTES, TURNS_MAX, ram, readable, writable,
};
use super::rng::Rng;
use super::vsock::{Vsock, VsockSpec};
use super::{VirtioDevice, Wake};

mod net;
#[cfg(test)]
mod tests;

pub use self::net::net;

/// Features of every proper start.
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
/// Sectors of the fuzzed disk.
const SECTORS: u64 = 64;
/// Chunks of a lazy one.
const CHUNKS: u64 = SECTORS / 8;
/// Its pages.
const PAGES: u64 = SECTORS * SECTOR_BYTES / PAGE_BYTES;
/// Where a well-formed request of the final check lies.
const CHECK_AT: u64 = HIGH + 0x1000;
const GUEST_CID: u32 = 3;
/// Host programs that fit the socket's backlog if the device lets none of them in: connecting to a full one would wait.
const DIALLED_MAX: usize = 100;

/// Register accesses in any order and size, on a device with three queues.
pub fn mmio(data: &[u8]) {
    let mut script = Script(data);
    let Some(mut driver) = vsock_driver(Vec::new(), None) else { return };
    while !script.is_empty() {
        let at = match script.byte() % 4 {
            0 => u64::from(script.byte()) & !3,
            1 => u64::from(script.byte()),
            2 => u64::from(script.word()),
            _ => STATUS,
        };
        let value = match script.byte() % 4 {
            0 => u32::from(script.byte() & 0xf),
            1 => script.double(),
            2 => 0,
            _ => driver.get(at).wrapping_add(1),
        };
        match script.byte() % 8 {
            0 => driver.device().read(at, &mut [0; 8]),
            1 => driver.device().write(at, script.bytes(8)),
            2 => drop(driver.get(at)),
            3 => drop(driver.start(VERSION_1 | u64::from(script.double()))),
            _ => driver.set(at, value),
        }
        rest(&driver);
    }
    assert!(driver.start(VERSION_1), "a proper start must work");
    rest(&driver);
}

/// The entropy device.
pub fn rng(data: &[u8]) {
    let Some(mut driver) = driver_for(Box::new(Rng::new())) else { return };
    let mut script = Script(data);
    while !script.is_empty() {
        any_step(&mut driver, &mut script);
    }
    check(&mut driver, 0, &[writable(CHECK_AT, 32)], 32);
}

/// The block device, of every kind, with requests that are almost right. Lazy ones have a server that is right in most of what it says.
pub fn block(data: &[u8]) {
    let mut script = Script(data);
    let how = script.byte() % 4;
    let (read_only, is_lazy) = (how < 2, how == 0);
    let encrypted = (how == 3).then(|| EncryptedSpec { template: scratch_file(1000) });
    // A lazy disk has as many chunks as another has pages, and requests for it are spread as far.
    let scale = if is_lazy { CHUNK_BYTES / 4096 } else { 1 };
    let Some(file) = scratch_file(SECTORS.saturating_mul(512).saturating_mul(scale)) else {
        return;
    };
    let (lazy, mut server) = match is_lazy.then(chunk_server).flatten() {
        Some((lazy, server)) => (Some(lazy), Some(server)),
        None => (None, None),
    };
    let spec = BlockSpec { lazy, encrypted, ..BlockSpec::new(file, read_only, "fuzz") };
    let Ok(disk) = Block::new(spec) else { return };
    let Some(mut driver) = driver_for(Box::new(disk)) else { return };
    while !script.is_empty() {
        match (script.byte() % 4, &mut server) {
            (0, Some(server)) => {
                server.step(&mut script);
                rest(&driver);
                drain(&mut driver);
            }
            (0 | 2, _) => any_step(&mut driver, &mut script),
            _ => block_request(&mut driver, &mut script, scale),
        }
        if let Some(server) = &mut server {
            server.hear();
        }
    }
    driver.write(CHECK_AT, &[8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let get_id = [readable(CHECK_AT, 16), writable(CHECK_AT + 32, 20), writable(CHECK_AT + 64, 1)];
    check(&mut driver, 0, &get_id, 21);
    assert_eq!(driver.read(CHECK_AT + 32, 5), b"fuzz\0");
    if let Some(server) = &server {
        server.fill();
    }
    driver.write(CHECK_AT, &[0]);
    let read = [readable(CHECK_AT, 16), writable(CHECK_AT + 1024, 512), writable(CHECK_AT + 64, 1)];
    check(&mut driver, 0, &read, 513);
    assert_eq!(driver.read(CHECK_AT + 64, 1), [0]);
}

/// A request that is right in most of its fields.
fn block_request(driver: &mut GuestDriver, script: &mut Script<'_>, scale: u64) {
    let kinds = [0u32, 1, 4, 8, 11, script.double()];
    let kind = script.pick(&kinds);
    let sector = match script.byte() % 4 {
        0 => u64::MAX.wrapping_sub(u64::from(script.byte())),
        _ => u64::from(script.byte() % 80).saturating_mul(scale),
    };
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    driver.write(DATA, &header);
    let mut chain = vec![readable(DATA, 16)];
    for _ in 0..script.byte() % 6 {
        let len = u32::from(script.byte() % 5).saturating_mul(256);
        chain.push(Buffer { writable: kind != 1, ..script.buffer(Some(len)) });
    }
    chain.push(writable(DATA + 0x100, 1));
    driver.offer(0, &chain);
    driver.kick(0);
    rest(driver);
    drain(driver);
}

/// The other end of a lazy disk.
struct ChunkServer {
    presence: File,
    /// Gone once it hung up.
    socket: Option<UnixStream>,
    /// What it was asked for and has not answered.
    asked: Vec<u32>,
    /// It said what no server may say.
    lied: bool,
}

fn chunk_server() -> Option<(LazySpec, ChunkServer)> {
    let presence = scratch_file(CHUNKS)?;
    let (ours, requests) = UnixStream::pair().ok()?;
    ours.set_nonblocking(true).ok()?;
    // Fuzzing has no clock.
    let timeout = Duration::from_secs(3600);
    let lazy = LazySpec {
        presence: presence.try_clone().ok()?,
        requests,
        reads: Some(scratch_file(PAGES)?),
        timeout,
    };
    Some((lazy, ChunkServer { presence, socket: Some(ours), asked: Vec::new(), lied: false }))
}

impl ChunkServer {
    /// A chunk comes, fails or is said to be there, or the server breaks the rules.
    fn step(&mut self, script: &mut Script<'_>) {
        let (action, byte) = (script.byte() % 16, script.byte());
        match action {
            0 => self.socket = None,
            1 => {
                self.lied = true;
                self.send(script.bytes(usize::from(byte % 20)));
            }
            2 | 3 => self.mark(u64::from(byte) % CHUNKS, script.byte() % 3),
            _ => {
                let Some(chunk) = self.asked.pop() else { return };
                if action % 2 == 0 {
                    self.mark(chunk.into(), 1);
                }
                let status = if action % 3 == 0 { u32::from(byte) } else { 0 };
                self.send(&[chunk.to_le_bytes(), status.to_le_bytes()].concat());
            }
        }
    }

    /// Takes what it is asked for: chunks that the disk has, each once at a time, and not too many.
    fn hear(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        let mut index = [0; 4];
        while let Ok(4) = socket.read(&mut index) {
            let chunk = u32::from_le_bytes(index);
            assert!(u64::from(chunk) < CHUNKS, "asked for chunk {chunk}");
            assert!(self.lied || !self.asked.contains(&chunk), "asked for chunk {chunk} twice");
            self.asked.push(chunk);
            assert!(self.lied || self.asked.len() <= IN_FLIGHT_MAX, "asked for too many");
        }
    }

    fn mark(&self, chunk: u64, byte: u8) {
        let _ = self.presence.write_at(&[byte], chunk);
    }

    fn send(&self, bytes: &[u8]) {
        if let Some(mut socket) = self.socket.as_ref() {
            // It has been hung up on, or what it says is more than anybody reads.
            let _ = socket.write(bytes);
        }
    }

    /// All chunks are there.
    fn fill(&self) {
        for chunk in 0..CHUNKS {
            self.mark(chunk, 1);
        }
    }
}

/// The socket device, with host programs on both ends of it.
pub fn vsock(data: &[u8]) {
    let mut script = Script(data);
    let mut programs = Vec::new();
    let mut ports = Vec::new();
    for port in 0..3u32 {
        let Ok((ours, theirs)) = UnixStream::pair() else { return };
        if ours.set_nonblocking(true).is_err() {
            return;
        }
        programs.push(ours);
        ports.push((port, OwnedFd::from(theirs)));
    }
    let path = socket_path();
    let mut dialled = 0;
    let Some(mut driver) = vsock_driver(ports, Some(path.clone())) else { return };
    while !script.is_empty() {
        match script.byte() % 8 {
            0 => any_step(&mut driver, &mut script),
            1 => host_step(&mut programs, &mut dialled, &path, &mut script),
            2 => {
                for _ in 0..script.byte() % 16 {
                    let at = u64::from(script.byte()).saturating_mul(4096).saturating_add(DATA);
                    driver.offer(0, &[writable(at, 4096)]);
                }
                driver.kick(0);
            }
            _ => packet(&mut driver, &mut script),
        }
        rest(&driver);
        drain(&mut driver);
    }
    // A packet for nobody is answered with a reset.
    assert!(driver.start(VERSION_1), "a proper start must work");
    rest(&driver);
    let header = Packet { op: 5, src_port: 77, dst_port: 78, ..Packet::default() }.to_bytes();
    driver.write(CHECK_AT, &header);
    driver.offer(0, &[writable(CHECK_AT + 0x100, 4096)]);
    driver.offer(1, &[readable(CHECK_AT, 44)]);
    driver.kick(1);
    rest(&driver);
    assert_eq!(driver.used(1), Some((0, 0)));
    assert_eq!(driver.used(0), Some((0, 44)));
    assert_eq!(driver.read(CHECK_AT + 0x100 + 30, 2), [3, 0]);
}

const STATUS: u64 = 0x70;
const DRIVER_OK: u32 = 4;

/// The input, taken from its front; zeros past its end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        now
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn double(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn pick<T: Copy + Default>(&mut self, from: &[T]) -> T {
        let index = usize::from(self.byte()).checked_rem(from.len()).unwrap_or(0);
        from.get(index).copied().unwrap_or_default()
    }

    /// A buffer in a place that matters, of `len` bytes or any length.
    fn buffer(&mut self, len: Option<u32>) -> Buffer {
        let places = [
            DATA,
            DATA + 0x1000,
            REGION_BYTES - 8,
            2 * REGION_BYTES - 512,
            2 * REGION_BYTES,
            HIGH,
            HIGH + REGION_BYTES - 1024,
            0xd000_0000,
            u64::MAX - 100,
            // The rings themselves.
            0x1000,
            0x3000,
            0x4000,
        ];
        let addr = self.pick(&places).wrapping_add(u64::from(self.byte()));
        let lens = [0, 1, 16, 44, 512, 4096, 65_536, u32::MAX, u32::from(self.word())];
        let len = len.unwrap_or_else(|| self.pick(&lens));
        Buffer { addr, len, writable: self.byte().is_multiple_of(2) }
    }
}

/// A step that any driver could take, in or out of the rules.
fn any_step(driver: &mut GuestDriver, script: &mut Script<'_>) {
    let queues = driver.device().traits().queue_sizes.len();
    let queue = usize::from(script.byte()).checked_rem(queues).unwrap_or(0);
    match script.byte() % 12 {
        0 => driver.set(u64::from(script.byte()) & !3, script.double()),
        1 => drop(driver.get(u64::from(script.word()))),
        2 => start_somehow(driver, script.byte()),
        3 => driver.set(STATUS, 0),
        4 => driver.set_available_index(queue, script.word()),
        5 => driver.offer_head(queue, script.word() % 300),
        6 => {
            let Buffer { addr, len, .. } = script.buffer(None);
            let (slot, flags, next) = (script.word() % 130, script.word() % 8, script.word() % 140);
            driver.write_descriptor(queue, slot, (addr, len), flags, next);
        }
        7 => {
            let at = u64::from(script.word()).wrapping_add(0x1000);
            driver.write(at, script.bytes(16));
        }
        8 => driver.set_available_flags(queue, script.word()),
        9 => driver.set_used_event(queue, script.word()),
        _ => {
            let count = script.byte() % 5;
            let buffers: Vec<_> = (0..count).map(|_| script.buffer(None)).collect();
            driver.offer(queue, &buffers);
            driver.kick(queue);
        }
    }
    if script.byte().is_multiple_of(4) {
        driver.work(Wake::Host);
    }
    rest(driver);
    drain(driver);
}

/// A start with or without event indices, and in a few of them without all queues.
fn start_somehow(driver: &mut GuestDriver, how: u8) {
    let features = VERSION_1 | if how.is_multiple_of(2) { 0 } else { EVENT_IDX };
    if how < 0xf0 {
        driver.start(features);
        return;
    }
    driver.negotiate(features);
    for queue in (0..3).filter(|queue| how >> queue & 2 != 0) {
        driver.set_up_queue(queue, 64);
    }
    driver.add_status(DRIVER_OK);
}

/// A host program connects, writes, reads, half-closes or goes away.
fn host_step(
    programs: &mut Vec<UnixStream>,
    dialled: &mut usize,
    path: &Path,
    script: &mut Script<'_>,
) {
    let index = usize::from(script.byte()).checked_rem(programs.len()).unwrap_or(0);
    let action = script.byte() % 8;
    if action == 0 && *dialled < DIALLED_MAX {
        *dialled = dialled.saturating_add(1);
        if let Ok(stream) = UnixStream::connect(path) {
            let lines: [&[u8]; 5] =
                [b"CONNECT 52\n", b"CONNECT 4294967295\nx", b"CONN", b"\n", b""];
            let _ = (&stream).write(script.pick(&lines));
            if stream.set_nonblocking(true).is_ok() {
                programs.push(stream);
            }
        }
        return;
    }
    let Some(mut stream) = programs.get(index) else { return };
    match action {
        1 => drop(stream.write(script.bytes(32))),
        2 => drop(stream.write(&[7; 40_000])),
        3 => drop(stream.read(&mut [0; 4096])),
        4 => while stream.read(&mut [0; 65_536]).is_ok_and(|count| count > 0) {},
        5 => drop(stream.shutdown(Shutdown::Write)),
        6 => drop(stream.shutdown(Shutdown::Read)),
        _ => drop(programs.swap_remove(index)),
    }
}

/// A packet that is right in most of its fields.
struct Packet {
    src_cid: u64,
    dst_cid: u64,
    src_port: u32,
    dst_port: u32,
    len: u32,
    kind: u16,
    op: u16,
    flags: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl Default for Packet {
    fn default() -> Self {
        Packet {
            src_cid: u64::from(GUEST_CID),
            dst_cid: 2,
            src_port: 0,
            dst_port: 0,
            len: 0,
            kind: 1,
            op: 0,
            flags: 0,
            buf_alloc: 65_536,
            fwd_cnt: 0,
        }
    }
}

impl Packet {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(44);
        bytes.extend(self.src_cid.to_le_bytes());
        bytes.extend(self.dst_cid.to_le_bytes());
        bytes.extend(self.src_port.to_le_bytes());
        bytes.extend(self.dst_port.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.op.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.buf_alloc.to_le_bytes());
        bytes.extend(self.fwd_cnt.to_le_bytes());
        bytes
    }
}

fn packet(driver: &mut GuestDriver, script: &mut Script<'_>) {
    let host_ports = [0, 1, 2, 3, 1 << 30, (1 << 30) + 1, (1 << 30) + 2];
    let lens = [0, 1, 4096, 65_536, 131_072];
    let len = script.pick(&lens);
    let mut packet = Packet {
        src_port: script.pick(&[52, 1, 2, u32::MAX]),
        dst_port: script.pick(&host_ports),
        op: u16::from(script.byte() % 10),
        flags: u32::from(script.byte() % 4),
        buf_alloc: script.pick(&[65_536, 0, 1, u32::MAX]),
        fwd_cnt: script.pick(&[0, 1, 4096, u32::MAX]),
        len,
        ..Packet::default()
    };
    match script.byte() % 16 {
        0 => packet.src_cid = u64::from(script.double()),
        1 => packet.dst_cid = u64::from(script.double()),
        2 => packet.kind = script.word(),
        3 => packet.len = script.double(),
        4 => packet.fwd_cnt = script.double(),
        _ => {}
    }
    driver.write(DATA, &packet.to_bytes());
    driver.offer(1, &[readable(DATA, 44), readable(HIGH, len)]);
    driver.kick(1);
}

/// The device must come to rest: a guest must not keep the worker awake by what it did once.
fn rest(driver: &GuestDriver) {
    assert!(driver.run(0) < TURNS_MAX, "the worker never sleeps");
}

/// Takes what is used; heads lie in their tables.
fn drain(driver: &mut GuestDriver) {
    for queue in 0..driver.device().traits().queue_sizes.len() {
        let size = driver.device().traits().queue_sizes.get(queue).copied().unwrap_or(0);
        // A script may have written to the used ring itself: bounded, and only heads the device wrote count.
        for _ in 0..size {
            if driver.used(queue).is_none() {
                break;
            }
        }
    }
}

/// After a proper start, `chain` is used with `len` bytes written.
fn check(driver: &mut GuestDriver, queue: usize, chain: &[Buffer], len: u32) {
    assert!(driver.start(VERSION_1), "a proper start must work");
    driver.offer(queue, chain);
    driver.kick(queue);
    rest(driver);
    assert_eq!(driver.used(queue), Some((0, len)), "a proper request must work");
}

fn driver_for(device: Box<dyn VirtioDevice>) -> Option<GuestDriver> {
    // As the VMM does; a fuzzer's own program does not.
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        let _ = crate::signals::ignore_broken_pipes();
    });
    let ram = ram().ok()?;
    let mut driver = GuestDriver::new(device, ram).ok()?;
    driver.start(VERSION_1).then_some(driver)
}

fn vsock_driver(ports: Vec<(u32, OwnedFd)>, path: Option<PathBuf>) -> Option<GuestDriver> {
    let spec = VsockSpec { guest_cid: GUEST_CID, path, ports };
    driver_for(Box::new(Vsock::new(spec).ok()?))
}

/// A name that no other call uses.
fn socket_path() -> PathBuf {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("votive-fuzz-{}-{call}", std::process::id()))
}

/// A file of `bytes` bytes without a name.
fn scratch_file(bytes: u64) -> Option<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(std::env::temp_dir())
        .ok()?;
    file.set_len(bytes).ok()?;
    Some(file)
}
