//! The transport against a driver that follows the rules, and one that does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use proptest::prelude::*;

use super::registers::{offset, status};
use super::*;
use crate::virtio::driver::{
    GuestDriver, HIGH, REGION_BYTES, ram, readable, ring_addresses, writable,
};
use crate::virtio::{Answer, Chain};

/// Counts what is asked of it, and gives every chain back with its writable length.
#[derive(Debug, Default, Clone)]
struct Calls {
    activated: Arc<AtomicUsize>,
    processed: Arc<AtomicUsize>,
    reset: Arc<AtomicUsize>,
}

struct Echo {
    calls: Calls,
    chain: Chain,
}

const FEATURE: u64 = 1 << 3;
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

impl VirtioDevice for Echo {
    fn traits(&self) -> DeviceTraits {
        DeviceTraits {
            name: "echo",
            device_id: 42,
            features: FEATURE,
            queue_sizes: &[16, 8],
            config: vec![1, 2, 3, 4, 5],
            dials: vec![],
        }
    }

    fn activate(&mut self, _features: u64) {
        self.calls.activated.fetch_add(1, Ordering::Relaxed);
    }

    fn process(&mut self, rings: &mut Rings, _wake: Wake) {
        self.calls.processed.fetch_add(1, Ordering::Relaxed);
        for queue in 0..2 {
            rings.drain(queue, &mut self.chain, |_, chain| {
                Answer::Used(u32::try_from(chain.writable_bytes()).unwrap())
            });
        }
    }

    fn reset(&mut self) {
        self.calls.reset.fetch_add(1, Ordering::Relaxed);
    }
}

fn echo() -> (GuestDriver, Calls) {
    let calls = Calls::default();
    let device = Echo { calls: calls.clone(), chain: Chain::with_capacity(16) };
    let ram = ram().unwrap();
    (GuestDriver::new(Box::new(device), ram).unwrap(), calls)
}

/// A driver that has said DRIVER_OK, and a worker that has heard of it.
fn running() -> (GuestDriver, Calls) {
    let (mut driver, calls) = echo();
    assert!(driver.start(VERSION_1));
    driver.work(Wake::Guest);
    (driver, calls)
}

fn refused(driver: &GuestDriver) -> u64 {
    driver.device().counts().registers
}

#[test]
fn identity_registers_read_as_the_specification_says() {
    let (driver, _) = echo();
    assert_eq!(driver.get(offset::MAGIC), 0x7472_6976);
    assert_eq!(driver.get(offset::VERSION), 2);
    assert_eq!(driver.get(offset::DEVICE_ID), 42);
    assert_eq!(driver.offered(), FEATURE | VERSION_1 | EVENT_IDX);
    assert_eq!(driver.get(offset::QUEUE_NUM_MAX), 16);
    driver.set(offset::QUEUE_SEL, 1);
    assert_eq!(driver.get(offset::QUEUE_NUM_MAX), 8);
    driver.set(offset::QUEUE_SEL, 2);
    assert_eq!(driver.get(offset::QUEUE_NUM_MAX), 0);
    assert_eq!(driver.get(offset::SHM_LEN_LOW), u32::MAX);
    assert_eq!(driver.get(offset::CONFIG_GENERATION), 0);
    assert_eq!(refused(&driver), 0);
}

#[test]
fn configuration_is_read_in_any_width_and_never_written() {
    let (driver, _) = echo();
    let mut bytes = [9; 4];
    driver.config(0, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4]);
    driver.config(3, &mut bytes);
    assert_eq!(bytes, [4, 5, 0, 0]);
    let mut byte = [9];
    driver.config(4, &mut byte);
    assert_eq!(byte, [5]);
    driver.config(0xeff, &mut byte);
    assert_eq!(byte, [0]);
    assert_eq!(refused(&driver), 0);
    driver.set(CONFIG, 77);
    driver.device().write(CONFIG, &[1]);
    assert_eq!(refused(&driver), 2);
    driver.config(0, &mut bytes);
    assert_eq!(bytes, [1, 2, 3, 4]);
}

#[test]
fn accesses_of_odd_sizes_and_places_do_nothing() {
    let (driver, _) = echo();
    for len in [0, 1, 2, 3, 5, 8] {
        let mut bytes = vec![0xaa; len];
        driver.device().read(offset::MAGIC, &mut bytes);
        assert_eq!(bytes, vec![0; len]);
        driver.device().write(offset::STATUS, &vec![1; len]);
    }
    let mut bytes = [0xaa; 4];
    for at in [1, 2, 3, 0x18, 0xb1, 0xff, u64::MAX] {
        driver.device().read(at, &mut bytes);
        assert_eq!(bytes, [0; 4], "at {at:#x}");
        driver.set(at, u32::MAX);
    }
    assert_eq!(driver.status(), 0);
    // The read at u64::MAX lies in the configuration, where reading is no offence.
    assert_eq!(refused(&driver), 6 + 6 + 6 + 7);
}

