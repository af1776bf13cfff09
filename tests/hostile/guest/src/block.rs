//! An ordinary driver of the disk: what a case leaves behind must still answer it.

use crate::layout::{DISK_SECTORS, SECTOR_MARK};
use crate::machine;
use crate::queue::{Queue, WRITE, buffers};
use crate::transport::{Window, status};

/// Request types.
pub(crate) const IN: u32 = 0;
/// See [`IN`].
pub(crate) const OUT: u32 = 1;
/// See [`IN`].
pub(crate) const FLUSH: u32 = 4;
/// See [`IN`].
pub(crate) const GET_ID: u32 = 8;

/// What a status byte is before the device writes it.
pub(crate) const UNANSWERED: u8 = 0xaa;
/// Status bytes.
pub(crate) const OK: u8 = 0;
/// See [`OK`].
pub(crate) const IO_ERROR: u8 = 1;

/// The disk with one request at a time.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) queue: Queue,
}

impl Block {
    /// Resets the disk and makes it ready.
    pub(crate) fn start(window: Window) -> Option<Self> {
        if !window.negotiate() {
            return None;
        }
        let queue = window.queue(0, 128)?;
        window.add_status(status::DRIVER_OK);
        Some(Self { queue })
    }

    /// Where the header, the status and data of requests are.
    pub(crate) fn places(window: Window) -> [u64; 3] {
        let base = buffers(window);
        [base, base + 0x800, base + 0x1000]
    }

    /// Writes a request's header and takes back its status.
    pub(crate) fn header(window: Window, kind: u32, sector: u64) {
        let [header, answer, _] = Self::places(window);
        machine::write32(header, kind);
        machine::write32(header + 4, 0);
        machine::write64(header + 8, sector);
        machine::write8(answer, UNANSWERED);
    }

    /// One request of `bytes` of data; the status byte, or `None` when none came.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, bytes: u32) -> Option<u8> {
        let [header, answer, data] = Self::places(self.queue.window);
        Self::header(self.queue.window, kind, sector);
        let flags = if kind == OUT { 0 } else { WRITE };
        if bytes > 0 {
            self.queue.chain(&[(header, 16, 0), (data, bytes, flags), (answer, 1, WRITE)]);
        } else {
            self.queue.chain(&[(header, 16, 0), (answer, 1, WRITE)]);
        }
        self.queue.offer(0);
        self.queue.notify();
        self.queue.wait()?;
        self.queue.window.acknowledge();
        Some(machine::read8(answer))
    }

    /// Reads a sector and checks that it is that one.
    pub(crate) fn reads(&mut self, sector: u64) -> bool {
        let [_, _, data] = Self::places(self.queue.window);
        machine::zero(data, 16);
        self.request(IN, sector % DISK_SECTORS, 512) == Some(OK)
            && machine::read64(data) == sector % DISK_SECTORS
            && machine::read64(data + 8) == SECTOR_MARK
    }
}
