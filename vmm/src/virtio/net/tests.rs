//! The network device between a driver and a tap, either of which may be hostile.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics has found something"
)]

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::limiter::Limit;
use crate::virtio::driver::{
    Buffer, DATA, GuestDriver, HIGH, NEXT, REGION_BYTES, TURNS_MAX, WRITE, ram, readable,
    ring_addresses, writable,
};
use crate::virtio::rng::Rng;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const MTU: u16 = 1500;
const LONGEST: usize = 12 + 14 + 4 + 1500;
/// Where received frames go, 64 KiB apart from what is sent.
const BUFFERS: u64 = DATA + 0x1_0000;

struct Rig {
    driver: GuestDriver,
    host: File,
}

fn spec(tap: File, mtu: u16) -> NetSpec {
    NetSpec { tap, mac: MAC, mtu, receive: Limits::default(), send: Limits::default() }
}

fn net(mtu: u16) -> (Net, File) {
    let (host, tap) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None)
            .unwrap();
    (Net::new(spec(tap.into(), mtu)).unwrap(), host.into())
}

fn rig() -> Rig {
    let (net, host) = net(MTU);
    let mut driver = GuestDriver::new(Box::new(net), ram().unwrap()).unwrap();
    let offered = driver.offered();
    assert!(driver.start(offered & !(1 << 29)));
    driver.run(0);
    Rig { driver, host }
}

/// A frame of `len` bytes from `source`, behind a header of `header`.
fn frame(header: u8, source: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes = vec![header; HEADER_BYTES];
    bytes.extend([0xff; 6]);
    bytes.extend(source);
    bytes.extend((0..len.saturating_sub(ETHERNET_BYTES - 2)).map(|i| i.to_le_bytes()[0]));
    bytes.truncate(HEADER_BYTES + len);
    bytes
}

impl Rig {
    /// The guest sends `bytes` in one buffer.
    fn send(&mut self, bytes: &[u8]) {
        self.driver.write(DATA, bytes);
        self.driver.offer(SEND, &[readable(DATA, u32::try_from(bytes.len()).unwrap())]);
        self.driver.kick(SEND);
        self.driver.run(0);
    }

    /// What the host finds on its side of the tap.
    fn sent(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        let count = self.host.read(&mut bytes).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }

    /// The host puts `bytes` into the tap.
    fn arrive(&mut self, bytes: &[u8]) {
        assert_eq!(self.host.write(bytes).unwrap(), bytes.len());
    }

    /// The guest offers receive buffer `slot`, of `len` bytes.
    fn offer(&mut self, slot: u64, len: u32) {
        self.driver.offer(RECEIVE, &[writable(BUFFERS + slot * 4096, len)]);
        self.driver.kick(RECEIVE);
    }

    fn refused(&self) -> u64 {
        self.driver.device().counts().requests
    }
}

#[test]
fn the_guest_sees_its_address_and_mtu_and_no_offloads() {
    let rig = rig();
    let mut config = [0xaa; 16];
    rig.driver.config(0, &mut config[..8]);
    rig.driver.config(8, &mut config[8..]);
    assert_eq!(config[..6], MAC);
    assert_eq!(config[6..10], [0; 4]);
    assert_eq!(config[10..], [0xdc, 5, 0, 0, 0, 0]);
    // MAC, MTU, event index, version 1.
    assert_eq!(rig.driver.offered(), 1 << 5 | 1 << 3 | 1 << 29 | 1 << 32);
    let before = rig.driver.device().counts().registers;
    rig.driver.set(0x100, 0);
    rig.driver.config(0, &mut config[..4]);
    assert_eq!((&config[..4], rig.driver.device().counts().registers), (&MAC[..4], before + 1));
}

#[test]
fn a_file_that_cannot_be_waited_for_is_no_tap() {
    let tap = tempfile::tempfile().unwrap();
    assert!(Net::new(spec(tap, MTU)).is_err());
}

#[test]
fn frames_go_out_behind_a_header_of_zeros_whatever_the_guest_put_there() {
    let mut rig = rig();
    for header in [0, 1, 0xff] {
        let bytes = frame(header, MAC, 60);
        rig.send(&bytes);
        assert_eq!(rig.sent().unwrap(), [&[0; 12], &bytes[12..]].concat());
    }
    assert_eq!((rig.sent(), rig.refused()), (None, 0));
    assert_eq!([rig.driver.used(SEND), rig.driver.used(SEND)], [Some((0, 0)), Some((1, 0))]);
}

