//! An ordinary driver of the socket device (virtio 1.2 section 5.10), and its packets for those who are not ordinary.

use crate::layout::PORT_ECHO;
use crate::machine;
use crate::queue::{Queue, WRITE, buffers};
use crate::transport::{PATIENCE_TICKS, Window, register, status, wait_for};

/// Operations.
pub(crate) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Bytes of a header.
pub(crate) const HEADER_BYTES: u32 = 44;
/// A port on which nothing is ever open.
pub(crate) const PORT_OF_VICTIMS: u32 = 6666;
/// The host.
pub(crate) const HOST_CID: u64 = 2;
/// The type of streams.
pub(crate) const STREAM: u16 = 1;

/// Receive buffers and their size in bytes.
const RECEIVE_BUFFERS: u16 = 32;
const RECEIVE_BYTES: u32 = 4096;
/// What the device is told that a stream may owe us.
const CREDIT: u32 = 64 << 10;
const TX_OFFSET: u64 = 0x8_0000;
/// Data of one packet that is sent.
pub(crate) const SEND_BYTES: usize = 2048;

/// A header, each field for the taking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    pub(crate) fn write(&self, at: u64) {
        machine::write64(at, self.src_cid);
        machine::write64(at + 8, self.dst_cid);
        machine::write32(at + 16, self.src_port);
        machine::write32(at + 20, self.dst_port);
        machine::write32(at + 24, self.len);
        machine::write16(at + 28, self.kind);
        machine::write16(at + 30, self.op);
        machine::write32(at + 32, self.flags);
        machine::write32(at + 36, self.buf_alloc);
        machine::write32(at + 40, self.fwd_cnt);
    }

    fn read(at: u64) -> Self {
        Self {
            src_cid: machine::read64(at),
            dst_cid: machine::read64(at + 8),
            src_port: machine::read32(at + 16),
            dst_port: machine::read32(at + 20),
            len: machine::read32(at + 24),
            kind: machine::read16(at + 28),
            op: machine::read16(at + 30),
            flags: machine::read32(at + 32),
            buf_alloc: machine::read32(at + 36),
            fwd_cnt: machine::read32(at + 40),
        }
    }
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) local: u32,
    pub(crate) peer: u32,
    received: u32,
}

/// The device: receive queue filled, transmit queue used one packet at a time.
#[derive(Debug)]
pub(crate) struct Vsock {
    pub(crate) window: Window,
    pub(crate) rx: Queue,
    pub(crate) tx: Queue,
    pub(crate) cid: u64,
    next_port: u32,
}

impl Vsock {
    /// Resets the device and makes it ready, with receive buffers.
    pub(crate) fn start(window: Window) -> Option<Self> {
        let mut vsock = Self::start_empty(window)?;
        for at in 0..RECEIVE_BUFFERS.min(vsock.rx.size) {
            vsock.give_buffer(at);
        }
        vsock.rx.notify();
        Some(vsock)
    }

    /// As [`Vsock::start`] without a receive buffer.
    pub(crate) fn start_empty(window: Window) -> Option<Self> {
        if !window.negotiate() {
            return None;
        }
        let rx = window.queue(0, 64)?;
        let tx = window.queue(1, 64)?;
        window.queue(2, 8)?;
        window.add_status(status::DRIVER_OK);
        let cid = u64::from(window.read(register::CONFIG));
        Some(Self { window, rx, tx, cid, next_port: 20_000 })
    }

    /// Gives the device receive buffer `at`.
    pub(crate) fn give_buffer(&mut self, at: u16) {
        let address = buffers(self.window) + u64::from(at) * u64::from(RECEIVE_BYTES);
        let descriptor =
            crate::queue::Descriptor { address, len: RECEIVE_BYTES, flags: WRITE, next: 0 };
        self.rx.set(at, descriptor);
        self.rx.offer(at);
    }

    /// A stream packet from us to the host, as it should be.
    pub(crate) fn header(&self, local: u32, peer: u32, op: u16) -> Header {
        Header {
            src_cid: self.cid,
            dst_cid: HOST_CID,
            src_port: local,
            dst_port: peer,
            kind: STREAM,
            op,
            buf_alloc: CREDIT,
            ..Header::default()
        }
    }

    /// Where the packet that is sent next is put together.
    pub(crate) fn tx_buffer(&self) -> u64 {
        buffers(self.window) + TX_OFFSET
    }

