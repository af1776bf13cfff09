//! Registers written in the wrong state, with the wrong value, in the wrong width or place.

use super::Outcome;
use crate::Guest;
use crate::layout::MEMORY_BYTES;
use crate::machine;
use crate::queue::Queue;
use crate::transport::{VERSION_1, WINDOW_BYTES, Window, register, status};
use crate::victim::Victim;

/// Sizes that no queue here may have.
const WRONG_SIZES: &[u32] = &[0, 3, 100, 2048, 32_768, 65_535, 65_536, 0x8000_0000, u32::MAX];

/// Sizes, addresses and readiness of a running device's queues are rewritten (CVE-2026-5747).
pub(super) fn after_driver_ok(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let Some(mut victim) = Victim::start(name, window) else { continue };
        for size in WRONG_SIZES {
            for address in [0, 1, 0xffff_f000, MEMORY_BYTES - 8, u64::MAX] {
                window.set_queue(victim.queue.index, *size, [address; 3]);
            }
        }
        window.write(register::QUEUE_READY, 0);
        window.write(register::DRIVER_FEATURES, u32::MAX);
        guest.report.check_of(name, victim.answers(), "works on with the rings it was given first");
    }
    Outcome::Answers
}

/// Sizes of 0 and 65,535, and others that are no queue's.
pub(super) fn queue_sizes(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for size in WRONG_SIZES {
            window.negotiate();
            let rings = Queue::new(window, 0, 8).rings();
            let taken = window.set_queue(0, *size, rings);
            guest.report.check_strict(name, !taken, "a queue of a wrong size does not get ready");
            kick(window);
        }
        window.negotiate();
        let queue = Queue::new(window, 0, 8);
        let taken = window.set_queue(u32::MAX, 8, queue.rings());
        guest.report.check_strict(name, !taken, "a queue that is not there does not get ready");
    }
    Outcome::Answers
}

/// Says that the driver is ready, notifies, and looks whether registers still answer.
fn kick(window: Window) {
    window.add_status(status::DRIVER_OK);
    for queue in [0, 1, 2] {
        window.notify(queue);
    }
    window.acknowledge();
}

/// Rings outside memory, at its end, across 2^64, unaligned, in a window, on top of the boot data.
pub(super) fn ring_addresses(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let wrong = [
            0,
            1,
            u64::MAX,
            u64::MAX - 15,
            0_u64.wrapping_sub(4096),
            MEMORY_BYTES,
            MEMORY_BYTES - 4,
            MEMORY_BYTES - 16,
            window.base,
            0xfee0_0000,
            0xffff_ffff_ffff_0000,
            1 << 32,
            1 << 52,
            1 << 63,
        ];
        for address in wrong {
            for which in 0..3 {
                window.negotiate();
                let queue = Queue::new(window, 0, 8);
                let mut rings = queue.rings();
                rings[which] = address;
                let taken = window.set_queue(0, 8, rings);
                guest.report.check_strict(
                    name,
                    !taken,
                    "a queue outside memory does not get ready",
                );
                kick(window);
            }
        }
        for which in 0..3 {
            window.negotiate();
            let mut rings = Queue::new(window, 0, 8).rings();
            rings[which] += 1;
            window.set_queue(0, 8, rings);
            kick(window);
        }
    }
    Outcome::Answers
}

/// Bits taken away without a reset, added out of order, unknown, every value after every other.
pub(super) fn status_bits(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        window.negotiate();
        window.add_status(status::DRIVER_OK);
        for cleared in [status::DRIVER_OK, status::FEATURES_OK, status::DRIVER, status::ACKNOWLEDGE]
        {
            window.write(register::STATUS, all & !cleared);
            let kept = window.status() & all == all;
            guest.report.check_of(name, kept, "only a reset takes status bits away");
            window.negotiate();
            window.add_status(status::DRIVER_OK);
        }
        window.reset();
        window.write(register::STATUS, status::DRIVER_OK);
        let ready = window.status() & status::DRIVER_OK != 0;
        guest.report.check_of(name, !ready, "no driver is ready without an agreement on features");
        window.negotiate();
        window.add_status(status::FAILED);
        window.add_status(status::DRIVER_OK);
        window.notify(0);
        for value in (0..=255_u32).chain([0x100, 0x8000_0000, u32::MAX]) {
            window.write(register::STATUS, value);
            window.write(register::STATUS, value ^ 0xff);
            window.notify(0);
        }
    }
    Outcome::Answers
}

/// Feature bits that nobody offered, and the current version left out.
pub(super) fn features(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let offered = window.offered();
        for accepted in
            [u64::MAX, !offered | VERSION_1, 1 << 63 | VERSION_1, offered & !VERSION_1, 0]
        {
            window.reset();
            window.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
            window.accept(accepted);
            for half in [2, 3, 77, u32::MAX] {
                window.write(register::DRIVER_FEATURES_SEL, half);
                window.write(register::DRIVER_FEATURES, u32::MAX);
            }
            window.add_status(status::FEATURES_OK);
            let agreed = window.status() & status::FEATURES_OK != 0;
            guest.report.check_of(name, !agreed, "no agreement on features that are not offered");
            kick(window);
        }
    }
    Outcome::Answers
}

