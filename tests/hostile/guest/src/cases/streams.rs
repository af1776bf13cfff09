//! Streams that were opened as they should be, and then used against their rules.

use super::Outcome;
use crate::Guest;
use crate::layout::{PORT_ECHO, PORT_SINK};
use crate::vsock::{Header, SEND_BYTES, Vsock, op};

/// Credit that jumps about: no room, room without end, more consumed than was ever sent.
pub(super) fn credit(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    let lies = [
        (0, 0),
        (u32::MAX, 0),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
        (1, 0x8000_0000),
        (0x8000_0000, 1),
        (64 << 10, 12_345),
    ];
    for (buf_alloc, fwd_cnt) in lies {
        let Some(stream) = vsock.connect(PORT_ECHO) else {
            guest.report.fail("a new connection");
            break;
        };
        for operation in [op::CREDIT_UPDATE, op::RW, op::CREDIT_REQUEST, op::RW, op::CREDIT_UPDATE]
        {
            let header = vsock.header(stream.local, stream.peer, operation);
            let len = if operation == op::RW { 1000 } else { 0 };
            vsock.transmit(&Header { buf_alloc, fwd_cnt, len, ..header }, len);
        }
        while let Some((head, ..)) = vsock.take() {
            vsock.give_buffer(head);
        }
        vsock.rx.notify();
    }
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Far more data than any credit, to a peer that reads nothing, on many connections.
pub(super) fn overrun(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    for _ in 0..guest.command_line.times(40) {
        let Some(stream) = vsock.connect(PORT_SINK) else { break };
        for _ in 0..400 {
            let mut header = vsock.header(stream.local, stream.peer, op::RW);
            header.len = SEND_BYTES as u32;
            if vsock.transmit(&header, header.len).is_none() {
                guest.report.fail("data beyond credit is taken, or its connection reset");
                break;
            }
            let mut ended = false;
            while let Some((head, header, _)) = vsock.take() {
                ended |= header.op == op::RST;
                vsock.give_buffer(head);
            }
            if ended {
                break;
            }
        }
        vsock.rx.notify();
    }
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// Data, requests and ends after an end was announced, in every order.
pub(super) fn half_closed(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut vsock) = guest.devices.vsock.and_then(Vsock::start) else {
        return Outcome::Answers;
    };
    for flags in [0, 1, 2, 3, 4, u32::MAX] {
        for then in [op::RW, op::REQUEST, op::RESPONSE, op::SHUTDOWN, op::CREDIT_REQUEST, op::RST] {
            let Some(stream) = vsock.connect(PORT_ECHO) else {
                guest.report.fail("a new connection");
                break;
            };
            let header = vsock.header(stream.local, stream.peer, op::SHUTDOWN);
            vsock.transmit(&Header { flags, ..header }, 0);
            for flags in [0, 3, 0] {
                let header = vsock.header(stream.local, stream.peer, then);
                vsock.transmit(&Header { flags, len: 5, ..header }, 5);
            }
            while let Some((head, ..)) = vsock.take() {
                vsock.give_buffer(head);
            }
            vsock.rx.notify();
        }
    }
    guest.report.check(vsock.echoes(), "answers without a reset");
    Outcome::Answers
}

/// The device is reset with streams open and data under way, again and again.
pub(super) fn reset_while_open(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.vsock else { return Outcome::Answers };
    for _ in 0..guest.command_line.times(60) {
        let Some(mut vsock) = Vsock::start(window) else {
            guest.report.fail("the socket device gets ready again");
            break;
        };
        for port in [PORT_ECHO, PORT_SINK, PORT_ECHO] {
            if let Some(mut stream) = vsock.connect(port) {
                vsock.send(&mut stream, &[7; 1000]);
            } else {
                guest.report.fail("a new connection after a reset");
            }
        }
    }
    Outcome::Answers
}
