//! A lazy disk against a driver, with the test as its server.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics has found something, and its numbers are small"
)]

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::virtio::block::{Block, BlockSpec};
use crate::virtio::driver::{Buffer, DATA, GuestDriver, HIGH, ram, readable, writable};
use crate::virtio::spawn_worker;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSET: u8 = 0xee;
const IN: u32 = 0;
const OUT: u32 = 1;
const GET_ID: u32 = 8;

/// Sectors of a chunk.
const CHUNK: u64 = CHUNK_BYTES / 512;
/// A timeout that no test waits for.
const LONG: Duration = Duration::from_secs(600);

/// A disk, its driver, and the server's side of it.
struct Rig {
    driver: GuestDriver,
    disk: File,
    presence: File,
    server: UnixStream,
    /// Requests offered so far: each has a header, a status and a buffer of its own.
    offered: u64,
}

/// A request that was offered.
#[derive(Clone, Copy, Debug)]
struct Offered {
    number: u64,
    head: u32,
}

impl Offered {
    fn header(self) -> u64 {
        DATA + self.number * 0x40
    }

    fn status(self) -> u64 {
        self.header() + 0x20
    }

    fn buffer(self) -> u64 {
        HIGH + self.number % 64 * 0x1000
    }
}

/// A disk's spec, and what its server has of it: the disk, the table, and the other end of the socket.
type Parts = (BlockSpec, File, File, UnixStream);

/// What a lazy disk of `bytes` bytes is made of.
fn parts(bytes: u64, timeout: Duration, kind: SocketType) -> Parts {
    let (disk, presence) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    disk.set_len(bytes).unwrap();
    presence.set_len(bytes.div_ceil(CHUNK_BYTES)).unwrap();
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let server = UnixStream::from(ours);
    server.set_nonblocking(true).unwrap();
    let lazy = LazySpec {
        presence: presence.try_clone().unwrap(),
        requests: UnixStream::from(theirs),
        reads: None,
        timeout,
    };
    let spec = BlockSpec::new(disk.try_clone().unwrap(), true, "disk-9");
    let spec = BlockSpec { lazy: Some(lazy), ..spec };
    (spec, disk, presence, server)
}

fn rig_with(bytes: u64, timeout: Duration, kind: SocketType) -> Rig {
    rig_of(parts(bytes, timeout, kind))
}

fn rig_of((spec, disk, presence, server): Parts) -> Rig {
    let device = Block::new(spec).unwrap();
    let driver = GuestDriver::new(Box::new(device), ram().unwrap()).unwrap();
    let mut rig = Rig { driver, disk, presence, server, offered: 0 };
    rig.start();
    rig
}

fn rig(chunks: u64) -> Rig {
    rig_with(chunks * CHUNK_BYTES, LONG, SocketType::SEQPACKET)
}

impl Rig {
    fn start(&mut self) {
        let offered = self.driver.offered();
        assert!(self.driver.start(offered & !(1 << 29)));
        self.driver.run(0);
    }

    /// Offers a request without letting the device work.
    fn offer(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> Offered {
        let it = self.offer_silently(kind, sector, data);
        self.driver.kick(0);
        it
    }

    /// Offers a request without a notification.
    fn offer_silently(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> Offered {
        let mut it = Offered { number: self.offered, head: 0 };
        self.offered += 1;
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.write(it.header(), &header);
        self.driver.write(it.status(), &[UNSET]);
        let mut chain = vec![readable(it.header(), 16)];
        chain.extend(data);
        chain.push(writable(it.status(), 1));
        it.head = u32::from(self.driver.offer(0, &chain));
        it
    }

    /// Offers a read of `sectors` sectors into the request's own buffer, of a page at most, and lets the device work.
    fn read(&mut self, sector: u64, sectors: u32) -> Offered {
        let buffer = Offered { number: self.offered, head: 0 }.buffer();
        let it = self.offer(IN, sector, &[writable(buffer, sectors * 512)]);
        self.driver.run(0);
        it
    }

    fn status(&self, request: Offered) -> u8 {
        self.driver.read(request.status(), 1)[0]
    }

    /// The requests that were given back since the last call, with their lengths.
    fn used(&mut self) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| self.driver.used(0)).collect()
    }

