//! Available and used rings that make no sense.

use super::Outcome;
use crate::Guest;
use crate::machine;
use crate::queue::Queue;
use crate::transport::{register, status};
use crate::victim::Victim;

/// The available index runs ahead by more than the queue holds.
pub(super) fn available_jumps(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for jump in [0_u16, 1, 2, 100, 32_767, 32_768, 65_534] {
            let Some(mut victim) = Victim::start(name, window) else {
                guest.report.check_of(name, false, "gets ready again");
                break;
            };
            victim.write_request();
            // Otherwise what the ring holds would be served before the index is found wrong.
            let ahead = victim.queue.size.wrapping_add(jump);
            let jumps = ahead > victim.queue.size;
            victim.queue.set_available(ahead);
            let reaction = victim.provoke_surely();
            if jumps {
                guest.report.check_strict(name, reaction.needs_reset, "asks for a reset");
                guest.report.check_strict(name, reaction.used.is_none(), "serves nothing");
            }
        }
        // Backwards, which is a jump of nearly 2^16.
        let Some(mut victim) = Victim::start(name, window) else { continue };
        let answered = victim.answers();
        guest.report.check_of(name, answered, "answers before it goes backwards");
        victim.queue.set_available(0);
        victim.provoke();
    }
    Outcome::Answers
}

/// Heads outside the descriptor table.
pub(super) fn heads(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let Some(size) = Victim::start(name, window).map(|victim| victim.queue.size) else {
            continue;
        };
        for head in [size, size + 1, 255, 32_768, 65_535] {
            let Some(mut victim) = Victim::start(name, window) else { break };
            if head < victim.queue.size {
                continue;
            }
            victim.write_request();
            victim.queue.offer(head);
            let reaction = victim.provoke_surely();
            guest.report.check_strict(name, reaction.used.is_none(), "gives no such head back");
            guest.report.check_strict(name, reaction.needs_reset, "asks for a reset");
            // A broken device is left alone until then.
            victim.queue.offer(0);
            let later = victim.provoke();
            guest.report.check_strict(
                name,
                later.used.is_none(),
                "serves nothing until it is reset",
            );
        }
    }
    Outcome::Answers
}

/// The same chain many times over, before it was given back.
pub(super) fn twice(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let Some(mut victim) = Victim::start(name, window) else { continue };
        for _ in 0..guest.command_line.times(20) {
            victim.write_request();
            for _ in 0..victim.queue.size {
                victim.queue.offer(0);
            }
            victim.queue.notify();
            let mut back = 0;
            while back < victim.queue.size && victim.queue.wait().is_some() {
                back += 1;
            }
            let all = back == victim.queue.size;
            guest.report.check_of(name, all, "gives back as often as it got");
            if !all {
                break;
            }
        }
    }
    Outcome::Answers
}

/// Two or all three rings in one place, on top of each other by half, all queues of the device in one.
pub(super) fn overlap(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for shift in [0, 2, 4, 8, 16, 64] {
            if !window.negotiate() {
                guest.report.check_of(name, false, "gets ready again");
                break;
            }
            for index in 0..3 {
                let queue = Queue::new(window, 0, window.queue_max(index).max(8));
                let base = queue.rings()[0];
                let rings = [base, base + shift, base + 2 * shift];
                window.set_queue(index, 8, rings);
                machine::write16(base + shift + 2, 3);
            }
            window.add_status(status::DRIVER_OK);
            for round in 0..guest.command_line.times(20) {
                for index in 0..3 {
                    window.notify(index);
                }
                let base = Queue::new(window, 0, 8).rings()[0];
                machine::write16(base + shift + 2, round as u16);
            }
        }
    }
    Outcome::Answers
}

/// Descriptors, indices and flags flip while the device works on them.
pub(super) fn changed_in_flight(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        for _ in 0..guest.command_line.times(30) {
            let Some(mut victim) = Victim::start(name, window) else {
                guest.report.check_of(name, false, "gets ready again");
                break;
            };
            victim.write_request();
            let plain = victim.descriptor(0);
            for _ in 0..victim.queue.size {
                victim.queue.offer(0);
            }
            victim.queue.notify();
            // A device on a thread of its own reads them meanwhile, now one way, now the other.
            for flip in 0..2000_u32 {
                let (address, len) = if flip % 2 == 0 {
                    (plain.address, plain.len)
                } else {
                    (u64::MAX - 64, u32::MAX)
                };
                victim.queue.set(0, crate::queue::Descriptor { address, len, ..plain });
                victim.queue.set_flags((flip % 3) as u16);
            }
            window.read(register::STATUS);
        }
    }
    Outcome::Answers
}
