//! An ordinary driver of the entropy device.

use crate::machine;
use crate::queue::{Queue, WRITE};
use crate::transport::{Window, status};

/// Bytes of an ordinary request.
const BYTES: u32 = 64;

/// The device with one request at a time.
#[derive(Debug)]
pub(crate) struct Rng {
    pub(crate) queue: Queue,
}

impl Rng {
    /// Resets the device and makes it ready.
    pub(crate) fn start(window: Window) -> Option<Self> {
        if !window.negotiate() {
            return None;
        }
        let queue = window.queue(0, 8)?;
        window.add_status(status::DRIVER_OK);
        Some(Self { queue })
    }

    /// Asks for bytes and checks that they came.
    pub(crate) fn gives(&mut self) -> bool {
        let data = self.queue.buffers();
        machine::zero(data, u64::from(BYTES));
        self.queue.chain(&[(data, BYTES, WRITE)]);
        self.queue.offer(0);
        self.queue.notify();
        let answered = matches!(self.queue.wait(), Some((0, len)) if len == BYTES);
        self.queue.window.acknowledge();
        // 64 zero bytes are as likely as any others: 1 in 2^512.
        answered && (0..u64::from(BYTES)).any(|at| machine::read8(data + at) != 0)
    }
}
