//! Packets that lie, and more of them than anybody can answer.

use super::Outcome;
use crate::Guest;
use crate::layout::{PORT_ECHO, PORT_NOBODY, PORT_SINK};
use crate::queue::{Descriptor, NEXT, WRITE};
use crate::random::Random;
use crate::transport::{PATIENCE_TICKS, status, wait_for};
use crate::vsock::{HEADER_BYTES, HOST_CID, Header, Vsock, op};

/// Headers that claim more than was sent, headers that are cut, data without an end.
pub(super) fn lengths(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.vsock else { return Outcome::Answers };
    let Some(mut vsock) = Vsock::start(window) else { return Outcome::Answers };
    let Some(stream) = vsock.connect(PORT_ECHO) else {
        guest.report.fail("the host's echo is there");
        return Outcome::Answers;
    };
    let at = vsock.tx_buffer();
    for (claimed, sent) in
        [(1, 0), (100, 50), (u32::MAX, 10), (0x8000_0000, 0), (65_537, 64), (0, 100), (4096, 4095)]
    {
        let mut header = vsock.header(stream.local, stream.peer, op::RW);
        header.len = claimed;
        guest.report.check(vsock.transmit(&header, sent).is_some(), "a packet that lies is taken");
    }
    vsock.header(stream.local, stream.peer, op::RW).write(at);
    for len in [0, 1, 43] {
        vsock.tx.chain(&[(at, len, 0)]);
        vsock.tx.offer(0);
        vsock.tx.notify();
        guest.report.check(vsock.tx.wait().is_some(), "a cut header is given back");
    }
    // The header a byte at a time.
    let mut pieces = [(0, 0, 0); HEADER_BYTES as usize];
    for (offset, piece) in (0..).zip(pieces.iter_mut()) {
        *piece = (at + offset, 1, 0);
    }
    vsock.tx.chain(&pieces);
    vsock.tx.offer(0);
    vsock.tx.notify();
    guest.report.check(vsock.tx.wait().is_some(), "a header in pieces is given back");
    Outcome::Answers
}

