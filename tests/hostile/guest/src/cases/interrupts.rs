//! Interrupts: acknowledged wrongly, and routed to anywhere.

use super::Outcome;
use crate::Guest;
use crate::machine::{self, Privileged};
use crate::random::Random;
use crate::transport::register;
use crate::victim::Victim;

const IOAPIC: u64 = 0xfec0_0000;
const LOCAL_APIC: u64 = 0xfee0_0000;
const IOAPIC_WINDOW: u64 = 0x10;
/// Index of the first redirection entry's lower half, and a bit in it.
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;

/// Acknowledgements of what is not there and of bits that do not exist, and none at all.
pub(super) fn acknowledge(guest: &mut Guest<'_>) -> Outcome {
    for (name, window) in guest.devices.all() {
        let Some(mut victim) = Victim::start(name, window) else { continue };
        for bits in [0, 1, 2, 3, 4, 0x8000_0000, u32::MAX] {
            window.write(register::INTERRUPT_ACK, bits);
            window.write(register::INTERRUPT_STATUS, bits);
        }
        // Requests whose interrupts nobody takes notice of.
        for _ in 0..guest.command_line.times(300) {
            guest.report.check_of(name, victim.answers(), "answers without acknowledgements");
        }
        for _ in 0..guest.command_line.times(2000) {
            window.write(register::INTERRUPT_ACK, u32::MAX);
        }
        let pending = window.read(register::INTERRUPT_STATUS);
        guest.report.check_of(name, pending == 0, "all is acknowledged");
    }
    Outcome::Answers
}

/// Every index of the I/O APIC with every kind of entry, unmasked while devices raise their lines.
pub(super) fn ioapic(guest: &mut Guest<'_>) -> Outcome {
    let mut random = Random::new(guest.command_line.seed);
    let write = |index: u32, value: u32| {
        machine::write32(IOAPIC, index);
        machine::write32(IOAPIC + IOAPIC_WINDOW, value);
    };
    for round in 0..guest.command_line.times(8) {
        for index in 0..=255 {
            write(index, random.edge() as u32);
            machine::read32(IOAPIC + IOAPIC_WINDOW);
        }
        // Delivery modes 0 to 7, of which SMI, NMI, INIT and ExtINT have no vector; vectors below 16 are no vectors at all.
        // No pin is left open: with interrupts off nothing comes, but an INIT or an NMI would.
        for pin in 0..24 {
            let mode = (round as u32 % 2) << 8;
            write(REDIRECTION + 2 * pin + 1, random.next() as u32);
            write(REDIRECTION + 2 * pin, mode | (random.next() as u32 & 0xf0ff));
        }
        for (name, window) in guest.devices.all() {
            if let Some(mut victim) = Victim::start(name, window) {
                guest.report.check_of(name, victim.answers(), "answers whatever its line does");
            }
        }
        for pin in 0..24 {
            write(REDIRECTION + 2 * pin, MASKED);
        }
    }
    // In the page but not at a register, and in widths that it has not.
    for at in (0..0x1000).step_by(64) {
        machine::write64(IOAPIC + at, random.next());
        machine::read64(IOAPIC + at);
        machine::write8(IOAPIC + at, 0x10);
        machine::read16(IOAPIC + at + 1);
    }
    for pin in 0..24 {
        write(REDIRECTION + 2 * pin, MASKED);
    }
    Outcome::Answers
}

/// The local APIC's page and its model-specific registers, timers and interrupts to oneself included.
pub(super) fn local_apic(guest: &mut Guest<'_>) -> Outcome {
    let mut random = Random::new(guest.command_line.seed);
    // The interrupt command register stays alone here: an INIT to oneself is a way to end, not to go on.
    for at in (0..0x400).step_by(4).filter(|at| !(0x300..0x320).contains(at)) {
        machine::write32(LOCAL_APIC + at, random.next() as u32 & 0xff);
        machine::read32(LOCAL_APIC + at);
    }
    // Software-enabled, all masked, no timer.
    for (at, value) in [(0xf0, 0x1ff), (0x320, 0x1_0000), (0x350, 0x1_0000), (0x360, 0x1_0000)] {
        machine::write32(LOCAL_APIC + at, value);
    }
    machine::write32(LOCAL_APIC + 0x380, 0);
    // TSC deadline: none, at once, never.
    for deadline in [0, 1, u64::MAX] {
        machine::privileged(Privileged::WriteMsr, 0x6e0, deadline);
    }
    machine::privileged(Privileged::WriteMsr, 0x6e0, 0);
    Outcome::Answers
}
