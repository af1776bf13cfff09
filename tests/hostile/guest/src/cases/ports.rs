//! Every port there is.

use super::Outcome;
use crate::Guest;
use crate::layout::AREAS;
use crate::machine::{self, EXIT_PORT, KEYBOARD_PORT, KEYBOARD_RESET, MARK_PORT};

/// Ports that are looked at: all of them, or the first 1,280 and each 61st when repetitions are scaled down.
fn ports(guest: &Guest<'_>) -> impl Iterator<Item = u16> {
    let all = guest.command_line.scale >= 100;
    (0..=u16::MAX).filter(move |port| all || *port < 1280 || port.is_multiple_of(61))
}

/// Reads of 1, 2 and 4 bytes.
pub(super) fn reads(guest: &mut Guest<'_>) -> Outcome {
    for port in ports(guest) {
        machine::in8(port);
        machine::in16(port);
        machine::in32(port);
    }
    Outcome::Answers
}

/// Writes of 1, 2 and 4 bytes, but for what ends a microVM by design, and the serial port's data.
pub(super) fn writes(guest: &mut Guest<'_>) -> Outcome {
    let ends = |port: u16, bytes: u16, by: u16| {
        (by..u32::from(by) as u16 + 1).any(|end| {
            u32::from(port) <= u32::from(end) && u32::from(end) < u32::from(port) + u32::from(bytes)
        })
    };
    for port in ports(guest) {
        for bytes in [1, 2, 4] {
            if ends(port, bytes, EXIT_PORT) && !guest.command_line.is_firecracker {
                continue;
            }
            // The keyboard controller's other commands are welcome.
            if ends(port, bytes, KEYBOARD_PORT) && bytes > 1 {
                continue;
            }
            let value =
                if port == KEYBOARD_PORT { u32::from(!KEYBOARD_RESET) } else { 0x5a5a_5aa5 };
            match bytes {
                1 => machine::out8(port, value as u8),
                2 => machine::out16(port, value as u16),
                _ => machine::out32(port, value),
            }
        }
    }
    Outcome::Answers
}

/// String instructions of up to 3,000 bytes to ports that are there and that are not.
pub(super) fn strings(guest: &mut Guest<'_>) -> Outcome {
    for port in [0x60, 0x70, 0x80, 0x3f9, 0x3fd, 0xcf8, 0xcfc, 0xfff0] {
        for _ in 0..guest.command_line.times(10) {
            let bytes = guest.command_line.times(3000).clamp(300, 3000);
            machine::out_string(port, AREAS, bytes);
            machine::in_string(port, AREAS, bytes);
        }
    }
    Outcome::Answers
}

/// Marks beyond counting, one by one and in strings.
pub(super) fn marks(guest: &mut Guest<'_>) -> Outcome {
    for value in 0..guest.command_line.times(5000) {
        machine::out8(MARK_PORT, value as u8);
    }
    for _ in 0..guest.command_line.times(5) {
        machine::out_string(MARK_PORT, AREAS, 4096);
    }
    machine::in8(MARK_PORT);
    machine::in8(EXIT_PORT);
    Outcome::Answers
}
