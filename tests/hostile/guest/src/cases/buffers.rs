//! Buffers outside memory, of impossible lengths, in the wrong direction, on top of the rings.

use super::Outcome;
use crate::Guest;
use crate::layout::MEMORY_BYTES;
use crate::queue::{Descriptor, NEXT, WRITE};
use crate::victim::{Reaction, Victim};

/// Offers a request of which one descriptor is altered, the `at`th or one before.
fn provoke_by(
    victim: &mut Victim,
    at: u16,
    altered: impl FnOnce(Descriptor) -> Descriptor,
) -> Reaction {
    let count = victim.write_request();
    let at = at % count;
    let plain = victim.descriptor(usize::from(at));
    let flags = plain.flags | if at + 1 < count { NEXT } else { 0 };
    victim.queue.set(at, altered(Descriptor { flags, next: (at + 1) % count, ..plain }));
    victim.queue.offer(0);
    victim.provoke()
}

/// Each buffer of a request in turn outside memory, at its end, across 2^64, in a window.
pub(super) fn addresses(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for (name, window) in victims.all() {
        let wrong = [
            MEMORY_BYTES,
            MEMORY_BYTES - 1,
            window.base,
            0xfee0_0000,
            1 << 32,
            1 << 40,
            1 << 63,
            u64::MAX,
            u64::MAX - 3,
            u64::MAX - 511,
        ];
        for address in wrong {
            for at in 0..3 {
                let Some(mut victim) = Victim::start(name, window) else {
                    guest.report.check_of(name, false, "gets ready again");
                    break;
                };
                let altered =
                    |plain: Descriptor| Descriptor { address, len: plain.len.max(2), ..plain };
                let reaction = provoke_by(&mut victim, at, altered);
                // An I/O error, its status byte, is the most that may come back.
                let nothing = reaction.used.is_none_or(|(_, len)| len <= 1);
                guest.report.check_strict(
                    name,
                    nothing,
                    "reports no more than a status as written",
                );
            }
        }
    }
    Outcome::Answers
}

/// Lengths of 0, beyond memory and of 2^32 - 1, and sums beyond 2^32.
pub(super) fn lengths(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for (name, window) in victims.all() {
        for len in [0, 1, 15, 43, MEMORY_BYTES as u32, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            for at in 0..3 {
                let Some(mut victim) = Victim::start(name, window) else {
                    guest.report.check_of(name, false, "gets ready again");
                    break;
                };
                provoke_by(&mut victim, at, |plain| Descriptor { len, ..plain });
            }
        }
        // As many buffers as there are descriptors, each as large as memory allows: a sum beyond 2^32.
        let Some(mut victim) = Victim::start(name, window) else { continue };
        let plain = victim.descriptor(0);
        for at in 0..victim.queue.size {
            let last = at + 1 == victim.queue.size;
            let flags = plain.flags | if last { 0 } else { NEXT };
            let len = (MEMORY_BYTES - 0x400_0000) as u32;
            victim.queue.set(at, Descriptor { address: 0x400_0000, len, flags, next: at + 1 });
        }
        victim.queue.offer(0);
        victim.provoke();
        // Nothing but empty buffers.
        let Some(mut victim) = Victim::start(name, window) else { continue };
        for at in 0..victim.queue.size {
            let last = at + 1 == victim.queue.size;
            let flags = plain.flags | if last { 0 } else { NEXT };
            victim.queue.set(at, Descriptor { address: 0, len: 0, flags, next: at + 1 });
        }
        victim.queue.offer(0);
        let reaction = victim.provoke();
        let nothing = reaction.used.is_none_or(|(_, len)| len == 0);
        guest.report.check_strict(name, nothing, "makes nothing of nothing");
    }
    Outcome::Answers
}

/// What the device should read it may write, and the other way round; readable buffers behind writable ones.
pub(super) fn directions(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for (name, window) in victims.all() {
        for flipped in 1..8_u16 {
            let Some(mut victim) = Victim::start(name, window) else {
                guest.report.check_of(name, false, "gets ready again");
                break;
            };
            let count = victim.write_request();
            for at in 0..count {
                let plain = victim.descriptor(usize::from(at));
                let flip = if flipped & 1 << at != 0 { WRITE } else { 0 };
                let flags = (plain.flags ^ flip) | if at + 1 < count { NEXT } else { 0 };
                victim.queue.set(at, Descriptor { flags, next: (at + 1) % count, ..plain });
            }
            victim.queue.offer(0);
            victim.provoke();
        }
    }
    Outcome::Answers
}

/// The device is told to write to the rings themselves.
pub(super) fn in_rings(guest: &mut Guest<'_>) -> Outcome {
    let victims = guest.devices;
    for (name, window) in victims.all() {
        for ring in 0..3 {
            for shift in [0, 2, 4, 512] {
                let Some(mut victim) = Victim::start(name, window) else {
                    guest.report.check_of(name, false, "gets ready again");
                    break;
                };
                let count = victim.write_request();
                for at in 0..count {
                    let plain = victim.descriptor(usize::from(at));
                    if plain.flags & WRITE == 0 {
                        continue;
                    }
                    let flags = plain.flags | if at + 1 < count { NEXT } else { 0 };
                    let address = victim.queue.rings()[ring] + shift;
                    victim
                        .queue
                        .set(at, Descriptor { address, flags, next: (at + 1) % count, ..plain });
                }
                victim.queue.offer(0);
                victim.provoke();
                victim.queue.notify();
            }
        }
    }
    Outcome::Answers
}
