//! Two processors at once: one drives a device as it should, the other spoils it.

use super::Outcome;
use crate::Guest;
use crate::second::{self, Damage};
use crate::victim::Victim;

/// Registers written by both.
pub(super) fn registers(guest: &mut Guest<'_>) -> Outcome {
    raced(guest, Damage::Registers)
}

/// Rings and descriptors rewritten while the device reads them.
pub(super) fn rings(guest: &mut Guest<'_>) -> Outcome {
    raced(guest, Damage::Rings)
}

fn raced(guest: &mut Guest<'_>, damage: Damage) -> Outcome {
    let started = second::start();
    guest.report.check(started, "the second processor starts");
    if !started {
        return Outcome::Answers;
    }
    for (name, window) in guest.devices.all() {
        let working = second::order(damage, window, guest.command_line.seed);
        guest.report.check_of(name, working, "the second processor works");
        for _ in 0..guest.command_line.times(100) {
            if let Some(mut victim) = Victim::start(name, window) {
                victim.write_request();
                victim.queue.offer(0);
                victim.provoke();
            }
        }
        guest.report.check_of(name, second::stop() > 0, "the second processor did something");
    }
    Outcome::Answers
}
