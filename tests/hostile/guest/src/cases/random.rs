//! Anything, in an order that a seed gives.

use super::Outcome;
use crate::Guest;
use crate::layout::{AREA_BYTES, AREAS, MEMORY_BYTES, PORT_ECHO, PORT_NOBODY, PORT_SINK};
use crate::machine;
use crate::queue::{Descriptor, Queue, buffers};
use crate::random::Random;
use crate::transport::{VERSION_1, WINDOW_BYTES, Window, register, status};
use crate::victim::Victim;
use crate::vsock::Header;

/// Steps between two looks at whether the devices can still be made ready.
const STEPS_BETWEEN: u64 = 500;

/// `hostile.steps` steps from `hostile.seed`.
pub(super) fn random(guest: &mut Guest<'_>) -> Outcome {
    let mut random = Random::new(guest.command_line.seed);
    let devices = guest.devices;
    for step in 0..guest.command_line.steps {
        let which = random.below(devices.all().count().max(1) as u64) as usize;
        let Some((name, window)) = devices.all().nth(which) else { break };
        if step % STEPS_BETWEEN == STEPS_BETWEEN - 1 {
            let ready = Victim::start(name, window).is_some();
            guest.report.check_of(name, ready, "gets ready again");
        }
        one(&mut random, guest, name, window);
    }
    Outcome::Answers
}

fn one(random: &mut Random, guest: &Guest<'_>, name: &'static str, window: Window) {
    match random.below(16) {
        0 => any_register(random, window),
        1 => window.write(register::STATUS, random.one_of(&[0, 1, 3, 11, 15, 64, 128, 143]) as u32),
        2 => {
            Victim::start(name, window);
        }
        3 => any_queue(random, window),
        4..=6 => any_descriptors(random, window),
        7..=9 => any_offer(random, window),
        10 => window.notify(random.one_of(&[0, 1, 2, 3, 255, 65_536, u64::from(u32::MAX)]) as u32),
        11 => any_packet(random, window),
        12 => window.write(register::INTERRUPT_ACK, random.edge() as u32),
        13 => any_port(random, guest),
        14 => {
            window.negotiate();
            window.accept(random.edge() | VERSION_1);
            window.queue(random.below(3) as u32, 1 << random.below(8));
            window.add_status(status::DRIVER_OK);
        }
        _ => any_access(random, window),
    }
}

fn any_register(random: &mut Random, window: Window) {
    let offset = random.below(0x140 / 4) * 4;
    if random.below(2) == 0 {
        window.read(offset);
    } else {
        window.write(offset, random.edge() as u32);
    }
}

fn any_access(random: &mut Random, window: Window) {
    let at = window.base + random.below(WINDOW_BYTES);
    match random.below(6) {
        0 => machine::write8(at, random.next() as u8),
        1 => machine::write16(at, random.next() as u16),
        2 => machine::write64(at, random.edge()),
        3 => {
            machine::read8(at);
        }
        4 => {
            machine::read16(at);
        }
        _ => {
            machine::read64(at);
        }
    }
}

/// An address: in the device's rings or buffers, in free memory, or nowhere. Never where this program is.
fn any_address(random: &mut Random, window: Window) -> u64 {
    let area = AREAS + window.index * AREA_BYTES;
    match random.below(8) {
        0 => area + random.below(0x3_0000),
        1..=4 => buffers(window) + random.below(0x10_0000),
        5 => MEMORY_BYTES - random.below(5000),
        6 => 0x700_0000 + random.below(0x10_0000),
        _ => random.edge() | 0xf000_0000,
    }
}

fn any_queue(random: &mut Random, window: Window) {
    let size = random.one_of(&[0, 1, 2, 4, 8, 64, 128, 256, 65_535]) as u32;
    let rings = [0; 3].map(|_| any_address(random, window));
    window.set_queue(random.below(4) as u32, size, rings);
}

fn any_descriptors(random: &mut Random, window: Window) {
    let queue = placed(random, window);
    for _ in 0..1 + random.below(6) {
        let descriptor = Descriptor {
            address: any_address(random, window),
            len: random.one_of(&[
                0,
                1,
                16,
                44,
                64,
                512,
                513,
                4096,
                65_536,
                1 << 20,
                u64::from(u32::MAX),
            ]) as u32,
            flags: random.one_of(&[0, 1, 1, 2, 2, 3, 3, 4, 5, 7, 65_535]) as u16,
            next: random.below(u64::from(queue.size) + 2) as u16,
        };
        queue.set(random.below(u64::from(queue.size)) as u16, descriptor);
    }
}

fn any_offer(random: &mut Random, window: Window) {
    let mut queue = placed(random, window);
    let available = machine::read16(queue.rings()[1] + 2);
    queue.available = available;
    match random.below(8) {
        0 => queue.set_available(random.next() as u16),
        1 => queue.set_flags(random.next() as u16),
        _ => {
            for _ in 0..1 + random.below(4) {
                queue.offer(random.below(u64::from(queue.size) + 1) as u16);
            }
        }
    }
    queue.notify();
}

/// A queue where well-behaved drivers have it, without being made anew.
fn placed(random: &mut Random, window: Window) -> Queue {
    let index = random.below(3) as u32;
    let size = window.queue_max(index).clamp(1, 1024);
    let base = AREAS + window.index * AREA_BYTES + u64::from(index) * crate::layout::QUEUE_BYTES;
    Queue { window, index, size, base, available: 0, seen: 0 }
}

fn any_packet(random: &mut Random, window: Window) {
    let ports = [PORT_ECHO, PORT_SINK, PORT_NOBODY, 0, u32::MAX].map(u64::from);
    let header = Header {
        src_cid: random.one_of(&[3, 3, 3, 2, 0, u64::MAX]),
        dst_cid: random.one_of(&[2, 2, 2, 3, 0, u64::MAX]),
        src_port: random.one_of(&[50_000, 50_001, 50_002, 0, u64::from(u32::MAX)]) as u32,
        dst_port: random.one_of(&ports) as u32,
        len: random.one_of(&[0, 0, 1, 20, 4096, 70_000, u64::from(u32::MAX)]) as u32,
        kind: random.one_of(&[1, 1, 1, 1, 0, 2]) as u16,
        op: random.below(9) as u16,
        flags: random.below(5) as u32,
        buf_alloc: random.edge() as u32,
        fwd_cnt: random.edge() as u32,
    };
    header.write(buffers(window) + random.below(16) * 4096);
}

fn any_port(random: &mut Random, guest: &Guest<'_>) {
    let port =
        random.one_of(&[0x60, 0x70, 0x80, 0xcf8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0xf4, 0x1234]) as u16;
    let is_keyboard = guest.command_line.is_firecracker && (0x60..0x65).contains(&port);
    if random.below(2) == 0 || is_keyboard {
        machine::in8(port);
        machine::in32(port);
    } else {
        machine::out8(port, random.next() as u8);
        machine::out16(port, random.next() as u16 & 0xff);
    }
}