#[test]
fn a_driver_that_follows_the_rules_reaches_driver_ok_and_its_buffers_are_used() {
    let (mut driver, calls) = running();
    assert_eq!(calls.activated.load(Ordering::Relaxed), 1);
    let head = driver.offer(1, &[readable(0x4_0000, 10), writable(0x4_1000, 30)]);
    driver.kick(1);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(1), Some((u32::from(head), 30)));
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.get(offset::INTERRUPT_STATUS), 1);
    driver.set(offset::INTERRUPT_ACK, 1);
    assert_eq!(driver.get(offset::INTERRUPT_STATUS), 0);
    assert_eq!(driver.device().counts(), Counts::default());
}

#[test]
fn features_are_refused_when_not_offered_or_without_version_1() {
    for (features, agreed) in [
        (VERSION_1, true),
        (VERSION_1 | FEATURE, true),
        (FEATURE, false),
        (0, false),
        (VERSION_1 | 1 << 4, false),
        (VERSION_1 | 1 << 63, false),
    ] {
        let (mut driver, calls) = echo();
        assert_eq!(driver.start(features), agreed, "{features:#x}");
        driver.work(Wake::Guest);
        assert_eq!(calls.activated.load(Ordering::Relaxed), usize::from(agreed));
    }
}

#[test]
fn features_are_fixed_once_agreed() {
    let (mut driver, _) = echo();
    driver.negotiate(VERSION_1);
    let before = refused(&driver);
    driver.set(offset::DRIVER_FEATURES_SEL, 0);
    driver.set(offset::DRIVER_FEATURES, 0xffff_ffff);
    assert_eq!(refused(&driver), before + 1);
}

