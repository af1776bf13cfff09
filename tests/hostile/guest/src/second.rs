//! The second processor: does one kind of damage, again and again, while the first drives a device.
//!
//! Both know a few words of memory that no device is told of: what to do, to whom, and whether it is being done.

use crate::layout::QUEUE_BYTES;
use crate::machine::{self, Privileged};
use crate::queue::area;
use crate::random::Random;
use crate::transport::{PATIENCE_TICKS, Window, register, wait_for};

/// The words.
const ORDER: u64 = 0x500_0000;
const WINDOW_BASE: u64 = ORDER + 8;
const WINDOW_INDEX: u64 = ORDER + 16;
const SEED: u64 = ORDER + 24;
const STEPS: u64 = ORDER + 32;
const STATE: u64 = ORDER + 40;

/// States: not there, waiting, at work.
const WAITING: u64 = 1;
const WORKING: u64 = 2;

/// The local APIC's base register with its newer mode on, its interrupt command register there, and what goes into it: for
/// processor 1, an INIT, and a start-up at [`Privileged::CopyStart`]'s place.
const BASE_MSR: u64 = 0x1b;
const X2APIC_ON: u64 = 0xfee0_0d00;
const COMMAND_MSR: u64 = 0x830;
const SECOND: u64 = 1 << 32;
const INIT: u64 = 0x4500;
const START_AT_8000: u64 = 0x4608;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Damage {
    /// Reads and writes registers, resets now and then.
    Registers = 1,
    /// Writes to descriptors and rings.
    Rings = 2,
}

/// Starts it; true once it waits for orders.
pub(crate) fn start() -> bool {
    machine::write64(ORDER, 0);
    machine::write64(STATE, 0);
    machine::privileged(Privileged::CopyStart, 0, 0);
    machine::privileged(Privileged::WriteMsr, BASE_MSR, X2APIC_ON);
    for command in [INIT, START_AT_8000] {
        machine::privileged(Privileged::WriteMsr, COMMAND_MSR, SECOND | command);
    }
    wait_for(PATIENCE_TICKS, || machine::read64(STATE) == WAITING)
}

/// Sets it to work on a device.
pub(crate) fn order(damage: Damage, window: Window, seed: u64) -> bool {
    machine::write64(WINDOW_BASE, window.base);
    machine::write64(WINDOW_INDEX, window.index);
    machine::write64(SEED, seed);
    machine::fence();
    machine::write64(ORDER, damage as u64);
    wait_for(PATIENCE_TICKS, || machine::read64(STATE) == WORKING)
}

/// Has it stop; how much it did.
pub(crate) fn stop() -> u64 {
    machine::write64(ORDER, 0);
    wait_for(PATIENCE_TICKS, || machine::read64(STATE) == WAITING);
    machine::read64(STEPS)
}

/// What the second processor runs.
#[cfg_attr(not(feature = "image"), expect(dead_code, reason = "called by the image's entry alone"))]
pub(crate) fn run() -> ! {
    loop {
        machine::write64(STATE, WAITING);
        while machine::read64(ORDER) == 0 {
            machine::pause();
        }
        let window =
            Window { base: machine::read64(WINDOW_BASE), index: machine::read64(WINDOW_INDEX) };
        let mut random = Random::new(machine::read64(SEED));
        machine::write64(STATE, WORKING);
        let mut steps = 0;
        loop {
            match machine::read64(ORDER) {
                0 => break,
                damage if damage == Damage::Registers as u64 => registers(&mut random, window),
                _ => rings(&mut random, window),
            }
            steps += 1;
            machine::write64(STEPS, steps);
        }
    }
}

fn registers(random: &mut Random, window: Window) {
    let offset = random.below(0x100 / 4) * 4;
    match random.below(4) {
        0 => window.write(register::STATUS, random.one_of(&[0, 1, 3, 11, 15, 15, 15, 143]) as u32),
        1 => {
            window.read(offset);
        }
        2 => window.notify(random.below(4) as u32),
        _ => window.write(offset, random.edge() as u32),
    }
}

fn rings(random: &mut Random, window: Window) {
    let queue = area(window) + random.below(3) * QUEUE_BYTES;
    // Descriptors, then the available ring, then the used ring: `queue` has their places.
    let place = random.one_of(&[0, 0, 0, 0x6000, 0x6000, 0x8000]);
    let at = queue + place + random.below(64) * 2;
    machine::write16(at, random.edge() as u16);
}
