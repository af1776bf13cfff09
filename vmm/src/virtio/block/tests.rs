//! The block device against a driver, well-meaning and otherwise.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that panics has found something"
)]

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::limiter::Limit;
use crate::virtio::driver::{
    Buffer, DATA, GuestDriver, HIGH, REGION_BYTES, ram, readable, writable,
};

const SECTORS: u64 = 64;
const HEADER_AT: u64 = DATA;
const STATUS_AT: u64 = DATA + 0x100;
const BUFFER_AT: u64 = DATA + 0x1000;
const UNSET: u8 = 0xee;

struct Rig {
    driver: GuestDriver,
    file: File,
}

fn disk_bytes() -> Vec<u8> {
    (0..SECTORS * 512).map(|i| (i / 512 * 7 + i % 251).to_le_bytes()[0]).collect()
}

fn rig(read_only: bool) -> Rig {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&disk_bytes()).unwrap();
    rig_of(BlockSpec::new(file.try_clone().unwrap(), read_only, "disk-7"), file)
}

fn rig_of(spec: BlockSpec, file: File) -> Rig {
    let ram = ram().unwrap();
    let device = Block::new(spec).unwrap();
    let mut driver = GuestDriver::new(Box::new(device), ram).unwrap();
    let offered = driver.offered();
    assert!(driver.start(offered & !(1 << 29)));
    driver.work(Wake::Guest);
    Rig { driver, file }
}

impl Rig {
    /// Offers a request without waiting for it.
    fn offer(&mut self, kind: u32, sector: u64, data: &[Buffer]) {
        let mut header = Vec::new();
        header.extend(kind.to_le_bytes());
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.write(HEADER_AT, &header);
        self.driver.write(STATUS_AT, &[UNSET]);
        let mut chain = vec![readable(HEADER_AT, 16)];
        chain.extend(data);
        chain.push(writable(STATUS_AT, 1));
        self.driver.offer(0, &chain);
    }

    /// Status byte and used length of a request.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        self.offer(kind, sector, data);
        self.driver.kick(0);
        self.driver.work(Wake::Guest);
        let (_, len) = self.driver.used(0).unwrap();
        (self.driver.read(STATUS_AT, 1)[0], len)
    }

    fn on_disk(&self, sector: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.file.read_exact_at(&mut read, sector * 512).unwrap();
        read
    }
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

#[test]
fn the_configuration_tells_capacity_and_limits() {
    let rig = rig(false);
    let mut bytes = [0; 8];
    rig.driver.config(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), SECTORS);
    let mut word = [0; 4];
    for (at, expect) in [(8, 1 << 20), (12, 126), (20, 512)] {
        rig.driver.config(at, &mut word);
        assert_eq!(u32::from_le_bytes(word), expect, "at {at}");
    }
    let ro = 1 << 5;
    let flush = 1 << 9;
    assert_eq!(rig.driver.offered() & (ro | flush), flush);
    assert_eq!(super::tests::rig(true).driver.offered() & (ro | flush), ro);
}

#[test]
fn reads_scatter_over_segments_of_any_size_and_place() {
    let mut rig = rig(true);
    let segments = [
        writable(BUFFER_AT, 1),
        writable(BUFFER_AT + 0x1000, 511),
        writable(REGION_BYTES - 100, 1000),
        writable(HIGH + 5, 24),
    ];
    assert_eq!(rig.request(IN, 3, &segments), (OK, 1536 + 1));
    let mut read = Vec::new();
    for segment in segments {
        read.extend(rig.driver.read(segment.addr, segment.len as usize));
    }
    assert_eq!(read, disk_bytes()[3 * 512..6 * 512]);
}

#[test]
fn a_request_of_the_most_segments_is_served() {
    let mut rig = rig(false);
    let mut segments: Vec<_> = (0..125).map(|i| writable(BUFFER_AT + i * 300, 200)).collect();
    segments.push(writable(HIGH, 20_480 + 512 * 12 - 25_000));
    let total: u32 = segments.iter().map(|it| it.len).sum();
    assert_eq!(total % 512, 0);
    assert_eq!(rig.request(IN, 1, &segments), (OK, total + 1));
    let mut read = Vec::new();
    for segment in &segments {
        read.extend(rig.driver.read(segment.addr, segment.len as usize));
    }
    assert_eq!(read, disk_bytes()[512..512 + total as usize]);
}

