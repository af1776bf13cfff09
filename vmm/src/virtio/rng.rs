//! The entropy device (virtio 1.2 section 5.4): one queue of buffers that the host fills with random bytes.
//!
//! What a guest could abuse: huge requests, to make the host allocate or spend time. A request gets at most
//! [`REQUEST_BYTES_MAX`], produced in pieces on the stack; the queue is small.

#![expect(unsafe_code, reason = "getrandom(2) has no safe binding among this crate's dependencies")]

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::GuestMemoryMmap;

use super::{Answer, Chain, DeviceTraits, Nonsense, Rings, VirtioDevice, Wake};

#[cfg(test)]
mod tests;

/// Most bytes that one request gets; the rest of its buffers stays as it is.
pub const REQUEST_BYTES_MAX: u64 = 64 << 10;

/// Linux keeps one request in flight.
const QUEUE_SIZE: u16 = 8;
const PIECE_BYTES: usize = 4096;

/// The device model.
#[derive(Debug)]
pub struct Rng {
    chain: Chain,
}

impl Rng {
    /// An entropy device that draws from the host kernel.
    pub fn new() -> Self {
        Rng { chain: Chain::with_capacity(QUEUE_SIZE) }
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Rng {
    fn traits(&self) -> DeviceTraits {
        DeviceTraits {
            name: "rng",
            device_id: VIRTIO_ID_RNG,
            features: 0,
            queue_sizes: &[QUEUE_SIZE],
            config: Vec::new(),
            dials: Vec::new(),
        }
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, rings: &mut Rings, _wake: Wake) {
        rings.drain(0, &mut self.chain, fill);
    }

    fn reset(&mut self) {}
}

/// Fills the writable buffers of `chain`.
fn fill(ram: &GuestMemoryMmap<()>, chain: &Chain) -> Answer {
    if chain.readable_bytes() != 0 || chain.writable_bytes() == 0 {
        return Answer::Failed(0, Nonsense::Length);
    }
    let wanted = chain.writable_bytes().min(REQUEST_BYTES_MAX);
    let mut piece = [0; PIECE_BYTES];
    let mut done: u64 = 0;
    while done < wanted {
        let left = usize::try_from(wanted.saturating_sub(done)).unwrap_or(PIECE_BYTES);
        let (now, _) = piece.split_at_mut(left.min(PIECE_BYTES));
        if !random(now) || !chain.write_at(ram, done, now) {
            break;
        }
        done = done.saturating_add(now.len() as u64);
    }
    Answer::Used(u32::try_from(done).unwrap_or(0))
}

/// Fills `bytes` from the host kernel's generator; false if it has none to give.
pub(super) fn random(bytes: &mut [u8]) -> bool {
    let mut left = bytes;
    while !left.is_empty() {
        // SAFETY: the pointer and the length are those of a live, exclusively borrowed slice.
        let got = unsafe { libc::getrandom(left.as_mut_ptr().cast(), left.len(), 0) };
        match usize::try_from(got) {
            Ok(got @ 1..) => left = left.get_mut(got..).unwrap_or_default(),
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
    true
}
