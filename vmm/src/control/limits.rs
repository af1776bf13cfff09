//! The record behind `l`: one queue's limits anew.
//!
//! ```text
//! offset  bytes
//!      0  1      what: 0 a disk, 1 what the network device receives, 2 what it sends
//!      1  1      which disk, from 0; 0 for the network device
//!      2  6      0
//!      8  8      bytes per second, 0 for no limit
//!     16  8      bytes at once, 0 for a tenth of a second's worth
//!     24  8      requests or frames per second, 0 for no limit
//!     32  8      requests or frames at once, 0 for a tenth of a second's worth
//! ```
//! All numbers are little-endian.

use std::io::{self, Read};
use std::sync::Arc;

use crate::limiter::{Limit, Limits};
use crate::virtio::MmioDevice;

/// Bytes of a record.
const RECORD_BYTES: usize = 40;

/// A record that is coming in.
#[derive(Debug)]
pub(super) struct Record {
    bytes: [u8; RECORD_BYTES],
    received: usize,
}

impl Record {
    pub(super) fn new() -> Self {
        Self { bytes: [0; RECORD_BYTES], received: 0 }
    }

    /// Takes what there is of it; true once it is whole.
    ///
    /// # Errors
    /// The socket's; there is never an end inside of a record.
    pub(super) fn read(&mut self, mut socket: impl Read) -> io::Result<bool> {
        match socket.read(&mut self.bytes[self.received..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.received += count;
                Ok(self.received == RECORD_BYTES)
            }
        }
    }

    /// Does what it says; false if it makes no sense or there is no such queue, and nothing has changed.
    pub(super) fn apply(&self, devices: &[Arc<MmioDevice>]) -> bool {
        let [what, which, zeros @ ..] = self.bytes;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self.bytes[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (name, dial) = match what {
            0 => ("block", 0),
            1 => ("net", 0),
            2 => ("net", 1),
            _ => return false,
        };
        let mut like_it = devices.iter().filter(|device| device.traits().name == name);
        let device = like_it.nth(usize::from(which));
        let bandwidth = limit(number(8), number(16));
        let operations = limit(number(24), number(32));
        match (device, bandwidth, operations) {
            (Some(device), Some(bandwidth), Some(operations)) if zeros[..6] == [0; 6] => {
                device.set_limits(dial, Limits { bandwidth, operations })
            }
            _ => false,
        }
    }
}

/// The limit that two numbers mean; `None`: they make no sense.
fn limit(rate: u64, burst: u64) -> Option<Option<Limit>> {
    match (rate, burst) {
        (0, 0) => Some(None),
        (_, 0) => Limit::new(rate, None).map(Some),
        _ => Limit::new(rate, Some(burst)).map(Some),
    }
}
