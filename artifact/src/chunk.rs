//! An image cut into chunks of 512 KiB, of which those that are all zero are not there.
//!
//! The last chunk is filled up with zeros, so that all chunks have one size and say nothing else about the image's.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::limits::{CHUNKS_MAX, IMAGE_BYTES_MAX};

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = 512 * 1024;

/// Bytes of a page, of which a chunk has 128.
pub const PAGE_BYTES: usize = CHUNK_BYTES / u128::BITS as usize;

/// What was read of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkReads {
    /// Which chunk.
    pub index: u32,
    /// Its pages that were read: the lowest bit is the first one.
    pub pages: u128,
}

/// The number of chunks of an image of so many bytes; none for an image of a size that there is not: empty, too large, or
/// no multiple of a block.
#[must_use]
pub fn chunks_of(image_bytes: u64) -> Option<u32> {
    let sane =
        image_bytes > 0 && image_bytes <= IMAGE_BYTES_MAX && image_bytes.is_multiple_of(4096);
    sane.then(|| u32::try_from(image_bytes.div_ceil(CHUNK_BYTES as u64)).ok()).flatten()
}

/// Reads chunk `index` into `chunk`, zeros after the image's end.
///
/// # Errors
/// The file's; an image that is shorter than it should be is one.
pub fn read_chunk(
    image: &File,
    image_bytes: u64,
    index: u32,
    chunk: &mut [u8; CHUNK_BYTES],
) -> io::Result<()> {
    let start = u64::from(index) * CHUNK_BYTES as u64;
    let there = image_bytes.saturating_sub(start).min(CHUNK_BYTES as u64);
    let there = usize::try_from(there).expect("a chunk fits memory");
    image.read_exact_at(&mut chunk[..there], start)?;
    chunk[there..].fill(0);
    Ok(())
}

/// Whether a chunk is all zeros. It stops at the first byte that is not, which is early for nearly every other chunk.
#[must_use]
pub fn is_zero(chunk: &[u8]) -> bool {
    let mut blocks = chunk.chunks_exact(64);
    blocks.all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && blocks.remainder().iter().all(|byte| *byte == 0)
}

/// Which chunks are all zeros: bit `i % 8` of byte `i / 8` is chunk `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroMap {
    bits: Vec<u8>,
    chunks: u32,
}

impl ZeroMap {
    /// No chunk of `chunks` is all zeros.
    ///
    /// # Panics
    /// If there cannot be so many.
    #[must_use]
    pub fn new(chunks: u32) -> ZeroMap {
        assert!(chunks <= CHUNKS_MAX, "an image has at most {CHUNKS_MAX} chunks");
        ZeroMap { bits: vec![0; map_bytes(chunks)], chunks }
    }

    /// The map that was written down as `bits`: none if their number is another, or a chunk is marked that there is not.
    #[must_use]
    pub fn from_bits(bits: &[u8], chunks: u32) -> Option<ZeroMap> {
        let unused = bits.len().checked_mul(8)?.checked_sub(chunks as usize)?;
        let last = bits.last().copied().unwrap_or(0);
        let clean = unused == 0 || u32::from(last) >> (8 - unused.min(8)) == 0;
        (chunks <= CHUNKS_MAX && bits.len() == map_bytes(chunks) && clean)
            .then(|| ZeroMap { bits: bits.to_vec(), chunks })
    }

    /// Marks a chunk.
    ///
    /// # Panics
    /// If there is no such chunk.
    pub fn mark(&mut self, index: u32) {
        assert!(index < self.chunks, "chunk {index} of {}", self.chunks);
        self.bits[index as usize / 8] |= 1 << (index % 8);
    }

    /// Whether a chunk is all zeros; one that is not there is not.
    #[must_use]
    pub fn is_zero(&self, index: u32) -> bool {
        index < self.chunks && self.bits[index as usize / 8] & 1 << (index % 8) != 0
    }

    /// The chunks, those that are all zeros included.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The chunks that are not all zeros.
    #[must_use]
    pub fn stored(&self) -> u32 {
        self.chunks - self.bits.iter().map(|byte| byte.count_ones()).sum::<u32>()
    }

    /// As it is written down.
    #[must_use]
    pub fn as_bits(&self) -> &[u8] {
        &self.bits
    }
}

/// Bytes of the map of so many chunks.
#[must_use]
pub fn map_bytes(chunks: u32) -> usize {
    (chunks as usize).div_ceil(8)
}

#[cfg(test)]
mod tests;