#[test]
fn a_frame_may_lie_in_many_buffers_that_end_anywhere() {
    let mut rig = rig();
    let bytes = frame(0, MAC, 200);
    rig.driver.write(2 * REGION_BYTES - 30, &bytes[..30]);
    rig.driver.write(HIGH, &bytes[30..]);
    let buffers = [
        readable(2 * REGION_BYTES - 30, 5),
        readable(2 * REGION_BYTES - 25, 0),
        readable(2 * REGION_BYTES - 25, 25),
        readable(HIGH, 182),
    ];
    rig.driver.offer(SEND, &buffers);
    rig.driver.kick(SEND);
    rig.driver.run(0);
    assert_eq!(rig.sent().unwrap(), bytes);
}

#[test]
fn a_frame_from_another_address_is_dropped_and_counted() {
    let mut rig = rig();
    let others = [[2, 0, 0, 0, 0, 8], [0; 6], [0xff; 6], [7, 0, 0, 0, 0, 2]];
    for (count, source) in (1..).zip(others) {
        rig.send(&frame(0, source, 60));
        assert_eq!((rig.sent(), rig.refused()), (None, count));
    }
    rig.send(&frame(0, MAC, 60));
    assert!(rig.sent().is_some());
}

#[test]
fn frames_of_every_allowed_length_go_out_and_no_other() {
    let cases = [(0, false), (11, false), (12, false), (25, false), (26, true), (27, true)];
    let cases = cases.into_iter().chain([(LONGEST, true), (LONGEST + 1, false), (1 << 17, false)]);
    for (bytes, allowed) in cases {
        let mut rig = rig();
        let all = frame(0, MAC, 1 << 18);
        rig.send(&all[..bytes]);
        let sent = rig.sent().map(|sent| sent.len());
        assert_eq!(sent, allowed.then_some(bytes), "{bytes} bytes");
        assert_eq!(rig.refused(), u64::from(!allowed), "{bytes} bytes");
        assert_eq!(rig.driver.used(SEND), Some((0, 0)), "{bytes} bytes");
    }
}

