//! The serial port: more than its reader takes, and registers set to anything.

use super::Outcome;
use crate::Guest;
use crate::layout::AREAS;
use crate::machine;
use crate::random::Random;

const SERIAL: u16 = 0x3f8;

/// Bytes without end, one by one and in strings.
fn pour(guest: &Guest<'_>) {
    for _ in 0..guest.command_line.times(20_000) {
        machine::out8(SERIAL, b'.');
    }
    for at in 0..4096 {
        machine::write8(AREAS + at, b'#');
    }
    machine::write8(AREAS + 4095, b'\n');
    for _ in 0..guest.command_line.times(20) {
        machine::out_string(SERIAL, AREAS, 4096);
    }
}

/// A flood that is read.
pub(super) fn flood(guest: &mut Guest<'_>) -> Outcome {
    pour(guest);
    Outcome::Answers
}

/// A flood that nobody reads: no vCPU may wait for it.
pub(super) fn flood_unread(guest: &mut Guest<'_>) -> Outcome {
    pour(guest);
    Outcome::Answers
}

/// All registers with anything: loops, divisors, interrupts.
pub(super) fn registers(guest: &mut Guest<'_>) -> Outcome {
    let mut random = Random::new(guest.command_line.seed);
    for _ in 0..guest.command_line.times(5000) {
        let register = random.below(8) as u16;
        if random.below(3) == 0 {
            machine::in8(SERIAL + register);
        } else if register > 0 {
            machine::out8(SERIAL + register, random.next() as u8);
        } else {
            machine::out8(SERIAL, 0);
        }
        if random.below(16) == 0 {
            machine::in16(SERIAL + register);
            machine::in32(SERIAL + register);
            machine::out16(SERIAL + 2 + register % 6, random.next() as u16);
            machine::out32(SERIAL + 2 + register % 6, random.next() as u32);
        }
    }
    // A loop that is never emptied.
    machine::out8(SERIAL + 3, 3);
    machine::out8(SERIAL + 4, 0x10);
    for _ in 0..1000 {
        machine::out8(SERIAL, 1);
    }
    for (register, value) in [(4, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (1, 0)] {
        machine::out8(SERIAL + register, value);
    }
    Outcome::Answers
}
