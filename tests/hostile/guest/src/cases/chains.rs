//! Descriptor chains without an end, out of their table, and tables of tables.

use super::Outcome;
use crate::Guest;
use crate::layout::MEMORY_BYTES;
use crate::queue::{Descriptor, INDIRECT, NEXT, WRITE, write_descriptor};
use crate::transport::Window;
use crate::victim::{Reaction, Victim};

/// Has a fresh device meet a chain that `spoil` makes, and checks that it neither serves it as if it were good nor dies of it.
fn meet(
    guest: &mut Guest<'_>,
    (name, window): (&'static str, Window),
    spoil: impl Fn(&Victim),
) -> Option<Reaction> {
    let Some(mut victim) = Victim::start(name, window) else {
        guest.report.check_of(name, false, "gets ready again");
        return None;
    };
    victim.write_request();
    spoil(&victim);
    victim.queue.offer(0);
    let reaction = victim.provoke();
    let used_nothing = reaction.used.is_none_or(|(_, len)| len <= 1);
    guest.report.check_strict(name, used_nothing, "does no work for a chain without an end");
    Some(reaction)
}

/// Descriptors that lead back to themselves or in circles.
pub(super) fn loops(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for device in victims.all() {
        for circle in [1_u16, 2, 3, 64] {
            meet(guest, device, |victim| {
                let size = victim.queue.size;
                for at in 0..circle.min(size) {
                    let plain = victim.descriptor(0);
                    let next = (at + 1) % circle.min(size);
                    victim.queue.set(at, Descriptor { flags: plain.flags | NEXT, next, ..plain });
                }
            });
        }
        // A circle that empty buffers make, so that no length ever grows.
        meet(guest, device, |victim| {
            let plain = victim.descriptor(0);
            victim.queue.set(0, Descriptor { len: 0, flags: plain.flags | NEXT, next: 0, ..plain });
        });
    }
    Outcome::Answers
}

/// A next descriptor outside the table.
pub(super) fn next(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for device in victims.all() {
        for next in [128, 256, 1024, 32_768, 65_535] {
            meet(guest, device, |victim| {
                let plain = victim.descriptor(0);
                victim.queue.set(0, Descriptor { flags: plain.flags | NEXT, next, ..plain });
            });
        }
    }
    Outcome::Answers
}

/// Indirect tables, which nobody offered: well-formed, empty, cut, endless, outside memory, within each other.
pub(super) fn indirect(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for (name, window) in victims.all() {
        let table = crate::queue::buffers(window) + 0xe_0000;
        let shapes = [
            (table, 48, 0),
            (table, 0, 0),
            (table, 15, 0),
            (table, 17, 0),
            (table, 1 << 20, 0),
            (table, u32::MAX, 0),
            (table, u32::MAX - 15, 0),
            (MEMORY_BYTES - 16, 48, 0),
            (MEMORY_BYTES, 48, 0),
            (u64::MAX - 15, 48, 0),
            (window.base, 48, 0),
            (table + 1, 48, 0),
            (table, 48, NEXT),
            (table, 48, WRITE),
            (table, 48, NEXT | WRITE),
        ];
        for nested in [false, true] {
            for (address, len, flags) in shapes {
                let Some(mut victim) = Victim::start(name, window) else {
                    guest.report.check_of(name, false, "gets ready again");
                    break;
                };
                victim.write_request();
                for at in 0..512 {
                    let plain = victim.descriptor(at as usize % 3);
                    let deeper = if nested { INDIRECT } else { 0 };
                    let entry = Descriptor {
                        address: if nested { table } else { plain.address },
                        len: if nested { 48 } else { plain.len },
                        flags: plain.flags | NEXT | deeper,
                        next: (at + 1) as u16,
                    };
                    write_descriptor(table + at * 16, entry);
                }
                victim.queue.set(0, Descriptor { address, len, flags: flags | INDIRECT, next: 1 });
                victim.queue.offer(0);
                victim.provoke();
            }
        }
    }
    Outcome::Answers
}