/// Packets from nobody, for nobody, of no type.
pub(super) fn addresses(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    let plain = vsock.header(4000, PORT_ECHO, op::REQUEST);
    for cid in [0, 1, HOST_CID, 3, 4, 1 << 32, u64::from(u32::MAX), u64::MAX] {
        vsock.transmit(&Header { src_cid: cid, ..plain }, 0);
        vsock.transmit(&Header { dst_cid: cid, ..plain }, 0);
        vsock.transmit(&Header { src_cid: cid, dst_cid: cid, ..plain }, 0);
    }
    for kind in [0, 2, 3, 255, 65_535] {
        vsock.transmit(&Header { kind, ..plain }, 0);
    }
    for port in [0, 1, PORT_NOBODY, 1 << 30, u32::MAX] {
        vsock.transmit(&Header { src_port: port, ..plain }, 0);
        vsock.transmit(&Header { dst_port: port, ..plain }, 0);
    }
    drain(&mut vsock);
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Every operation, known or not, on connections that are not there, and on one that is.
pub(super) fn operations(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    for operation in (0..20).chain([255, 256, 32_768, 65_535]) {
        for flags in [0, 1, 2, 3, u32::MAX] {
            let header = vsock.header(5000, PORT_ECHO, operation);
            vsock.transmit(&Header { flags, ..header }, 0);
            drain(&mut vsock);
        }
    }
    for operation in (0..20).chain([255, 65_535]) {
        if let Some(stream) = vsock.connect(PORT_ECHO) {
            let header = vsock.header(stream.local, stream.peer, operation);
            for _ in 0..3 {
                vsock.transmit(&Header { len: 10, ..header }, 10);
                drain(&mut vsock);
            }
        } else {
            guest.report.fail("a new connection after a wrong operation");
        }
    }
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Gives all packets that came their buffers back.
fn drain(vsock: &mut Vsock) {
    let mut came = false;
    while let Some((head, ..)) = vsock.take() {
        vsock.give_buffer(head);
        came = true;
    }
    if came {
        vsock.rx.notify();
    }
}

/// Resets of connections that never were.
pub(super) fn reset_flood(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    let mut random = Random::new(guest.command_line.seed);
    for _ in 0..guest.command_line.times(3000) {
        let (local, peer) = (random.next() as u32, random.next() as u32);
        let header = vsock.header(local, peer, op::RST);
        if vsock.transmit(&header, 0).is_none() {
            guest.report.fail("resets are taken");
            break;
        }
    }
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Connections by the thousand to a peer that accepts, without looking at an answer.
pub(super) fn connect_storm(guest: &mut Guest<'_>) -> Outcome {
    storm(guest, PORT_SINK, 1500)
}

/// Connections by the thousand to a port that nobody listens on.
pub(super) fn refused_storm(guest: &mut Guest<'_>) -> Outcome {
    storm(guest, PORT_NOBODY, 3000)
}

fn storm(guest: &mut Guest<'_>, port: u32, count: u64) -> Outcome {
    let Some(window) = guest.devices.vsock else { return Outcome::Answers };
    // Without a receive buffer no answer can be given: a device must hold back, not hoard.
    if let Some(mut vsock) = Vsock::start_empty(window) {
        let mut taken = 0;
        for local in 0..guest.command_line.times(count) as u32 {
            let header = vsock.header(30_000 + local, port, op::REQUEST);
            header.write(vsock.tx_buffer());
            vsock.tx.chain(&[(vsock.tx_buffer(), HEADER_BYTES, 0)]);
            vsock.tx.offer(0);
            vsock.tx.notify();
            let patience = if taken == 0 { PATIENCE_TICKS } else { PATIENCE_TICKS / 50 };
            if vsock.tx.wait_ticks(patience).is_none() {
                break;
            }
            taken += 1;
        }
        guest.report.check(taken > 0, "the first packets are taken");
    }
    // With them.
    let Some(mut vsock) = Vsock::start(window) else { return Outcome::Answers };
    for local in 0..guest.command_line.times(count) as u32 {
        let header = vsock.header(30_000 + local, port, op::REQUEST);
        if vsock.transmit(&header, 0).is_none() {
            guest.report.fail("requests are taken while answers are");
            break;
        }
        drain(&mut vsock);
    }
    Outcome::Answers
}

/// Receive buffers that hold no header, that are not to be written, in pieces, outside memory; then none.
pub(super) fn receive_buffers(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.vsock else { return Outcome::Answers };
    let memory = crate::queue::buffers(window);
    let shapes = [
        (memory, 0, WRITE),
        (memory, 1, WRITE),
        (memory, 43, WRITE),
        (memory, 44, WRITE),
        (memory, 45, WRITE),
        (memory, 4096, 0),
        (u64::MAX - 8, 4096, WRITE),
        (memory, u32::MAX, WRITE),
        (memory, 4096, WRITE | NEXT),
    ];
    for (address, len, flags) in shapes {
        let Some(mut vsock) = Vsock::start_empty(window) else {
            guest.report.fail("the socket device gets ready again");
            break;
        };
        for at in 0..vsock.rx.size {
            vsock.rx.set(at, Descriptor { address, len, flags, next: at });
            vsock.rx.offer(at);
        }
        vsock.rx.notify();
        for local in 0..20 {
            let header = vsock.header(40_000 + local, PORT_ECHO, op::REQUEST);
            header.write(vsock.tx_buffer());
            vsock.tx.chain(&[(vsock.tx_buffer(), HEADER_BYTES, 0)]);
            vsock.tx.offer(0);
            vsock.tx.notify();
            if vsock.tx.wait_ticks(PATIENCE_TICKS / 50).is_none() {
                break;
            }
        }
    }
    Outcome::Answers
}

/// The event queue, on which nothing ever comes, with anything in it.
pub(super) fn event_queue(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.vsock else { return Outcome::Answers };
    window.negotiate();
    let queues = [window.queue(0, 8), window.queue(1, 8), window.queue(2, 8)];
    window.add_status(status::DRIVER_OK);
    for (address, len, flags) in
        [(0, 0, 0), (u64::MAX, u32::MAX, 7), (0x600_0000, 8, WRITE), (0x600_0000, 8, NEXT)]
    {
        for mut queue in queues.into_iter().flatten() {
            for at in 0..queue.size {
                queue.set(at, Descriptor { address, len, flags, next: 0 });
            }
            queue.set_available(queue.available.wrapping_add(queue.size));
            for _ in 0..guest.command_line.times(200) {
                queue.notify();
            }
        }
    }
    wait_for(PATIENCE_TICKS / 200, || window.status() & status::NEEDS_RESET != 0);
    Outcome::Answers
}
