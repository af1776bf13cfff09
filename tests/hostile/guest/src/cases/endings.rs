//! Ways to end, and ways never to.

use super::Outcome;
use crate::Guest;
use crate::layout::AREAS;
use crate::machine::{self, Privileged};

/// Where there is neither memory nor a device.
const NOTHING: u64 = 0x3000_0000;

/// Code that is rewritten between two calls of it, also by its own page's neighbours.
pub(super) fn own_code(guest: &mut Guest<'_>) -> Outcome {
    let mut right = true;
    for round in 0..guest.command_line.times(20_000) as u32 {
        // mov eax, imm32; ret
        machine::write8(AREAS, 0xb8);
        machine::write32(AREAS + 1, round);
        machine::write8(AREAS + 5, 0xc3);
        right &= machine::call(AREAS) as u32 == round;
    }
    guest.report.check(right, "code does what was written last");
    Outcome::Answers
}

/// An exception without handlers.
pub(super) fn triple_fault(_: &mut Guest<'_>) -> Outcome {
    machine::privileged(Privileged::TripleFault, 0, 0);
    Outcome::Silent(3)
}

/// A halt with interrupts off: nothing but the deadline ends it.
pub(super) fn halt(_: &mut Guest<'_>) -> Outcome {
    machine::privileged(Privileged::Halt, 0, 0);
    Outcome::Silent(3)
}

/// A loop that never leaves the guest.
pub(super) fn endless(_: &mut Guest<'_>) -> Outcome {
    // jmp to itself
    machine::write16(AREAS, 0xfeeb);
    machine::jump(AREAS)
}

/// Instructions from a device's registers.
pub(super) fn execute_device(guest: &mut Guest<'_>) -> Outcome {
    if let Some((_, window)) = guest.devices.all().next() {
        machine::privileged(Privileged::Jump, 0, window.base);
    }
    Outcome::Silent(3)
}

/// Instructions from where there is nothing.
pub(super) fn execute_nothing(_: &mut Guest<'_>) -> Outcome {
    machine::privileged(Privileged::Jump, 0, NOTHING);
    Outcome::Silent(3)
}

/// The keyboard controller's reset, which is a write to a port like any other unless the VMM knows it.
pub(super) fn keyboard_reset(_: &mut Guest<'_>) -> Outcome {
    machine::out8(machine::KEYBOARD_PORT, machine::KEYBOARD_RESET);
    Outcome::Answers
}

/// A code that is not 0.
pub(super) fn exit_code(_: &mut Guest<'_>) -> Outcome {
    Outcome::Silent(77)
}