    /// Sends a header with `payload` bytes of whatever lies behind it; waits until the device took it.
    pub(crate) fn transmit(&mut self, header: &Header, payload: u32) -> Option<()> {
        let at = self.tx_buffer();
        header.write(at);
        self.tx.chain(&[(at, HEADER_BYTES + payload, 0)]);
        self.tx.offer(0);
        self.tx.notify();
        self.tx.wait().map(|_| ())
    }

    /// The next packet's header and the place of its data, if there is one; its buffer is given back by the caller.
    pub(crate) fn take(&mut self) -> Option<(u16, Header, u64)> {
        let (head, _) = self.rx.pop()?;
        let at = buffers(self.window) + u64::from(head) * u64::from(RECEIVE_BYTES);
        Some((head as u16, Header::read(at), at + u64::from(HEADER_BYTES)))
    }

    /// Waits for a packet of a stream; others are dropped.
    fn wait_for_packet(&mut self, local: u32, peer: u32) -> Option<(u16, Header, u64)> {
        let mut found = None;
        wait_for(PATIENCE_TICKS, || {
            while let Some((head, header, data)) = self.take() {
                if (header.dst_port, header.src_port) == (local, peer) {
                    found = Some((head, header, data));
                    return true;
                }
                self.give_buffer(head);
                self.rx.notify();
            }
            false
        });
        self.window.acknowledge();
        found
    }

    fn give_back(&mut self, head: u16) {
        self.give_buffer(head);
        self.rx.notify();
    }

    /// A new connection to the host.
    pub(crate) fn connect(&mut self, peer: u32) -> Option<Stream> {
        self.next_port += 1;
        let local = self.next_port;
        let header = self.header(local, peer, op::REQUEST);
        self.transmit(&header, 0)?;
        let (head, header, _) = self.wait_for_packet(local, peer)?;
        self.give_back(head);
        (header.op == op::RESPONSE).then_some(Stream { local, peer, received: 0 })
    }

    /// Sends up to [`SEND_BYTES`].
    pub(crate) fn send(&mut self, stream: &mut Stream, bytes: &[u8]) -> Option<()> {
        let at = self.tx_buffer() + u64::from(HEADER_BYTES);
        for (address, byte) in (at..).zip(bytes) {
            machine::write8(address, *byte);
        }
        let mut header = self.header(stream.local, stream.peer, op::RW);
        header.len = bytes.len() as u32;
        header.fwd_cnt = stream.received;
        self.transmit(&header, header.len)
    }

    /// Waits for data; how many bytes of `into` were filled, 0 at the end.
    pub(crate) fn receive(&mut self, stream: &mut Stream, into: &mut [u8]) -> Option<usize> {
        loop {
            let (head, header, data) = self.wait_for_packet(stream.local, stream.peer)?;
            let count = match header.op {
                op::RW => (header.len as usize).min(into.len()),
                op::RST | op::SHUTDOWN => 0,
                _ => {
                    self.give_back(head);
                    continue;
                }
            };
            for (address, byte) in (data..).zip(into.iter_mut().take(count)) {
                *byte = machine::read8(address);
            }
            stream.received = stream.received.wrapping_add(header.len);
            self.give_back(head);
            return Some(count);
        }
    }

    /// Ends a connection; waits for the host's agreement.
    pub(crate) fn close(&mut self, stream: Stream) -> Option<()> {
        let mut header = self.header(stream.local, stream.peer, op::SHUTDOWN);
        header.flags = 3;
        self.transmit(&header, 0)?;
        loop {
            let (head, header, _) = self.wait_for_packet(stream.local, stream.peer)?;
            self.give_back(head);
            if header.op == op::RST {
                return Some(());
            }
        }
    }

    /// Connects to the host's echo, and checks that it is one.
    pub(crate) fn echoes(&mut self) -> bool {
        let sent: [u8; 200] = core::array::from_fn(|at| at as u8 ^ 0x5a);
        let mut got = [0; 200];
        let echoed = self.connect(PORT_ECHO).and_then(|mut stream| {
            self.send(&mut stream, &sent)?;
            let mut count = 0;
            while count < got.len() {
                match self.receive(&mut stream, got.get_mut(count..)?)? {
                    0 => return None,
                    more => count += more,
                }
            }
            self.close(stream)
        });
        echoed.is_some() && got == sent
    }
}
