//! Resets at the worst moment, and drivers that scribble over what they gave away.

use super::Outcome;
use crate::Guest;
use crate::block::{Block, IN};
use crate::layout::MEMORY_BYTES;
use crate::machine;
use crate::queue::{Descriptor, NEXT, WRITE};
use crate::random::Random;
use crate::transport::register;
use crate::victim::Victim;

/// Many requests, and a reset before any can be done.
pub(super) fn in_flight(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for round in 0..guest.command_line.times(100) {
            let Some(mut victim) = Victim::start(name, window) else {
                guest.report.check_of(name, false, "gets ready again");
                break;
            };
            victim.write_request();
            for _ in 0..victim.queue.size {
                victim.queue.offer(0);
            }
            victim.queue.notify();
            for _ in 0..round % 7 * 50 {
                machine::pause();
            }
            guest.report.check_of(name, window.reset(), "a reset ends in good time");
        }
    }
    // Large transfers, which a reset need not wait for.
    if let Some(window) = guest.devices.block {
        for _ in 0..guest.command_line.times(20) {
            let Some(mut disk) = Block::start(window) else { break };
            let [header, answer, data] = Block::places(window);
            Block::header(window, IN, 0);
            disk.queue.chain(&[(header, 16, 0), (data, 1 << 20, WRITE), (answer, 1, WRITE)]);
            for _ in 0..disk.queue.size {
                disk.queue.offer(0);
            }
            disk.queue.notify();
            guest.report.check(window.reset(), "a reset of a busy disk ends in good time");
        }
    }
    Outcome::Answers
}

/// Resets without end, set-ups that are never finished.
pub(super) fn flood(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for round in 0..guest.command_line.times(1500) {
            window.negotiate();
            if round % 3 == 0 {
                window.queue(0, 8);
            }
            if round % 5 == 0 {
                window.write(register::STATUS, window.status() | 4);
            }
            window.write(register::STATUS, 0);
        }
        guest.report.check_of(name, window.reset(), "is reset");
    }
    Outcome::Answers
}

/// Rings, descriptors and boot data overwritten with anything while the device is being notified.
pub(super) fn overwritten(guest: &mut Guest<'_>) -> Outcome {
    let mut random = Random::new(guest.command_line.seed);
    for (name, window) in guest.devices.all() {
        for _ in 0..guest.command_line.times(60) {
            let Some(mut victim) = Victim::start(name, window) else {
                guest.report.check_of(name, false, "gets ready again");
                break;
            };
            let [descriptors, available, used] = victim.queue.rings();
            for _ in 0..40 {
                let size = u64::from(victim.queue.size);
                let descriptor = Descriptor {
                    // Not this program's own memory: what the device may write is given away.
                    address: random.one_of(&[
                        descriptors,
                        available,
                        used,
                        0x600_0000,
                        MEMORY_BYTES - 64,
                    ]),
                    len: random.edge() as u32 & 0xf_ffff,
                    flags: random.one_of(&[0, u64::from(NEXT), u64::from(WRITE), 3, 7]) as u16,
                    next: random.below(size + 1) as u16,
                };
                victim.queue.set(random.below(size) as u16, descriptor);
                let word = available + 4 + 2 * random.below(size);
                machine::write16(word, random.below(size + 2) as u16);
                victim
                    .queue
                    .set_available(victim.queue.available.wrapping_add(random.below(4) as u16));
                victim.queue.notify();
            }
            victim.provoke();
        }
    }
    Outcome::Answers
}