    /// The chunks that were asked for since the last call.
    fn asked(&mut self) -> Vec<u32> {
        let mut asked = Vec::new();
        let mut index = [0; 4];
        loop {
            match self.server.read(&mut index) {
                Ok(4) => asked.push(u32::from_le_bytes(index)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return asked,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Puts a chunk in its place: all bytes are its index plus 1.
    fn fill(&self, chunk: u64) {
        let end = self.disk.metadata().unwrap().len().min((chunk + 1) * CHUNK_BYTES);
        let bytes = vec![chunk as u8 + 1; (end - chunk * CHUNK_BYTES) as usize];
        self.disk.write_all_at(&bytes, chunk * CHUNK_BYTES).unwrap();
        self.presence.write_all_at(&[1], chunk).unwrap();
    }

    fn tell(&mut self, chunk: u32, status: u32) {
        let mut answer = chunk.to_le_bytes().to_vec();
        answer.extend(status.to_le_bytes());
        self.server.write_all(&answer).unwrap();
    }

    /// Brings a chunk and says so; the device works.
    fn bring(&mut self, chunk: u32) {
        self.fill(chunk.into());
        self.tell(chunk, 0);
        self.driver.run(0);
    }

    fn fail(&mut self, chunk: u32) {
        self.tell(chunk, 5);
        self.driver.run(0);
    }

    fn assert_read(&self, request: Offered, bytes: &[u8]) {
        assert_eq!(self.status(request), OK);
        assert_eq!(self.driver.read(request.buffer(), bytes.len()), bytes);
    }
}

#[test]
fn reads_of_chunks_that_are_there_ask_nobody() {
    let mut rig = rig(3);
    rig.fill(0);
    rig.fill(1);
    let inside = rig.read(CHUNK - 1, 1);
    let across = rig.read(CHUNK - 1, 2);
    assert_eq!(rig.used(), [(inside.head, 513), (across.head, 1025)]);
    rig.assert_read(inside, &[1; 512]);
    rig.assert_read(across, &[[1; 512], [2; 512]].concat());
    assert!(rig.asked().is_empty());
}

#[test]
fn a_read_of_an_absent_chunk_waits_for_it_and_the_queue_goes_on() {
    let mut rig = rig(3);
    rig.fill(2);
    let absent = rig.read(CHUNK + 7, 1);
    let there = rig.read(2 * CHUNK, 1);
    assert_eq!(rig.used(), [(there.head, 513)]);
    assert_eq!((rig.status(absent), rig.driver.interrupts()), (UNSET, 1));
    assert_eq!(rig.asked(), [1]);
    rig.bring(1);
    assert_eq!(rig.used(), [(absent.head, 513)]);
    rig.assert_read(absent, &[2; 512]);
    assert_eq!(rig.driver.interrupts(), 1);
    // From now on it is there.
    let again = rig.read(CHUNK, 8);
    rig.assert_read(again, &[2; 4096]);
    assert!(rig.asked().is_empty());
}

#[test]
fn a_driver_that_notifies_and_is_interrupted_only_where_it_must_be_is_not_forgotten() {
    let mut rig = rig(6);
    let offered = rig.driver.offered();
    assert!(rig.driver.start(offered));
    rig.driver.run(0);
    let mut used = 0;
    for chunk in 0..6 {
        let it = rig.offer_silently(IN, chunk * CHUNK, &[writable(HIGH, 512)]);
        rig.driver.kick_if_wanted(0, 1);
        rig.driver.run(0);
        assert_eq!(u64::from(rig.asked()[0]), chunk);
        // Every other one waits on while the next ones come.
        if chunk % 2 == 0 {
            rig.driver.set_used_event(0, used);
            rig.bring(chunk as u32);
            used += 1;
            assert_eq!((rig.driver.interrupts(), rig.used()), (1, vec![(it.head, 513)]));
        }
    }
    rig.driver.set_used_event(0, used + 1);
    rig.bring(1);
    assert_eq!((rig.driver.interrupts(), rig.used().len()), (0, 1));
    rig.bring(5);
    assert_eq!((rig.driver.interrupts(), rig.used().len()), (1, 1));
}

#[test]
fn answers_come_in_any_order() {
    let mut rig = rig(4);
    let reads: Vec<_> = (0..4).map(|chunk| rig.read(chunk * CHUNK, 1)).collect();
    assert_eq!(rig.asked(), [0, 1, 2, 3]);
    for chunk in [2, 0, 3, 1] {
        rig.bring(chunk);
        assert_eq!(rig.used(), [(reads[chunk as usize].head, 513)]);
        rig.assert_read(reads[chunk as usize], &[chunk as u8 + 1; 512]);
    }
}

#[test]
fn many_readers_of_a_chunk_cost_one_message_and_are_served_in_their_order() {
    let mut rig = rig(1);
    let reads: Vec<_> = (0..20).map(|sector| rig.read(sector, 1)).collect();
    assert_eq!(rig.asked(), [0]);
    rig.driver.interrupts();
    rig.bring(0);
    let heads: Vec<_> = reads.iter().map(|read| (read.head, 513)).collect();
    assert_eq!(rig.used(), heads);
    assert_eq!(rig.driver.interrupts(), 1);
}

#[test]
fn a_request_across_chunks_asks_for_all_that_are_absent_at_once() {
    let mut rig = rig(5);
    rig.fill(2);
    let sectors = 3 * CHUNK as u32 + 2;
    // A buffer of all that much: the first region of RAM holds it.
    let it = rig.offer(IN, CHUNK - 1, &[writable(0x8_0000, sectors * 512)]);
    rig.driver.run(0);
    assert_eq!(rig.asked(), [0, 1, 3, 4]);
    for chunk in [4, 1, 0] {
        rig.bring(chunk);
        assert_eq!((rig.used(), rig.status(it)), (vec![], UNSET));
    }
    rig.bring(3);
    assert_eq!(rig.used(), [(it.head, sectors * 512 + 1)]);
    let read = rig.driver.read(0x8_0000, sectors as usize * 512);
    let expect: Vec<u8> = [(1, 1), (2, CHUNK), (3, CHUNK), (4, CHUNK), (5, 1)]
        .into_iter()
        .flat_map(|(byte, sectors)| vec![byte; sectors as usize * 512])
        .collect();
    assert!(read == expect);
    assert!(rig.asked().is_empty());
}

#[test]
fn a_chunk_that_fails_fails_those_that_need_it_and_is_asked_for_again() {
    let mut rig = rig(3);
    let first = rig.read(0, 1);
    let across = rig.read(CHUNK - 1, 2);
    let other = rig.read(2 * CHUNK, 1);
    assert_eq!(rig.asked(), [0, 1, 2]);
    rig.fail(1);
    assert_eq!(rig.used(), [(across.head, 1)]);
    assert_eq!(rig.status(across), IOERR);
    rig.bring(0);
    rig.bring(2);
    assert_eq!(rig.used(), [(first.head, 513), (other.head, 513)]);
    let again = rig.read(CHUNK, 1);
    assert_eq!(rig.asked(), [1]);
    rig.bring(1);
    rig.assert_read(again, &[2; 512]);
    // A store that fails is no offence of the guest's.
    assert_eq!(rig.driver.device().counts().requests, 0);
}

#[test]
fn a_chunk_that_is_said_to_be_there_and_is_not_has_failed() {
    let mut rig = rig(2);
    let it = rig.read(0, 1);
    rig.tell(0, 0);
    rig.driver.run(0);
    assert_eq!((rig.used(), rig.status(it)), (vec![(it.head, 1)], IOERR));
}

#[test]
fn the_deadline_fails_what_waits_and_a_late_answer_still_counts() {
    let bytes = 2 * CHUNK_BYTES;
    let mut rig = rig_with(bytes, Duration::from_millis(30), SocketType::STREAM);
    let before = Instant::now();
    let late = rig.read(0, 1);
    assert!(rig.driver.run(10_000) > 0);
    assert!(before.elapsed() >= Duration::from_millis(30));
    assert_eq!((rig.used(), rig.status(late)), (vec![(late.head, 1)], IOERR));
    assert_eq!(rig.asked(), [0]);
    // The timer rests once nobody waits.
    assert_eq!(rig.driver.run(100), 0);
    // The chunk is still being fetched: whoever wants it waits for the same answer.
    rig.read(1, 1);
    assert!(rig.asked().is_empty());
    rig.bring(0);
    let there = rig.read(2, 1);
    rig.assert_read(there, &[1; 512]);
    rig.read(CHUNK, 1);
    assert_eq!(rig.asked(), [1]);
}

#[test]
fn each_request_has_its_own_deadline() {
    let mut rig = rig_with(CHUNK_BYTES, Duration::from_millis(40), SocketType::SEQPACKET);
    let first = rig.read(0, 1);
    let between = Instant::now();
    while between.elapsed() < Duration::from_millis(20) {
        rig.driver.run(1);
    }
    let offered = Instant::now();
    let second = rig.read(1, 1);
    let mut given_back = Vec::new();
    while given_back.len() < 2 {
        given_back.extend(rig.used());
        rig.driver.run(1);
    }
    assert_eq!(given_back, [(first.head, 1), (second.head, 1)]);
    assert!(offered.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_server_that_hangs_up_leaves_what_is_there() {
    let mut rig = rig(3);
    rig.fill(2);
    let waits = rig.read(0, 1);
    let comes = rig.read(CHUNK, 1);
    // It got this far: the chunk is there, and its answer is not.
    rig.fill(1);
    drop(std::mem::replace(&mut rig.server, UnixStream::pair().unwrap().0));
    rig.driver.run(0);
    assert_eq!(rig.used(), [(waits.head, 1), (comes.head, 513)]);
    assert_eq!((rig.status(waits), rig.status(comes)), (IOERR, OK));
    let (absent, there) = (rig.read(0, 1), rig.read(2 * CHUNK, 1));
    assert_eq!(rig.used(), [(absent.head, 1), (there.head, 513)]);
    assert_eq!((rig.status(absent), rig.status(there)), (IOERR, OK));
    // Not after a reset either.
    rig.start();
    let absent = rig.read(0, 1);
    assert_eq!(rig.status(absent), IOERR);
}

#[test]
fn whatever_is_no_answer_to_a_question_ends_the_talk() {
    let answer = |chunk: u32, status: u32| [chunk.to_le_bytes(), status.to_le_bytes()].concat();
    let cases = [
        ("a chunk that was not asked for", answer(1, 0)),
        ("a chunk that the disk has not", answer(3, 0)),
        ("the last index there is", answer(u32::MAX, 1)),
        ("an answer twice", [answer(0, 7), answer(0, 7)].concat()),
        ("noise", vec![0x5a; 64]),
    ];
    for (name, bytes) in cases {
        let mut rig = rig_with(3 * CHUNK_BYTES, LONG, SocketType::STREAM);
        rig.fill(2);
        let it = rig.read(0, 1);
        rig.server.write_all(&bytes).unwrap();
        rig.driver.run(0);
        assert_eq!(rig.used(), [(it.head, 1)], "{name}");
        assert_eq!(rig.status(it), IOERR, "{name}");
        let (absent, there) = (rig.read(0, 1), rig.read(2 * CHUNK, 1));
        assert_eq!((rig.status(absent), rig.status(there)), (IOERR, OK), "{name}");
    }
}

#[test]
fn an_answer_may_come_in_pieces() {
    let mut rig = rig_with(CHUNK_BYTES, LONG, SocketType::STREAM);
    let it = rig.read(0, 1);
    for byte in [0, 0, 0, 0, 9, 0, 0] {
        rig.server.write_all(&[byte]).unwrap();
        rig.driver.run(0);
        assert_eq!(rig.status(it), UNSET);
    }
    rig.server.write_all(&[0]).unwrap();
    rig.driver.run(0);
    assert_eq!(rig.status(it), IOERR);
}

#[test]
fn requests_that_need_no_chunk_or_make_no_sense_do_not_wait() {
    let mut rig = rig(2);
    let nothing = rig.offer(IN, 5, &[]);
    let past = rig.offer(IN, 2 * CHUNK, &[writable(HIGH, 512)]);
    let wraps = rig.offer(IN, u64::MAX, &[writable(HIGH, 1024)]);
    let odd = rig.offer(IN, 0, &[writable(HIGH, 511)]);
    let write = rig.offer(OUT, 0, &[readable(HIGH, 512)]);
    let id = rig.offer(GET_ID, 0, &[writable(HIGH, 20)]);
    rig.driver.run(0);
    let statuses = [nothing, past, wraps, odd, write, id].map(|it| rig.status(it));
    assert_eq!(statuses, [OK, IOERR, IOERR, IOERR, IOERR, OK]);
    assert!(rig.asked().is_empty());
}

#[test]
fn a_reset_forgets_what_waits_and_the_next_driver_finds_the_chunk() {
    let mut rig = rig(2);
    let lost = rig.read(0, 1);
    assert_eq!(rig.asked(), [0]);
    rig.start();
    assert_eq!(rig.status(lost), UNSET);
    // The chunk is still on its way, so that nobody asks again.
    let next = rig.read(1, 1);
    assert!(rig.asked().is_empty());
    rig.bring(0);
    assert_eq!(rig.used(), [(next.head, 513)]);
    assert_eq!(rig.status(lost), UNSET);
    assert_eq!(rig.driver.device().counts().requests, 0);
}

#[test]
fn a_device_without_a_driver_is_quiet() {
    let mut rig = rig_with(2 * CHUNK_BYTES, Duration::from_millis(1), SocketType::STREAM);
    rig.read(0, 1);
    rig.driver.set(0x70, 0);
    rig.driver.run(0);
    rig.tell(0, 3);
    assert_eq!(rig.driver.run(50), 0);
    drop(std::mem::replace(&mut rig.server, UnixStream::pair().unwrap().0));
    assert_eq!(rig.driver.run(0), 0);
    // What came meanwhile is heard: the answer, and the end.
    rig.start();
    let it = rig.read(0, 1);
    assert_eq!(rig.status(it), IOERR);
}

#[test]
fn a_head_that_waits_already_is_refused() {
    let mut rig = rig(2);
    let it = rig.read(0, 1);
    rig.driver.offer_head(0, it.head as u16);
    rig.driver.kick(0);
    rig.driver.run(0);
    assert_eq!((rig.used(), rig.status(it)), (vec![(it.head, 1)], IOERR));
    assert_eq!(rig.driver.device().counts().requests, 1);
    // The first one is as good as before.
    rig.bring(0);
    assert_eq!(rig.used(), [(it.head, 513)]);
    rig.assert_read(it, &[1; 512]);
    assert_eq!(rig.asked(), [0]);
}

#[test]
fn what_waits_is_read_anew() {
    let mut rig = rig(3);
    rig.fill(2);
    let changes: [(&str, u64, u8); 3] = [
        ("one that is there", 2 * CHUNK, OK),
        ("one that is absent", CHUNK, IOERR),
        ("one past the end", 3 * CHUNK, IOERR),
    ];
    for (name, sector, expect) in changes {
        let it = rig.read(0, 1);
        rig.asked();
        rig.driver.write(it.header() + 8, &sector.to_le_bytes());
        rig.bring(0);
        assert_eq!(rig.status(it), expect, "{name}");
        assert_eq!(rig.used().len(), 1, "{name}");
        rig.presence.write_all_at(&[0], 0).unwrap();
    }
    // A chain that has no end any more comes back unused.
    let it = rig.read(0, 1);
    let head = it.head as u16;
    rig.driver.write_descriptor(0, head, (it.header(), 16), 1, head);
    rig.bring(0);
    assert_eq!(rig.used(), [(it.head, 0)]);
    assert_eq!(rig.driver.device().counts().requests, 3);
}

#[test]
fn a_bounded_number_of_chunks_is_in_flight_and_the_rest_takes_turns() {
    let mut rig = rig(400);
    let in_flight = u32::try_from(IN_FLIGHT_MAX).unwrap();
    // Ten chunks each, all into the same few pages: the table has room for 64 requests of two descriptors.
    let sectors = 10 * CHUNK;
    let buffer = writable(0x8_0000, 1 << 20);
    for at in 0..12 {
        rig.offer(IN, at * sectors, &[buffer; 5]);
    }
    rig.driver.run(0);
    assert_eq!(rig.asked(), (0..in_flight).collect::<Vec<_>>());
    for chunk in 0..120 {
        rig.fill(chunk.into());
        rig.tell(chunk, 0);
        rig.driver.run(0);
        let next = chunk + in_flight;
        assert_eq!(rig.asked(), if next < 120 { vec![next] } else { vec![] });
    }
    assert_eq!(rig.used().len(), 12);
}

#[test]
fn a_server_that_does_not_read_holds_up_nobody_but_what_waits_for_it() {
    let parts = parts(50 * CHUNK_BYTES, LONG, SocketType::STREAM);
    let ours = parts.0.lazy.as_ref().map(|lazy| lazy.requests.as_fd()).unwrap();
    // The least that there is: it holds a few messages.
    rustix::net::sockopt::set_socket_send_buffer_size(ours, 0).unwrap();
    let mut rig = rig_of(parts);
    rig.fill(49);
    for chunk in 0..40 {
        rig.read(chunk * CHUNK, 1);
    }
    let there = rig.read(49 * CHUNK, 1);
    rig.assert_read(there, &[50; 512]);
    let mut asked = rig.asked();
    assert!(asked.len() < 40, "all of {asked:?} fitted");
    for at in 0..40 {
        rig.bring(asked[at]);
        asked.extend(rig.asked());
    }
    assert_eq!(asked, (0..40).collect::<Vec<_>>());
    assert_eq!(rig.used().len(), 41);
}

#[test]
fn an_image_of_ten_gibibytes_has_its_table_and_its_last_chunk() {
    let bytes = 10 << 30;
    let mut rig = rig_with(bytes + 4096, LONG, SocketType::SEQPACKET);
    let last = 10 * 2048;
    assert_eq!(rig.presence.metadata().unwrap().len(), last + 1);
    let it = rig.read(last * CHUNK + 7, 1);
    let past = rig.read(last * CHUNK + 8, 1);
    assert_eq!(rig.status(past), IOERR);
    assert_eq!(rig.asked(), [last as u32]);
    rig.bring(last as u32);
    rig.assert_read(it, &[last as u8 + 1; 512]);
    // All of it at once, in pieces of guest memory that overlap.
    let pieces = [writable(0, 1 << 21); 120];
    let all = rig.offer(IN, 0, &pieces);
    rig.driver.run(0);
    assert_eq!((rig.asked().len(), rig.status(all)), (IN_FLIGHT_MAX, UNSET));
    rig.fail(17);
    assert_eq!(rig.status(all), IOERR);
}

#[test]
fn pages_that_are_read_are_noted_and_no_others() {
    let bytes = 2 * CHUNK_BYTES + 512;
    let reads = tempfile::tempfile().unwrap();
    let noting = |pages: u64| {
        reads.set_len(pages).unwrap();
        let mut parts = parts(bytes, LONG, SocketType::SEQPACKET);
        parts.0.lazy.as_mut().unwrap().reads = Some(reads.try_clone().unwrap());
        parts
    };
    let short = Block::new(noting(256).0).map(|_| ()).unwrap_err().to_string();
    assert!(short.starts_with("--disk reads: the table of disk-9 holds 256 bytes, needed are 257"));
    let mut rig = rig_of(noting(257));
    rig.fill(0);
    let noted = || {
        let mut table = vec![0; 257];
        reads.read_exact_at(&mut table, 0).unwrap();
        assert!(table.iter().all(|byte| *byte < 2));
        (0..257).filter(|page| table[*page] == 1).collect::<Vec<_>>()
    };
    assert_eq!(noted(), [0; 0]);
    // What is there, across a boundary; what is absent, before it comes; the last sector, and none behind it.
    rig.read(7, 2);
    assert_eq!(noted(), [0, 1]);
    rig.read(CHUNK, 17);
    assert_eq!((noted(), rig.asked()), (vec![0, 1, 128, 129, 130], vec![1]));
    rig.read(2 * CHUNK, 1);
    let refused = rig.read(2 * CHUNK, 2);
    assert_eq!((noted(), rig.status(refused)), (vec![0, 1, 128, 129, 130, 256], IOERR));
}

#[test]
fn tables_of_a_wrong_length_and_sockets_without_a_peer_are_refused() {
    let refused = |bytes: u64, table: u64| {
        let (spec, _, presence, _server) = parts(bytes, LONG, SocketType::STREAM);
        presence.set_len(table).unwrap();
        Block::new(spec).map(|_| ()).map_err(|error| error.to_string())
    };
    let message = |bytes: u64, chunks: u64| {
        Err(format!(
            "--disk presence: the table of disk-9 holds {bytes} bytes, needed are {chunks}: one for each chunk (524288 bytes) or \
             page (4096 bytes) of the disk"
        ))
    };
    assert_eq!(refused(CHUNK_BYTES, 1), Ok(()));
    assert_eq!(refused(CHUNK_BYTES, 0), message(0, 1));
    assert_eq!(refused(CHUNK_BYTES, 2), message(2, 1));
    assert_eq!(refused(CHUNK_BYTES + 512, 1), message(1, 2));
    assert_eq!(refused(10 << 30, 20_481), message(20_481, 20_480));
    let (mut spec, ..) = parts(CHUNK_BYTES, LONG, SocketType::STREAM);
    let alone = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    if let Some(lazy) = &mut spec.lazy {
        lazy.requests = UnixStream::from(alone);
    }
    let error = Block::new(spec).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "--disk requests: talk to the server of disk-9");
}

/// A disk on its own thread, and what it interrupts.
fn on_its_own_thread(timeout: Duration) -> (Rig, EventFd) {
    let rig = rig_with(3 * CHUNK_BYTES, timeout, SocketType::SEQPACKET);
    rig.fill(2);
    let device = Arc::clone(rig.driver.device());
    assert!(spawn_worker(device, |error| panic!("{error}")).is_ok());
    let interrupt = rig.driver.interrupt().try_clone().unwrap();
    (rig, interrupt)
}

#[test]
fn its_own_thread_waits_for_driver_and_server_at_once() {
    let (mut rig, interrupt) = on_its_own_thread(LONG);
    rig.server.set_nonblocking(false).unwrap();
    let mut asked = [0; 4];
    for chunk in 0..2 {
        let absent = rig.offer(IN, chunk * CHUNK, &[writable(HIGH, 512)]);
        rig.server.read_exact(&mut asked).unwrap();
        assert_eq!(u64::from(u32::from_le_bytes(asked)), chunk);
        // Notifications, each an edge, while it waits for the server.
        for _ in 0..3 {
            let there = rig.offer(IN, 2 * CHUNK, &[writable(HIGH, 512)]);
            wait_readable(&interrupt);
            assert_eq!((rig.driver.interrupts(), rig.used()), (1, vec![(there.head, 513)]));
        }
        rig.fill(chunk);
        rig.tell(chunk as u32, 0);
        wait_readable(&interrupt);
        assert_eq!((rig.driver.interrupts(), rig.used()), (1, vec![(absent.head, 513)]));
        assert_eq!(rig.status(absent), OK);
    }
}

#[test]
fn its_own_thread_waits_for_the_clock_as_well() {
    let (mut rig, interrupt) = on_its_own_thread(Duration::from_millis(20));
    for _ in 0..3 {
        let late = rig.offer(IN, 0, &[writable(HIGH, 512)]);
        wait_readable(&interrupt);
        assert_eq!((rig.driver.interrupts(), rig.used()), (1, vec![(late.head, 1)]));
        assert_eq!(rig.status(late), IOERR);
    }
}

fn wait_readable(eventfd: &EventFd) {
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event).unwrap();
    assert_eq!(epoll.wait(10_000, &mut [EpollEvent::default()]).unwrap(), 1);
}

#[test]
fn no_descriptor_is_left_of_a_disk_that_is_gone() {
    let (spec, _disk, _presence, mut server) = parts(CHUNK_BYTES, LONG, SocketType::STREAM);
    drop(Block::new(spec).unwrap());
    assert_eq!(server.read(&mut [0; 4]).unwrap(), 0);
    drop(OwnedFd::from(server));
}
