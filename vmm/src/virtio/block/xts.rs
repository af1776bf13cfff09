//! XTS-AES-256 (IEEE 1619, NIST SP 800-38E) over sectors of 512 bytes.
//!
//! The mode is a few lines over the cipher of crate `aes`, which runs on AES-NI or wider where the processor has them. Crate
//! `xts-mode` hands that cipher one block of 16 bytes at a time; a whole sector at a time is four times as fast.

#![expect(unsafe_code, reason = "keeping the key out of core dumps")]

use std::fmt;
use std::io;

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Block};
use zeroize::Zeroizing;

use crate::virtio::rng::random;

#[cfg(test)]
mod tests;

/// The data unit: what has a tweak of its own.
pub(super) const UNIT_BYTES: usize = 512;

const BLOCKS: usize = UNIT_BYTES / 16;
const KEY_BYTES: usize = 32;

/// Two keys and what was derived from them, in pages of their own, which no core dump contains. Overwritten when dropped.
#[repr(align(4096))]
pub(super) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl Xts {
    /// Keys that nobody ever saw.
    ///
    /// # Errors
    /// The kernel has no random bytes to give, or does not keep memory out of core dumps.
    pub(super) fn draw() -> io::Result<Box<Self>> {
        let mut keys = Zeroizing::new([[0; KEY_BYTES]; 2]);
        if !keys.iter_mut().all(|key| random(key)) {
            return Err(io::Error::last_os_error());
        }
        let xts = Box::new(Self::with(&keys));
        let pages = std::ptr::from_ref::<Self>(&xts).cast_mut().cast();
        // SAFETY: the range is that of the box, which is whole pages by its alignment, and the advice changes no bytes of it.
        let advised = unsafe { libc::madvise(pages, size_of::<Self>(), libc::MADV_DONTDUMP) };
        if advised == 0 { Ok(xts) } else { Err(io::Error::last_os_error()) }
    }

    fn with([data, tweak]: &[[u8; KEY_BYTES]; 2]) -> Self {
        Self { data: Aes256::new(&Array(*data)), tweak: Aes256::new(&Array(*tweak)) }
    }

    /// Encrypts unit `number` in place.
    pub(super) fn encrypt(&self, unit: &mut [u8; UNIT_BYTES], number: u64) {
        self.whiten(unit, number, |data, blocks| data.encrypt_blocks(blocks));
    }

    /// Decrypts unit `number` in place.
    pub(super) fn decrypt(&self, unit: &mut [u8; UNIT_BYTES], number: u64) {
        self.whiten(unit, number, |data, blocks| data.decrypt_blocks(blocks));
    }

    /// Adds the tweaks of unit `number`, ciphers it, and adds them again.
    fn whiten(
        &self,
        unit: &mut [u8; UNIT_BYTES],
        number: u64,
        cipher: impl FnOnce(&Aes256, &mut [Block]),
    ) {
        let mut first = Array(u128::from(number).to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let mut next = u128::from_le_bytes(first.0);
        let tweaks: [u128; BLOCKS] = std::array::from_fn(|_| {
            let tweak = next;
            next = times_x(next);
            tweak
        });
        let (blocks, _) = Array::slice_as_chunks_mut(unit);
        add(blocks, &tweaks);
        cipher(&self.data, blocks);
        add(blocks, &tweaks);
    }
}

impl fmt::Debug for Xts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xts")
    }
}

/// The tweak of the next block: multiplied by x modulo x^128 + x^7 + x^2 + x + 1.
fn times_x(tweak: u128) -> u128 {
    const REDUCTION: u128 = 0x87;
    let carry = if tweak >> 127 == 0 { 0 } else { REDUCTION };
    tweak << 1 ^ carry
}

fn add(blocks: &mut [Block], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        let sum = u128::from_le_bytes(block.0) ^ tweak;
        *block = Array(sum.to_le_bytes());
    }
}
