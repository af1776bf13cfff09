//! An ordinary driver of the network device (virtio 1.2 section 5.1), whose host sends each frame back.

use crate::machine;
use crate::queue::{Descriptor, Queue, WRITE, buffers};
use crate::transport::{PATIENCE_TICKS, Window, register, status, wait_for};

/// Bytes of the header before each frame.
pub(crate) const HEADER_BYTES: u64 = 12;
/// Bytes of an ordinary frame.
pub(crate) const FRAME_BYTES: u32 = 100;
/// Receive buffers and their size in bytes.
const RECEIVE_BUFFERS: u16 = 16;
const RECEIVE_BYTES: u32 = 2048;
/// Frames that are sent until one comes back.
const TRIES: u64 = 40;
const SEND_OFFSET: u64 = 0x8_0000;
/// An experimental protocol (IEEE 802).
const PROTOCOL: u16 = 0xb588;

/// The device: receive queue filled, send queue used one frame at a time.
#[derive(Debug)]
pub(crate) struct Net {
    window: Window,
    pub(crate) rx: Queue,
    pub(crate) tx: Queue,
}

impl Net {
    /// Resets the device and makes it ready, with receive buffers.
    pub(crate) fn start(window: Window) -> Option<Self> {
        let mut net = Self::start_empty(window)?;
        for at in 0..RECEIVE_BUFFERS.min(net.rx.size) {
            net.give_buffer(at);
        }
        net.rx.notify();
        Some(net)
    }

    /// As [`Net::start`] without a receive buffer.
    pub(crate) fn start_empty(window: Window) -> Option<Self> {
        if !window.negotiate() {
            return None;
        }
        let (rx, tx) = (window.queue(0, 256)?, window.queue(1, 256)?);
        window.add_status(status::DRIVER_OK);
        Some(Self { window, rx, tx })
    }

    fn give_buffer(&mut self, at: u16) {
        let address = buffers(self.window) + u64::from(at) * u64::from(RECEIVE_BYTES);
        self.rx.set(at, Descriptor { address, len: RECEIVE_BYTES, flags: WRITE, next: 0 });
        self.rx.offer(at);
    }

    /// Where a frame that is sent has its header; the frame follows.
    pub(crate) fn send_buffer(window: Window) -> u64 {
        buffers(window) + SEND_OFFSET
    }

    /// Writes an ordinary frame of [`FRAME_BYTES`] with `mark` in it, from the device's own address to everybody.
    pub(crate) fn write_frame(window: Window, mark: u64) {
        let at = Self::send_buffer(window);
        machine::zero(at, 2048);
        let frame = at + HEADER_BYTES;
        for byte in 0..6 {
            machine::write8(frame + byte, 0xff);
            machine::write8(
                frame + 6 + byte,
                machine::read8(window.base + register::CONFIG + byte),
            );
        }
        machine::write16(frame + 12, PROTOCOL);
        machine::write64(frame + 16, mark);
    }

    /// Sends `bytes` from the send buffer on, header included; waits until the device took them.
    pub(crate) fn send(&mut self, bytes: u32) -> bool {
        self.tx.chain(&[(Self::send_buffer(self.window), bytes, 0)]);
        self.tx.offer(0);
        self.tx.notify();
        self.tx.wait().is_some()
    }

    /// Takes everything that came; whether the frame with `mark` was among it.
    fn take(&mut self, mark: u64) -> bool {
        let mut found = false;
        while let Some((head, _)) = self.rx.pop() {
            let at = buffers(self.window) + u64::from(head) * u64::from(RECEIVE_BYTES);
            found |= machine::read64(at + HEADER_BYTES + 16) == mark;
            self.give_buffer(head as u16);
        }
        self.rx.notify();
        found
    }

    /// Sends a frame, and waits until it comes back; some may be lost where others wait.
    pub(crate) fn echoes(&mut self) -> bool {
        let mark = machine::ticks();
        Self::write_frame(self.window, mark);
        (0..TRIES).any(|_| {
            self.send(HEADER_BYTES as u32 + FRAME_BYTES)
                && wait_for(PATIENCE_TICKS / TRIES, || {
                    self.rx.used() != self.rx.seen && self.take(mark)
                })
        })
    }
}