#[test]
fn an_mtu_of_its_own_moves_the_limit() {
    let (net, mut host) = net(9000);
    let mut driver = GuestDriver::new(Box::new(net), ram().unwrap()).unwrap();
    assert!(driver.start(1 << 32));
    for bytes in [9030, 9031] {
        driver.write(DATA, &frame(0, MAC, bytes - 12));
        driver.offer(SEND, &[readable(DATA, u32::try_from(bytes).unwrap())]);
    }
    driver.kick(SEND);
    driver.run(0);
    let mut into = vec![0; 1 << 16];
    assert_eq!(host.read(&mut into).unwrap(), 9030);
    assert_eq!(host.read(&mut into).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn frames_come_in_with_a_header_that_says_one_buffer_and_nothing_else() {
    let mut rig = rig();
    rig.offer(0, 2048);
    rig.driver.run(0);
    assert_eq!(rig.driver.used(RECEIVE), None);
    // DATA_VALID is no offload: the checksum is there.
    let mut bytes = frame(0, [9; 6], 60);
    bytes[0] = 2;
    rig.arrive(&bytes);
    rig.driver.run(1000);
    assert_eq!(rig.driver.used(RECEIVE), Some((0, 72)));
    let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(rig.driver.read(BUFFERS, 72), [&header, &bytes[12..]].concat());
    assert_eq!(rig.driver.interrupts(), 1);
}

#[test]
fn frames_that_a_guest_without_offloads_cannot_take_are_dropped() {
    let mut rig = rig();
    rig.offer(0, 4096);
    for (at, value) in [(0, 1), (1, 1), (1, 4), (1, 0x80)] {
        let mut bytes = frame(0, [9; 6], 60);
        bytes[at] = value;
        rig.arrive(&bytes);
    }
    for bytes in [1, 11, 12, 25, LONGEST + 1, LONGEST + 2, 60_000] {
        rig.arrive(&frame(0, [9; 6], 60_000)[..bytes]);
    }
    rig.driver.run(0);
    assert_eq!(rig.driver.used(RECEIVE), None);
    let longest = &frame(0, [9; 6], 2000)[..LONGEST];
    rig.arrive(longest);
    rig.driver.run(0);
    assert_eq!(rig.driver.used(RECEIVE), Some((0, 1530)));
    assert_eq!(rig.driver.read(BUFFERS + 12, LONGEST - 12), longest[12..]);
}

#[test]
fn receive_buffers_of_the_wrong_kind_cost_the_guest_a_frame_each() {
    let mut rig = rig();
    let wrong: [&[Buffer]; 5] = [
        &[writable(BUFFERS, 71)],
        &[writable(BUFFERS, 0)],
        &[readable(BUFFERS, 2048)],
        &[readable(BUFFERS, 12), writable(BUFFERS + 12, 2048)],
        &[writable(0xd000_0000, 2048)],
    ];
    for buffers in wrong {
        rig.driver.offer(RECEIVE, buffers);
    }
    rig.offer(0, 72);
    for number in 0..6 {
        rig.arrive(&frame(0, [number; 6], 60));
    }
    rig.driver.run(0);
    // The ring itself refuses the one outside of memory, at no frame's cost.
    let used: Vec<_> = std::iter::from_fn(|| rig.driver.used(RECEIVE)).collect();
    assert_eq!(used, [(0, 0), (1, 0), (2, 0), (3, 0), (5, 0), (6, 72)]);
    assert_eq!((rig.driver.read(BUFFERS + 18, 6), rig.refused()), (vec![4; 6], 5));
}

#[test]
fn chains_without_end_and_addresses_outside_memory_move_nothing() {
    for queue in [RECEIVE, SEND] {
        let mut rig = rig();
        rig.arrive(&frame(0, [9; 6], 60));
        let flags = NEXT | if queue == RECEIVE { WRITE } else { 0 };
        // A loop, one that leaves its table, one behind the end of memory, one that wraps.
        rig.driver.write_descriptor(queue, 0, (DATA, 64), flags, 0);
        rig.driver.write_descriptor(queue, 1, (DATA, 64), flags, 700);
        rig.driver.write_descriptor(queue, 2, (HIGH + REGION_BYTES - 20, 64), flags & WRITE, 0);
        rig.driver.write_descriptor(queue, 3, (u64::MAX - 20, 64), flags & WRITE, 0);
        for head in 0..4 {
            rig.driver.offer_head(queue, head);
        }
        rig.driver.kick(queue);
        assert!(rig.driver.run(0) < TURNS_MAX);
        assert_eq!((rig.sent(), rig.refused()), (None, 4), "queue {queue}");
        rig.driver.offer_head(queue, 256);
        rig.driver.kick(queue);
        assert!(rig.driver.run(0) < TURNS_MAX);
        assert_eq!(rig.driver.device().counts().needs_reset, 1, "queue {queue}");
    }
}

#[test]
fn frames_without_buffers_wait_in_the_tap_and_wake_nobody_twice() {
    let mut rig = rig();
    for number in 0..100 {
        rig.arrive(&frame(0, [number; 6], 60));
        assert!(rig.driver.run(0) <= 1);
    }
    assert_eq!(rig.driver.run(0), 0);
    for slot in 0..100 {
        rig.offer(slot, 2048);
    }
    rig.driver.run(0);
    for number in 0..100u8 {
        assert_eq!(rig.driver.used(RECEIVE), Some((number.into(), 72)));
        let source = rig.driver.read(BUFFERS + u64::from(number) * 4096 + 18, 6);
        assert_eq!(source, [number; 6]);
    }
}

#[test]
fn a_tap_that_takes_nothing_loses_frames_and_holds_up_nobody() {
    let mut rig = rig();
    let mut sent = 0;
    for _ in 0..4000 {
        rig.send(&frame(0, MAC, 1400));
        assert!(rig.driver.used(SEND).is_some());
    }
    assert_eq!(rig.driver.run(0), 0);
    while rig.sent().is_some() {
        sent += 1;
    }
    assert!((1..4000).contains(&sent), "{sent}");
    rig.send(&frame(0, MAC, 60));
    assert_eq!(rig.sent().map(|sent| sent.len()), Some(72));
    assert_eq!(rig.refused(), 0);
}

#[test]
fn a_tap_that_is_gone_leaves_a_device_that_loses_everything() {
    let mut rig = rig();
    drop(std::mem::replace(&mut rig.host, tempfile::tempfile().unwrap()));
    rig.offer(0, 2048);
    for _ in 0..3 {
        assert!(rig.driver.run(0) < 4);
        rig.driver.write(DATA, &frame(0, MAC, 60));
        rig.driver.offer(SEND, &[readable(DATA, 72)]);
        rig.driver.kick(SEND);
        assert!(rig.driver.run(0) < 4);
        assert!(rig.driver.used(SEND).is_some());
        assert_eq!(rig.driver.used(RECEIVE), None);
        assert!(rig.driver.start(1 << 32));
    }
}

#[test]
fn a_turn_moves_so_many_frames_each_way_and_comes_back() {
    let mut rig = rig();
    rig.driver.write(DATA, &frame(0, MAC, 60));
    for slot in 0..200 {
        rig.driver.offer(SEND, &[readable(DATA, 72)]);
        rig.arrive(&frame(0, [9; 6], 60));
        rig.driver.offer(RECEIVE, &[writable(BUFFERS + slot * 4096, 2048)]);
    }
    rig.driver.work(Wake::Host);
    for queue in [SEND, RECEIVE] {
        let moved = std::iter::from_fn(|| rig.driver.used(queue)).count();
        assert_eq!(moved, FRAMES_PER_TURN, "queue {queue}");
    }
    assert!(rig.driver.run(0) >= 2);
    for queue in [SEND, RECEIVE] {
        let moved = std::iter::from_fn(|| rig.driver.used(queue)).count();
        assert_eq!(moved, 200 - FRAMES_PER_TURN, "queue {queue}");
    }
}

#[test]
fn a_reset_forgets_the_frame_that_waited_and_not_the_tap() {
    let mut rig = rig();
    rig.arrive(&frame(0, [1; 6], 60));
    rig.driver.run(0);
    assert!(rig.driver.start(1 << 32));
    rig.driver.run(0);
    rig.offer(0, 2048);
    rig.driver.run(0);
    assert_eq!(rig.driver.used(RECEIVE), None);
    rig.driver.set(0x70, 0);
    rig.arrive(&frame(0, [2; 6], 60));
    rig.driver.run(0);
    assert_eq!(rig.driver.run(0), 0);
    assert!(rig.driver.start(1 << 32));
    rig.offer(0, 2048);
    rig.driver.run(0);
    assert_eq!(rig.driver.used(RECEIVE), Some((0, 72)));
    assert_eq!(rig.driver.read(BUFFERS + 18, 6), [2; 6]);
}

#[test]
fn a_driver_without_its_queues_keeps_nothing_awake() {
    for set_up in [[true, false], [false, true], [false, false]] {
        let mut rig = rig();
        rig.driver.negotiate(1 << 32);
        for queue in (0..2).filter(|queue| set_up[*queue]) {
            rig.driver.set_up_queue(queue, 256);
        }
        rig.driver.add_status(4);
        rig.arrive(&frame(0, [1; 6], 60));
        assert!(rig.driver.run(0) < 8, "{set_up:?}");
        rig.driver.kick(SEND);
        assert!(rig.driver.run(0) < 8, "{set_up:?}");
    }
}

#[test]
fn a_flood_of_nonsense_leaves_other_devices_their_turns() {
    let mut rig = rig();
    let ram = ram().unwrap();
    let mut other = GuestDriver::new(Box::new(Rng::new()), ram).unwrap();
    assert!(other.start(1 << 32));
    // An available ring that is always full of a chain outside of memory.
    rig.driver.write_descriptor(SEND, 0, (0xd000_0000, 64), 0, 0);
    for round in 1..=20u16 {
        rig.driver.set_available_index(SEND, round.wrapping_mul(256));
        rig.driver.work(Wake::Guest);
        other.offer(0, &[writable(DATA, 16)]);
        other.kick(0);
        other.run(0);
        assert!(other.used(0).is_some());
    }
    let [_, available, _] = ring_addresses(SEND);
    assert_ne!(rig.driver.read(available, 4), [0; 4]);
    assert!(rig.refused() <= 20 * 2 * 256);
    assert_eq!(rig.sent(), None);
}

#[test]
fn no_read_of_a_tap_that_was_given_blocking_blocks() {
    let (_host, tap) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None).unwrap();
    let tap: OwnedFd = tap;
    let net = Net::new(spec(tap.into(), MTU)).unwrap();
    assert_eq!((&net.tap.file).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// As `rig`, with so many bytes a second each way.
fn limited(receive: u64, send: u64) -> Rig {
    let (host, tap) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None)
            .unwrap();
    let limits = |rate| Limits { bandwidth: Limit::new(rate, None), operations: None };
    let spec = spec(tap.into(), MTU);
    let spec = NetSpec { receive: limits(receive), send: limits(send), ..spec };
    let device = Box::new(Net::new(spec).unwrap());
    let mut driver = GuestDriver::new(device, ram().unwrap()).unwrap();
    assert!(driver.start(1 << 32));
    driver.run(0);
    Rig { driver, host: host.into() }
}

#[test]
fn a_direction_over_its_limit_waits_and_the_other_goes_on() {
    // A token a second: the first frame leaves a debt of most of a minute.
    for queue in [RECEIVE, SEND] {
        let mut rig = if queue == RECEIVE { limited(1, 1 << 30) } else { limited(1 << 30, 1) };
        for slot in 0..4 {
            rig.offer(slot, 2048);
            rig.arrive(&frame(0, [9; 6], 60));
        }
        for _ in 0..4 {
            rig.send(&frame(0, MAC, 60));
        }
        assert_eq!(rig.driver.run(0), 0, "a queue that waits keeps nothing awake");
        let moved =
            [RECEIVE, SEND].map(|queue| std::iter::from_fn(|| rig.driver.used(queue)).count());
        let sent = std::iter::from_fn(|| rig.sent()).count();
        let expect = if queue == RECEIVE { [1, 4] } else { [4, 1] };
        assert_eq!((moved, sent), (expect, expect[1]));
        // A reset fills no bucket.
        assert!(rig.driver.start(1 << 32));
        rig.driver.run(0);
        rig.offer(0, 2048);
        rig.arrive(&frame(0, [9; 6], 60));
        rig.send(&frame(0, MAC, 60));
        assert_eq!(rig.driver.used(queue), None);
        // Without limits what waited moves, in its order, at once.
        let dial = usize::from(queue == SEND);
        assert!(rig.driver.device().set_limits(dial, Limits::default()));
        rig.driver.run(0);
        assert!(rig.driver.used(queue).is_some());
        assert!(!rig.driver.device().set_limits(2, Limits::default()));
    }
}

#[test]
fn a_frame_that_waits_moves_when_its_time_has_come() {
    let mut rig = limited(10_000, 10_000);
    for slot in 0..2 {
        rig.offer(slot, 2048);
        // A debt of a tenth of a second.
        rig.arrive(&frame(0, [9; 6], 1500));
        rig.send(&frame(0, MAC, 1500));
    }
    let mut moved = [0, 0];
    while moved != [2, 2] {
        assert!(rig.driver.run(10_000) > 0, "nothing wakes the device");
        for queue in [RECEIVE, SEND] {
            moved[queue] += std::iter::from_fn(|| rig.driver.used(queue)).count();
        }
    }
    assert_eq!(rig.driver.run(0), 0);
}

#[test]
fn a_queue_full_of_endless_chains_is_given_up_a_few_at_a_time() {
    let mut rig = rig();
    for head in 0..256 {
        rig.driver.write_descriptor(RECEIVE, head, (BUFFERS, 2048), NEXT | WRITE, head);
        rig.driver.offer_head(RECEIVE, head);
    }
    rig.arrive(&frame(0, [2, 0, 0, 0, 0, 9], 60));
    rig.driver.work(Wake::Host);
    let first = rig.refused();
    assert!((1..=17).contains(&first), "{first}");
    rig.driver.work(Wake::Guest);
    assert!((first + 1..=2 * 17).contains(&rig.refused()), "{}", rig.refused());
    rig.driver.run(0);
    assert_eq!(rig.refused(), 256);
    // The frame waits for the first buffer that is one.
    rig.offer(0, 2048);
    rig.driver.run(0);
    assert_eq!(rig.refused(), 256);
}