/// Every byte of the configuration space is written, in every width, in every state.
pub(super) fn config_writes(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let config = window.base + register::CONFIG;
        let before: [u8; 64] = core::array::from_fn(|at| machine::read8(config + at as u64));
        for running in [false, true] {
            if running {
                Victim::start(name, window);
            }
            for at in 0..80 {
                machine::write8(config + at, 0xff);
                machine::write16(config + at, 0);
                machine::write32(config + at, u32::MAX);
                machine::write64(config + at, 0x0123_4567_89ab_cdef);
            }
            machine::write32(window.base + WINDOW_BYTES - 4, u32::MAX);
        }
        let after = core::array::from_fn(|at| machine::read8(config + at as u64));
        guest.report.check_of(name, before == after, "the configuration space is read-only");
    }
    Outcome::Answers
}

/// Every offset of each window in widths of 1, 2, 4 and 8 bytes, aligned and not, also across its end; strings.
pub(super) fn odd_accesses(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let end = if guest.command_line.scale >= 100 { WINDOW_BYTES } else { 0x200 };
        for at in (0..end).map(|at| window.base + at) {
            machine::read8(at);
            machine::read16(at);
            machine::read64(at);
            machine::write8(at, 0x5a);
            machine::write16(at, 0x5a5a);
            machine::write64(at, u64::MAX);
            if !at.is_multiple_of(4) {
                machine::write32(at, 4);
            }
        }
        let buffer = crate::queue::buffers(window);
        machine::copy_string(window.base + 0x70, buffer, 64);
        machine::copy_string(buffer, window.base + register::CONFIG, 64);
        let there = window.read(register::MAGIC) == u32::from_le_bytes(*b"virt");
        guest.report.check_of(name, there, "its registers are still there");
    }
    Outcome::Answers
}

/// Where there is no device and no memory.
pub(super) fn between_windows(guest: &mut Guest<'_>) -> Outcome {
    let bases = guest.devices.all().map(|(_, window)| window.base);
    let (first, last) =
        bases.fold((u64::MAX, 0), |(low, high), base| (low.min(base), high.max(base)));
    let places = [
        first - 0x1000,
        first - 1,
        first - 4,
        first - 8,
        last + WINDOW_BYTES - 2,
        last + WINDOW_BYTES - 4,
        last + WINDOW_BYTES,
        last + 0x10_0000,
        0xc000_0000,
        0xe000_0000,
        0xfebf_f000,
        0xfec0_0ffc,
        0xfec0_1000,
        0xfed0_0000,
        0xffff_fff8,
        MEMORY_BYTES,
        MEMORY_BYTES - 4,
        MEMORY_BYTES + 0x10_0000,
        0x3fff_fff8,
    ];
    for place in places {
        for _ in 0..guest.command_line.times(20) {
            machine::write64(place, u64::MAX);
            machine::write8(place + 1, 1);
            machine::read64(place);
            machine::read32(place + 2);
        }
    }
    // Aligned and above all windows: a bus where nobody answers reads as ones, or as zeroes in some machines.
    let value = machine::read32(last + 0x10_0000);
    guest.report.check(value == 0 || value == u32::MAX, "nobody answers where nobody is");
    Outcome::Answers
}

/// Selectors beyond everything, and all registers while they are.
pub(super) fn selectors(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for selector in [3, 64, 255, 256, 65_535, 65_536, 0x8000_0000, u32::MAX] {
            window.negotiate();
            window.write(register::QUEUE_SEL, selector);
            window.write(register::DEVICE_FEATURES_SEL, selector);
            window.write(register::DRIVER_FEATURES_SEL, selector);
            let none = window.read(register::QUEUE_NUM_MAX) == 0;
            guest.report.check_of(name, none, "a queue that is not there has no size");
            for register in (0..0x100).step_by(4).filter(|at| *at != register::STATUS) {
                window.read(register);
                window.write(register, selector);
            }
            kick(window);
        }
    }
    Outcome::Answers
}

/// Notifications of a device that has no driver, in each state.
pub(super) fn notify_before_ready(guest: &mut Guest<'_>) -> Outcome {
    for (_, window) in guest.devices.all() {
        window.reset();
        for status in [0, status::ACKNOWLEDGE, 3, 11, 11 | status::FAILED] {
            window.write(register::STATUS, status);
            for queue in [0, 1, 2, 3, 65_535, u32::MAX] {
                for _ in 0..guest.command_line.times(50) {
                    window.notify(queue);
                }
            }
        }
    }
    Outcome::Answers
}

/// Notifications by the hundred thousand, for queues that are there and that are not.
pub(super) fn notify_flood(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let Some(mut victim) = Victim::start(name, window) else { continue };
        let index = victim.queue.index;
        for _ in 0..guest.command_line.times(30_000) {
            window.write(register::QUEUE_NOTIFY, index);
        }
        for queue in [0, 1, 2, 7, 65_535, u32::MAX] {
            for _ in 0..guest.command_line.times(1000) {
                window.write(register::QUEUE_NOTIFY, queue);
            }
        }
        guest.report.check_of(name, victim.answers(), "answers without a reset");
    }
    Outcome::Answers
}
