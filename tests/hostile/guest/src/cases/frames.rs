//! Frames that no network has seen.

use super::Outcome;
use crate::Guest;
use crate::layout::MEMORY_BYTES;
use crate::machine;
use crate::net::{FRAME_BYTES, HEADER_BYTES, Net};
use crate::queue::{Descriptor, NEXT, WRITE};
use crate::random::Random;
use crate::transport::{PATIENCE_TICKS, Window};

/// A header and an ordinary frame.
const PACKET_BYTES: u32 = HEADER_BYTES as u32 + FRAME_BYTES;

/// The device, its window and whether there is one.
fn start(guest: &mut Guest<'_>) -> Option<(Window, Net)> {
    let window = guest.devices.net?;
    let net = Net::start(window);
    guest.report.check_of("net", net.is_some(), "gets ready");
    Some((window, net?))
}

/// Frames that are too short or too long, cut headers, frames in pieces.
pub(super) fn lengths(guest: &mut Guest<'_>) -> Outcome {
    let Some((window, mut net)) = start(guest) else { return Outcome::Answers };
    for len in (0..32).chain([1514, 1526, 1527, 1530, 1531, 4096, 65_535, 65_536, 1 << 19]) {
        Net::write_frame(window, 1);
        guest.report.check_of("net", net.send(len), "a frame of a wrong length is given back");
    }
    Net::write_frame(window, 2);
    let at = Net::send_buffer(window);
    let mut pieces = [(0, 1, 0); 112];
    for (offset, piece) in (0..).zip(pieces.iter_mut()) {
        piece.0 = at + offset;
    }
    net.tx.chain(&pieces);
    net.tx.offer(0);
    net.tx.notify();
    guest.report.check_of("net", net.tx.wait().is_some(), "a frame in pieces is given back");
    guest.report.check_of("net", net.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Offload headers with anything in them: checksums, segments and lengths that are not there.
pub(super) fn headers(guest: &mut Guest<'_>) -> Outcome {
    let Some((window, mut net)) = start(guest) else { return Outcome::Answers };
    let mut random = Random::new(guest.command_line.seed);
    for round in 0..guest.command_line.times(400) {
        Net::write_frame(window, 3);
        let at = Net::send_buffer(window);
        for byte in 0..HEADER_BYTES {
            machine::write8(at + byte, random.edge() as u8);
        }
        // Each kind of offload in its turn: TCP, UDP, TCP over IPv6, UDP in layers, with and without congestion marks.
        machine::write8(at, (round % 8) as u8);
        machine::write8(at + 1, [0, 1, 3, 4, 5, 0x80, 0x84, 0xff][round as usize % 8]);
        guest.report.check_of("net", net.send(PACKET_BYTES), "any header is given back");
    }
    guest.report.check_of("net", net.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Frames from others' addresses, to every kind of address, of every protocol.
pub(super) fn addresses(guest: &mut Guest<'_>) -> Outcome {
    let Some((window, mut net)) = start(guest) else { return Outcome::Answers };
    let mut random = Random::new(guest.command_line.seed);
    for _ in 0..guest.command_line.times(300) {
        Net::write_frame(window, 4);
        let frame = Net::send_buffer(window) + HEADER_BYTES;
        for byte in 0..12 {
            machine::write8(frame + byte, random.next() as u8);
        }
        let protocol = random.one_of(&[0x8, 0x608, 0x81, 0xa888, 0xdd86, 0, 0xffff]);
        machine::write16(frame + 12, protocol as u16);
        for byte in 14..FRAME_BYTES.into() {
            machine::write8(frame + byte, random.next() as u8);
        }
        guest.report.check_of("net", net.send(PACKET_BYTES), "any frame is given back");
    }
    guest.report.check_of("net", net.echoes(), "answers without a reset");
    Outcome::Answers
}

/// The send queue full again and again, with answers that nobody collects.
pub(super) fn flood(guest: &mut Guest<'_>) -> Outcome {
    let Some((window, mut net)) = start(guest) else { return Outcome::Answers };
    Net::write_frame(window, 5);
    net.tx.chain(&[(Net::send_buffer(window), PACKET_BYTES, 0)]);
    for _ in 0..guest.command_line.times(50) {
        for _ in 0..net.tx.size {
            net.tx.offer(0);
        }
        net.tx.notify();
        for _ in 0..net.tx.size {
            guest.report.check_of("net", net.tx.wait().is_some(), "each frame is given back");
        }
    }
    guest.report.check_of("net", net.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Receive buffers too small, not writable, endless, outside memory, none; with frames on their way to them.
pub(super) fn receive_buffers(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.net else { return Outcome::Answers };
    let memory = crate::queue::buffers(window);
    let shapes = [
        (memory, 0, WRITE),
        (memory, 11, WRITE),
        (memory, 12, WRITE),
        (memory, 13, WRITE),
        (memory, 2048, 0),
        (u64::MAX - 8, 2048, WRITE),
        (MEMORY_BYTES - 20, 2048, WRITE),
        (memory, u32::MAX, WRITE),
        (memory, 2048, WRITE | NEXT),
    ];
    for (address, len, flags) in shapes {
        let Some(mut net) = Net::start_empty(window) else {
            guest.report.fail("the network device gets ready again");
            break;
        };
        for at in 0..net.rx.size {
            net.rx.set(at, Descriptor { address, len, flags, next: at });
            net.rx.offer(at);
        }
        net.rx.notify();
        Net::write_frame(window, 6);
        for _ in 0..20 {
            net.tx.chain(&[(Net::send_buffer(window), PACKET_BYTES, 0)]);
            net.tx.offer(0);
            net.tx.notify();
            if net.tx.wait_ticks(PATIENCE_TICKS / 50).is_none() {
                break;
            }
        }
    }
    Outcome::Answers
}
