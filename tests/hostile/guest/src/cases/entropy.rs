//! More randomness than anybody needs.

use super::Outcome;
use crate::Guest;
use crate::layout::MEMORY_BYTES;
use crate::queue::{Descriptor, NEXT, WRITE};
use crate::rng::Rng;

/// Where the large buffers are: memory that this program does not use.
const FREE: u64 = 0x400_0000;
/// The most that one request may get, in any VMM that deserves the name.
const GIVEN_MAX: u32 = 1 << 20;

/// Requests of tens of MiB, alone and chained: none may make the host give, or hold, as much.
pub(super) fn huge(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.rng else { return Outcome::Answers };
    for (count, len) in
        [(1, MEMORY_BYTES - FREE), (8, MEMORY_BYTES - FREE), (8, 1 << 20), (2, 1 << 25)]
    {
        for _ in 0..guest.command_line.times(4) {
            let Some(mut rng) = Rng::start(window) else {
                guest.report.fail("the entropy device gets ready again");
                break;
            };
            let count = count.min(rng.queue.size);
            for at in 0..count {
                let flags = if at + 1 < count { WRITE | NEXT } else { WRITE };
                let descriptor = Descriptor { address: FREE, len: len as u32, flags, next: at + 1 };
                rng.queue.set(at, descriptor);
            }
            rng.queue.offer(0);
            rng.queue.notify();
            let given = rng.queue.wait().map(|(_, given)| given);
            let bounded = given.is_some_and(|given| given <= GIVEN_MAX);
            guest.report.check(bounded, "a huge request gets a bounded answer");
        }
    }
    Outcome::Answers
}

/// Requests by the thousand, the queue always full.
pub(super) fn flood(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut rng) = guest.devices.rng.and_then(Rng::start) else { return Outcome::Answers };
    rng.queue.chain(&[(FREE, 64 << 10, WRITE)]);
    for _ in 0..guest.command_line.times(100) {
        for _ in 0..rng.queue.size {
            rng.queue.offer(0);
        }
        rng.queue.notify();
        for _ in 0..rng.queue.size {
            guest.report.check(rng.queue.wait().is_some(), "each request is answered");
        }
    }
    guest.report.check(rng.gives(), "answers without a reset");
    Outcome::Answers
}