#[test]
fn status_bits_come_in_order_and_are_taken_away_by_reset_only() {
    use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK};
    let (driver, _) = echo();
    for nonsense in
        [DRIVER, FEATURES_OK, DRIVER_OK, 0x10, 0x100, ACKNOWLEDGE | DRIVER | FEATURES_OK]
    {
        driver.set(offset::STATUS, nonsense);
        assert_eq!(driver.status(), 0, "{nonsense:#x}");
    }
    driver.set(offset::STATUS, ACKNOWLEDGE);
    driver.set(offset::STATUS, ACKNOWLEDGE | DRIVER);
    driver.set(offset::STATUS, ACKNOWLEDGE);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.set(offset::STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.set(offset::STATUS, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_driver_that_gave_up_must_reset() {
    let (mut driver, calls) = echo();
    driver.negotiate(VERSION_1);
    driver.add_status(status::FAILED);
    driver.set_up_queue(0, 16);
    driver.add_status(status::DRIVER_OK);
    driver.work(Wake::Guest);
    assert_eq!(driver.status() & status::DRIVER_OK, 0);
    assert_eq!(driver.get(offset::QUEUE_READY), 0);
    assert_eq!(calls.activated.load(Ordering::Relaxed), 0);
}

#[test]
fn queue_sizes_that_make_no_sense_are_refused() {
    for size in [0, 3, 17, 32, 0x8000, 0xffff, 0x1_0000, 0x1_0010, u32::MAX] {
        let (mut driver, _) = echo();
        driver.negotiate(VERSION_1);
        driver.set_up_queue(0, 16);
        driver.set(offset::QUEUE_READY, 0);
        // A size that was fine before does not make the queue ready with the wrong one written after it.
        let before = refused(&driver);
        driver.set(offset::QUEUE_NUM, size);
        assert_eq!(refused(&driver), before + 1, "{size}");
    }
    let (driver, _) = echo();
    driver.set(offset::QUEUE_READY, 1);
    assert_eq!(driver.get(offset::QUEUE_READY), 0, "before FEATURES_OK");
}

#[test]
fn queue_addresses_outside_memory_or_unaligned_are_refused() {
    let [table, available, used] = ring_addresses(0);
    let end = 2 * REGION_BYTES;
    for (registers, ready) in [
        ([table, available, used], true),
        ([end - 256, available, used], true),
        ([end - 240, available, used], false),
        ([table, end - 38, used], true),
        ([table, end - 36, used], false),
        // The last words of the rings: 6 + 2 * 16 and 6 + 8 * 16 bytes, aligned to 2 and 4.
        ([table, available, end - 136], true),
        ([table, available, end - 132], false),
        ([HIGH, HIGH + 0x1000, HIGH + 0x2000], true),
        ([0, available, used], false),
        ([table, 0, used], false),
        ([table, available, 0], false),
        ([table + 8, available, used], false),
        ([table, available + 1, used], false),
        ([table, available, used + 2], false),
        ([0xd000_0000, available, used], false),
        ([u64::MAX - 15, available, used], false),
        ([table, u64::MAX - 1, used], false),
        ([table, available, u64::MAX - 3], false),
    ] {
        let (mut driver, _) = echo();
        driver.negotiate(VERSION_1);
        driver.set(offset::QUEUE_SEL, 0);
        driver.set(offset::QUEUE_NUM, 16);
        let places = [offset::QUEUE_DESC_LOW, offset::QUEUE_DRIVER_LOW, offset::QUEUE_DEVICE_LOW];
        for (place, address) in places.into_iter().zip(registers) {
            driver.set(place, u32::try_from(address & 0xffff_ffff).unwrap());
            driver.set(place + 4, u32::try_from(address >> 32).unwrap());
        }
        driver.set(offset::QUEUE_READY, 1);
        assert_eq!(driver.get(offset::QUEUE_READY), u32::from(ready), "{registers:x?}");
    }
}

#[test]
fn queue_registers_are_fixed_after_ready_and_after_driver_ok() {
    let registers = [
        offset::QUEUE_NUM,
        offset::QUEUE_DESC_LOW,
        offset::QUEUE_DESC_HIGH,
        offset::QUEUE_DRIVER_LOW,
        offset::QUEUE_DRIVER_HIGH,
        offset::QUEUE_DEVICE_LOW,
        offset::QUEUE_DEVICE_HIGH,
    ];
    let (mut driver, _) = running();
    for queue in 0..2 {
        driver.set(offset::QUEUE_SEL, queue);
        let before = refused(&driver);
        for register in registers {
            driver.set(register, 0x10);
        }
        driver.set(offset::QUEUE_READY, 0);
        assert_eq!(refused(&driver), before + 8);
        assert_eq!(driver.get(offset::QUEUE_READY), 1);
    }
    // The device still uses the rings it was given.
    let head = driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.kick(0);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((u32::from(head), 4)));
}

#[test]
fn notifications_count_only_for_queues_that_exist_on_a_running_device() {
    let (driver, _) = echo();
    driver.kick(0);
    assert_eq!(refused(&driver), 1);
    let (driver, _) = running();
    for queue in [2, 3, 0xffff, u32::MAX] {
        let before = refused(&driver);
        driver.set(offset::QUEUE_NOTIFY, queue);
        assert_eq!(refused(&driver), before + 1);
    }
}

#[test]
fn an_index_that_jumps_needs_a_reset_and_a_reset_mends_it() {
    for jump in [17, 0x8000, 0xffff] {
        let (mut driver, _) = running();
        driver.set_available_index(0, jump);
        driver.kick(0);
        driver.work(Wake::Guest);
        assert_eq!(driver.status() & status::NEEDS_RESET, status::NEEDS_RESET);
        assert_eq!(driver.get(offset::INTERRUPT_STATUS), 2);
        assert_eq!(driver.interrupts(), 1);
        assert_eq!(driver.device().counts().needs_reset, 1);
        // More of it changes nothing.
        driver.kick(0);
        driver.work(Wake::Guest);
        assert_eq!(driver.device().counts().needs_reset, 1);
        assert!(driver.start(VERSION_1));
        assert_eq!(driver.status() & status::NEEDS_RESET, 0);
        driver.offer(0, &[writable(0x4_0000, 4)]);
        driver.work(Wake::Guest);
        assert_eq!(driver.used(0), Some((0, 4)));
    }
}

#[test]
fn a_head_outside_the_table_needs_a_reset() {
    for head in [16, 17, 0xffff] {
        let (mut driver, _) = running();
        driver.offer_head(0, head);
        driver.work(Wake::Guest);
        assert_eq!(driver.status() & status::NEEDS_RESET, status::NEEDS_RESET, "{head}");
        assert_eq!(driver.used(0), None);
    }
}

#[test]
fn chains_that_make_no_sense_come_back_unused() {
    use crate::virtio::driver::{NEXT, WRITE};
    const INDIRECT: u16 = 4;
    let fine = 0x4_0000;
    let end = 2 * REGION_BYTES;
    type Descriptor = (u64, u32, u16, u16);
    let cases: &[(&str, &[Descriptor])] = &[
        ("a loop of one", &[(fine, 4, NEXT, 0)]),
        ("a loop of two", &[(fine, 4, NEXT, 1), (fine, 4, NEXT, 0)]),
        ("a next outside the table", &[(fine, 4, NEXT, 16)]),
        ("a next far outside the table", &[(fine, 4, NEXT, 0xffff)]),
        ("past the end of memory", &[(end - 3, 4, WRITE, 0)]),
        ("in the hole", &[(0xd000_0000, 4, WRITE, 0)]),
        ("wrapping around", &[(u64::MAX - 1, 4, WRITE, 0)]),
        ("huge", &[(fine, u32::MAX, WRITE, 0)]),
        ("readable after writable", &[(fine, 4, WRITE | NEXT, 1), (fine, 4, 0, 0)]),
        ("an indirect table of an odd length", &[(fine, 17, INDIRECT, 0)]),
        ("an empty indirect table", &[(fine, 0, INDIRECT, 0)]),
        ("an indirect table outside memory", &[(end, 16, INDIRECT, 0)]),
    ];
    for (name, descriptors) in cases {
        let (mut driver, _) = running();
        for (slot, &(addr, len, flags, next)) in descriptors.iter().enumerate() {
            driver.write_descriptor(0, u16::try_from(slot).unwrap(), (addr, len), flags, next);
        }
        driver.offer_head(0, 0);
        driver.work(Wake::Guest);
        assert_eq!(driver.used(0), Some((0, 0)), "{name}");
        assert_eq!(driver.device().counts().requests, 1, "{name}");
        assert_eq!(driver.status() & status::NEEDS_RESET, 0, "{name}");
    }
}

#[test]
fn an_indirect_table_longer_than_the_queue_is_cut_off() {
    const INDIRECT: u16 = 4;
    let (mut driver, _) = running();
    // 65,535 entries, each naming its successor.
    for entry in 0..65_535u64 {
        let mut bytes = Vec::new();
        bytes.extend(0x4_0000u64.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(u16::from(entry != 65_534).to_le_bytes());
        bytes.extend(u16::try_from(entry + 1).unwrap_or(0).to_le_bytes());
        driver.write(0x8_0000 + entry * 16, &bytes);
    }
    driver.write_descriptor(0, 0, (0x8_0000, 65_535 * 16), INDIRECT, 0);
    driver.offer_head(0, 0);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((0, 0)));
    assert_eq!(driver.device().counts().requests, 1);
}

#[test]
fn a_buffer_across_two_regions_is_one_buffer_and_an_empty_one_is_none() {
    let (mut driver, _) = running();
    driver
        .offer(0, &[readable(0x4_0000, 0), writable(REGION_BYTES - 8, 16), writable(0x4_0000, 0)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((0, 16)));
    assert_eq!(driver.device().counts(), Counts::default());
}

#[test]
fn interrupts_obey_the_driver() {
    // Without EVENT_IDX: a flag.
    let (mut driver, _) = running();
    driver.set_available_flags(0, 1);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.work(Wake::Guest);
    assert!(driver.used(0).is_some());
    assert_eq!(driver.interrupts(), 0);
    // With it: an index, and one interrupt for a batch.
    let (mut driver, _) = echo();
    assert!(driver.start(VERSION_1 | EVENT_IDX));
    driver.work(Wake::Guest);
    driver.set_used_event(0, 2);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.interrupts(), 0);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn reset_takes_the_queues_and_tells_the_model_before_the_next_activation() {
    let (mut driver, calls) = running();
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.get(offset::INTERRUPT_STATUS), 1);
    driver.offer(0, &[writable(0x4_0000, 4)]);
    driver.set(offset::STATUS, 0);
    assert_eq!(driver.get(offset::INTERRUPT_STATUS), 0);
    driver.work(Wake::Guest);
    assert!(driver.used(0).is_some());
    assert_eq!(driver.used(0), None);
    assert_eq!(driver.status(), 0);
    assert_eq!(driver.get(offset::QUEUE_READY), 0);
    let resets = calls.reset.load(Ordering::Relaxed);
    assert!(driver.start(VERSION_1));
    driver.set(offset::STATUS, 0);
    assert!(driver.start(VERSION_1));
    driver.work(Wake::Guest);
    assert!(calls.reset.load(Ordering::Relaxed) > resets);
    assert_eq!(calls.activated.load(Ordering::Relaxed), 2);
}

/// Waits inside a request until it is let go, then tells what happened afterwards.
struct Slow {
    chain: Chain,
    entered: mpsc::Sender<()>,
}

impl VirtioDevice for Slow {
    fn traits(&self) -> DeviceTraits {
        DeviceTraits {
            name: "slow",
            device_id: 1,
            features: 0,
            queue_sizes: &[16],
            config: vec![],
            dials: vec![],
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, rings: &mut Rings, _wake: Wake) {
        let let_go = rings.let_go();
        rings.drain(0, &mut self.chain, |ram, chain| {
            let _ = self.entered.send(());
            while !let_go.is_set() {
                thread::yield_now();
            }
            chain.write_at(ram, 0, &[1]);
            Answer::Used(1)
        });
    }

    fn reset(&mut self) {}
}

#[test]
fn reset_waits_for_the_request_in_hand_and_none_follows() {
    let (entered, inside) = mpsc::channel();
    let device = Slow { chain: Chain::with_capacity(16), entered };
    let ram = ram().unwrap();
    let mut driver = GuestDriver::new(Box::new(device), ram).unwrap();
    let device = Arc::clone(driver.device());
    let worker = crate::virtio::spawn_worker(device, |error| panic!("{error}"));
    assert!(worker.is_ok());
    assert!(driver.start(VERSION_1));
    driver.offer(0, &[writable(0x4_0000, 1)]);
    driver.offer(0, &[writable(0x4_0001, 1)]);
    driver.kick(0);
    inside.recv().unwrap();
    driver.set(offset::STATUS, 0);
    assert_eq!(driver.status(), 0);
    // From here on the driver may use the memory for something else: it stays as it is.
    assert_eq!(driver.read(0x4_0000, 2), [1, 0]);
    driver.write(0x4_0000, &[7, 7]);
    assert!(inside.try_recv().is_err());
    assert_eq!(driver.read(0x4_0000, 2), [7, 7]);
}

#[test]
fn a_full_queue_leaves_no_notification_behind() {
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let (mut driver, _) = echo();
        assert!(driver.start(features));
        driver.run(0);
        for round in 0..5 {
            for _ in 0..16 {
                driver.offer(0, &[writable(0x4_0000, 4)]);
            }
            driver.kick_if_wanted(0, 16);
            driver.run(0);
            let used = std::iter::from_fn(|| driver.used(0)).count();
            assert_eq!(used, 16, "round {round}");
            driver.offer(0, &[writable(0x4_0000, 4)]);
            driver.kick_if_wanted(0, 1);
            driver.run(0);
            assert!(driver.used(0).is_some(), "round {round}");
        }
    }
}

#[test]
fn many_notifications_make_one_turn_and_never_block() {
    let (driver, calls) = running();
    let before = calls.processed.load(Ordering::Relaxed);
    for _ in 0..100_000 {
        driver.kick(0);
    }
    assert!(driver.device().notifier().read().unwrap() >= 100_000);
    driver.work(Wake::Guest);
    assert_eq!(calls.processed.load(Ordering::Relaxed), before + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written where, only DRIVER_OK activates, and a proper start works afterwards.
    #[test]
    fn register_writes_in_any_order_never_confuse_the_device(
        accesses in prop::collection::vec((0u64..0x110, prop_oneof![
            0u32..16, Just(0xff), any::<u32>()
        ], any::<bool>()), 0..200),
    ) {
        let (mut driver, _) = echo();
        for (at, value, aligned) in accesses {
            let at = if aligned { at & !3 } else { at };
            driver.set(at, value);
            driver.get(at);
            driver.work(Wake::Guest);
        }
        prop_assert!(driver.start(VERSION_1));
        driver.offer(0, &[writable(0x4_0000, 4)]);
        driver.work(Wake::Guest);
        prop_assert_eq!(driver.used(0), Some((0, 4)));
    }

    /// Whatever is in the rings, each turn ends, and every chain that comes back was offered.
    #[test]
    fn rings_of_any_content_are_survived(
        descriptors in prop::collection::vec((any::<u32>(), any::<u32>(), 0u16..8, 0u16..20), 16),
        heads in prop::collection::vec(0u16..18, 0..16),
        index in prop_oneof![4 => Just(None), 1 => any::<u16>().prop_map(Some)],
    ) {
        let (mut driver, _) = running();
        for (slot, (addr, len, flags, next)) in descriptors.into_iter().enumerate() {
            let slot = u16::try_from(slot).unwrap();
            driver.write_descriptor(0, slot, (u64::from(addr) >> 10, len >> 12), flags, next);
        }
        for &head in &heads {
            driver.offer_head(0, head);
        }
        if let Some(index) = index {
            driver.set_available_index(0, index);
        }
        driver.work(Wake::Guest);
        while let Some((head, _)) = driver.used(0) {
            prop_assert!(head < 16);
        }
    }
}