#[test]
fn writes_gather_and_leave_the_rest_alone() {
    let mut rig = rig(false);
    rig.driver.write(BUFFER_AT, &[1; 512]);
    rig.driver.write(HIGH, &[2; 512]);
    let data = [readable(BUFFER_AT, 512), readable(HIGH, 300), readable(HIGH, 212)];
    assert_eq!(rig.request(OUT, 10, &data), (OK, 1));
    let mut expect = disk_bytes();
    expect[5120..5632].fill(1);
    expect[5632..6144].fill(2);
    assert_eq!(rig.on_disk(0, expect.len()), expect);
    assert_eq!(rig.request(FLUSH, 0, &[]), (OK, 1));
}

#[test]
fn the_header_may_share_its_buffer_with_data() {
    let mut rig = rig(false);
    let mut bytes = vec![];
    bytes.extend(OUT.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(5u64.to_le_bytes());
    bytes.extend([9; 512]);
    rig.driver.write(BUFFER_AT, &bytes);
    // A header split over two buffers is as good (section 2.7.4).
    rig.driver
        .offer(0, &[readable(BUFFER_AT, 7), readable(BUFFER_AT + 7, 521), writable(STATUS_AT, 1)]);
    rig.driver.work(Wake::Guest);
    assert_eq!(rig.driver.used(0), Some((0, 1)));
    assert_eq!(rig.on_disk(5, 512), [9; 512]);
}

#[test]
fn the_identity_is_told_padded_with_zeros() {
    let mut rig = rig(true);
    assert_eq!(rig.request(GET_ID, 0, &[writable(BUFFER_AT, 20)]), (OK, 21));
    assert_eq!(rig.driver.read(BUFFER_AT, 20), *b"disk-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(rig.request(GET_ID, 0, &[writable(BUFFER_AT, 19)]), (IOERR, 1));
}

#[test]
fn requests_that_do_not_fit_the_disk_fail_and_move_nothing() {
    let one = [writable(BUFFER_AT, 512)];
    let out = [readable(BUFFER_AT, 512)];
    let odd = [writable(BUFFER_AT, 511)];
    let cases: &[(&str, u32, u64, &[Buffer], u8)] = &[
        ("the last sector", IN, 63, &one, OK),
        ("past the end", IN, 64, &one, IOERR),
        ("across the end", IN, 63, &[writable(BUFFER_AT, 1024)], IOERR),
        ("far past the end", IN, u64::MAX, &one, IOERR),
        ("wrapping in bytes", IN, u64::MAX / 512 + 1, &one, IOERR),
        ("wrapping in sectors", IN, u64::MAX, &[writable(BUFFER_AT, 1024)], IOERR),
        ("no whole sector", IN, 0, &odd, IOERR),
        ("nothing", IN, 0, &[], OK),
        ("nothing past the end", IN, 65, &[], IOERR),
        ("a read with data", IN, 0, &[readable(BUFFER_AT, 512), writable(BUFFER_AT, 512)], IOERR),
        ("a write past the end", OUT, 64, &out, IOERR),
        ("a write of no whole sector", OUT, 0, &[readable(BUFFER_AT, 513)], IOERR),
        (
            "a write that wants data",
            OUT,
            0,
            &[readable(BUFFER_AT, 512), writable(BUFFER_AT, 512)],
            IOERR,
        ),
        ("discard", 11, 0, &[readable(BUFFER_AT, 16)], UNSUPP),
        ("a type nobody knows", 0xffff_ffff, 0, &one, UNSUPP),
    ];
    for &(name, kind, sector, data, expect) in cases {
        let mut rig = rig(false);
        rig.driver.write(BUFFER_AT, &[0x55; 1024]);
        let (status, used) = rig.request(kind, sector, data);
        assert_eq!(status, expect, "{name}");
        if expect != OK {
            assert_eq!(used, 1, "{name}");
            assert_eq!(rig.driver.read(BUFFER_AT, 1024), [0x55; 1024], "{name}");
            assert_eq!(rig.driver.device().counts().requests, 1, "{name}");
        }
        assert_eq!(rig.on_disk(0, disk_bytes().len()), disk_bytes(), "{name}");
    }
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let mut rig = rig(true);
    assert_eq!(rig.request(OUT, 0, &[readable(BUFFER_AT, 512)]), (IOERR, 1));
    assert_eq!(rig.request(FLUSH, 0, &[]), (UNSUPP, 1));
    assert_eq!(rig.on_disk(0, disk_bytes().len()), disk_bytes());
}

#[test]
fn requests_without_header_or_status_come_back_unused() {
    let cases: &[&[Buffer]] = &[
        &[readable(HEADER_AT, 16)],
        &[readable(HEADER_AT, 15), writable(STATUS_AT, 1)],
        &[writable(STATUS_AT, 1)],
        &[readable(HEADER_AT, 16), writable(STATUS_AT, 0)],
    ];
    for buffers in cases {
        let mut rig = rig(false);
        rig.driver.write(STATUS_AT, &[UNSET]);
        rig.driver.offer(0, buffers);
        rig.driver.work(Wake::Guest);
        assert_eq!(rig.driver.used(0), Some((0, 0)));
        assert_eq!(rig.driver.read(STATUS_AT, 1), [UNSET]);
    }
}

#[test]
fn a_batch_is_served_in_order_with_one_interrupt() {
    let mut rig = rig(false);
    for _ in 0..40 {
        rig.offer(IN, 1, &[writable(BUFFER_AT, 512)]);
    }
    rig.driver.kick(0);
    rig.driver.work(Wake::Guest);
    let heads: Vec<_> = std::iter::from_fn(|| rig.driver.used(0)).map(|(head, _)| head).collect();
    assert_eq!(heads, (0..40).map(|i| i * 3).collect::<Vec<_>>());
    assert_eq!(rig.driver.interrupts(), 1);
}

#[test]
fn a_disk_that_shrinks_under_the_guest_gives_errors() {
    let mut rig = rig(false);
    rig.file.set_len(512 * 4 + 100).unwrap();
    assert_eq!(rig.request(IN, 3, &[writable(BUFFER_AT, 512)]), (OK, 513));
    assert_eq!(rig.request(IN, 4, &[writable(BUFFER_AT, 512)]), (IOERR, 1));
    assert_eq!(rig.request(IN, 9, &[writable(BUFFER_AT, 512)]), (IOERR, 1));
}

#[test]
fn disks_too_small_are_refused_and_odd_sizes_rounded_down() {
    for (bytes, expect) in [(0, None), (511, None), (512, Some(1)), (1535, Some(2))] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        let block = Block::new(BlockSpec::new(file, true, "d"));
        assert_eq!(block.ok().map(|it| it.sectors()), expect, "{bytes} bytes");
    }
    let file = tempfile::tempfile().unwrap();
    let error = Block::new(BlockSpec::new(file, true, "d")).unwrap_err();
    assert_eq!(error.to_string(), "disk d holds 0 bytes, allowed are 512 and more");
    let file = tempfile::tempfile().unwrap();
    let serial = "a serial of 21 bytes.".to_owned();
    let error = Block::new(BlockSpec::new(file, true, &serial)).unwrap_err();
    assert!(matches!(error, BlockError::Serial { .. }));
}

#[test]
fn a_file_that_cannot_be_written_gives_errors_and_not_a_dead_device() {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(4096).unwrap();
    let spec = BlockSpec::new(File::open(named.path()).unwrap(), false, "d");
    let ram = ram().unwrap();
    let mut driver = GuestDriver::new(Box::new(Block::new(spec).unwrap()), ram).unwrap();
    let offered = driver.offered();
    assert!(driver.start(offered));
    let mut rig = Rig { driver, file: named.reopen().unwrap() };
    assert_eq!(rig.request(OUT, 0, &[readable(BUFFER_AT, 512)]), (IOERR, 1));
    assert_eq!(rig.request(IN, 0, &[writable(BUFFER_AT, 512)]), (OK, 513));
}

#[test]
fn its_own_thread_serves_it_until_the_guest_has_its_answer() {
    let mut rig = rig(false);
    let device = Arc::clone(rig.driver.device());
    let worker = crate::virtio::spawn_worker(device, |error| panic!("{error}"));
    assert!(worker.is_ok());
    let interrupt = rig.driver.interrupt().try_clone().unwrap();
    rig.offer(IN, 2, &[writable(BUFFER_AT, 1024)]);
    rig.driver.kick(0);
    wait_readable(&interrupt);
    assert_eq!(rig.driver.used(0), Some((0, 1025)));
    assert_eq!(rig.driver.read(BUFFER_AT, 1024), disk_bytes()[1024..2048]);
}

fn wait_readable(eventfd: &vmm_sys_util::eventfd::EventFd) {
    use std::os::fd::AsRawFd;
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll.ctl(ControlOperation::Add, eventfd.as_raw_fd(), event).unwrap();
    assert_eq!(epoll.wait(10_000, &mut [EpollEvent::default()]).unwrap(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written and read in whatever pieces, the disk behaves like an array of bytes.
    #[test]
    fn the_disk_is_an_array_of_sectors(
        operations in prop::collection::vec(
            (any::<bool>(), 0u64..70, 0u32..6, prop::collection::vec(1u32..900, 0..5), any::<u8>()),
            1..20,
        ),
    ) {
        let mut rig = rig(false);
        let mut model = disk_bytes();
        for (write, sector, sectors, cuts, fill) in operations {
            let bytes = sectors * 512;
            let mut segments = Vec::new();
            let mut done = 0;
            for cut in cuts {
                let len = cut.min(bytes - done);
                segments.push((BUFFER_AT + u64::from(done), len));
                done += len;
            }
            segments.push((BUFFER_AT + u64::from(done), bytes - done));
            let start = usize::try_from(sector * 512).unwrap();
            let range = start..start + bytes as usize;
            let fits = sector + u64::from(sectors) <= SECTORS;
            let data: Vec<_> = segments
                .into_iter()
                .map(|(addr, len)| Buffer { addr, len, writable: !write })
                .collect();
            rig.driver.write(BUFFER_AT, &vec![fill; bytes as usize]);
            let (status, _) = rig.request(u32::from(write), sector, &data);
            prop_assert_eq!(status, if fits { OK } else { IOERR });
            if fits && write {
                model[range].fill(fill);
            } else if fits {
                prop_assert_eq!(rig.driver.read(BUFFER_AT, bytes as usize), &model[range]);
            }
        }
        let mut disk = Vec::new();
        let mut file = rig.file.try_clone().unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut disk).unwrap();
        prop_assert_eq!(disk, model);
    }
}

/// A disk with so many bytes and requests a second.
fn limited(bandwidth: u64, operations: u64) -> Rig {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&disk_bytes()).unwrap();
    let spec = BlockSpec::new(file.try_clone().unwrap(), false, "disk-8");
    let [bandwidth, operations] = [bandwidth, operations].map(|rate| Limit::new(rate, None));
    rig_of(BlockSpec { limits: Limits { bandwidth, operations }, ..spec }, file)
}

#[test]
fn a_disk_over_its_limit_leaves_its_queue_and_goes_on_in_order() {
    for (bandwidth, operations) in [(1, 1 << 20), (1 << 30, 1)] {
        let mut rig = limited(bandwidth, operations);
        for sector in 0..5 {
            rig.driver
                .write(HEADER_AT + sector * 16, &[&[0; 8][..], &sector.to_le_bytes()].concat());
            let buffer = writable(BUFFER_AT + sector * 512, 512);
            let status = writable(STATUS_AT + sector, 1);
            rig.driver.offer(0, &[readable(HEADER_AT + sector * 16, 16), buffer, status]);
        }
        rig.driver.kick(0);
        rig.driver.run(0);
        assert_eq!(rig.driver.run(0), 0, "a queue that waits keeps nothing awake");
        let first = std::iter::from_fn(|| rig.driver.used(0)).count();
        assert!((1..5).contains(&first), "{first}");
        assert!(rig.driver.device().set_limits(0, Limits::default()));
        rig.driver.run(0);
        let heads: Vec<_> = std::iter::from_fn(|| rig.driver.used(0)).collect();
        let expect: Vec<_> = (0..5).skip(first).map(|number| (number * 3, 513)).collect();
        assert_eq!(heads, expect);
        assert_eq!(rig.driver.read(BUFFER_AT, 5 * 512), disk_bytes()[..5 * 512]);
        assert!(!rig.driver.device().set_limits(1, Limits::default()));
    }
}

#[test]
fn a_request_that_waits_is_served_when_its_time_has_come_and_a_reset_forgets_it() {
    let mut rig = limited(10_000, 1 << 20);
    let read = |rig: &mut Rig| rig.offer(0, 0, &[writable(BUFFER_AT, 1536)]);
    read(&mut rig);
    rig.driver.kick(0);
    rig.driver.run(0);
    read(&mut rig);
    rig.driver.kick(0);
    while rig.driver.used(0).is_some() {}
    while rig.driver.used(0).is_none() {
        assert!(rig.driver.run(10_000) > 0, "nothing wakes the device");
    }
    read(&mut rig);
    rig.driver.kick(0);
    rig.driver.run(0);
    // What it took before the reset is taken.
    assert!(
        rig.driver
            .device()
            .set_limits(0, Limits { bandwidth: Limit::new(1, None), operations: None })
    );
    assert!(rig.driver.start(1 << 32));
    rig.driver.run(0);
    assert_eq!(rig.driver.run(0), 0);
    read(&mut rig);
    rig.driver.kick(0);
    rig.driver.run(0);
    assert_eq!(rig.driver.used(0), None);
}
