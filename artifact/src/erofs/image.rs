//! The file of an image while it is written: blocks are handed out from its beginning to its end, and zeros stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{BLOCK, blocks};

/// A block of nothing.
static ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// Its file could not be written.
    #[error("cannot write the image")]
    Write(#[source] io::Error),
    /// It would have more blocks than EROFS can count.
    #[error("the image would be larger than 16 TiB")]
    TooBig,
}

/// The file of an image.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    blocks: u32,
}

impl ImageFile {
    /// An image in `file`, which is empty. Its first block is the superblock's.
    pub(crate) fn new(file: File) -> ImageFile {
        ImageFile { file, blocks: 1 }
    }

    /// How many blocks have been handed out.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Hands out the blocks after the last one, as many as these bytes fill; returns the first of them.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<u32, ErofsError> {
        let first = self.blocks;
        let more = u32::try_from(blocks(bytes)).map_err(|_| ErofsError::TooBig)?;
        self.blocks = first.checked_add(more).ok_or(ErofsError::TooBig)?;
        Ok(first)
    }

    /// Leaves a hole up to the next multiple of `bytes`, itself a multiple of the block size.
    pub(crate) fn align(&mut self, bytes: u64) -> Result<(), ErofsError> {
        let end = u64::from(self.blocks) * BLOCK;
        self.reserve(end.next_multiple_of(bytes) - end).map(drop)
    }

    /// Writes bytes where nothing was written before. Blocks of zeros take no space.
    pub(crate) fn write(&self, mut at: u64, mut bytes: &[u8]) -> Result<(), ErofsError> {
        while !bytes.is_empty() {
            let zeros = run(at, bytes, true);
            (at, bytes) = (at + zeros as u64, &bytes[zeros..]);
            let (data, rest) = bytes.split_at(run(at, bytes, false));
            self.file.write_all_at(data, at).map_err(ErofsError::Write)?;
            (at, bytes) = (at + data.len() as u64, rest);
        }
        Ok(())
    }

    /// Copies one block. What was never written are zeros, also behind the last that was.
    pub(crate) fn copy(&self, from: u32, to: u32) -> Result<(), ErofsError> {
        let (mut block, mut filled) = ([0; BLOCK as usize], 0);
        while filled < block.len() {
            let at = u64::from(from) * BLOCK + filled as u64;
            match self.file.read_at(&mut block[filled..], at).map_err(ErofsError::Write)? {
                0 => break,
                length => filled += length,
            }
        }
        self.write(u64::from(to) * BLOCK, &block)
    }

    /// Takes the disk space of these bytes back, which read as zeros then. Both are multiples of the block size.
    pub(crate) fn punch(&self, at: u64, bytes: u64) -> Result<(), ErofsError> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero =
            || (0..blocks(bytes)).try_for_each(|i| self.file.write_all_at(&ZEROS, at + i * BLOCK));
        match rustix::fs::fallocate(&self.file, flags, at, bytes) {
            // Not every file system has holes.
            Err(rustix::io::Errno::OPNOTSUPP) => zero().map_err(ErofsError::Write),
            punched => punched.map_err(|error| ErofsError::Write(error.into())),
        }
    }

    /// The finished file, as long as its blocks.
    pub(crate) fn finish(self) -> Result<File, ErofsError> {
        self.file.set_len(u64::from(self.blocks) * BLOCK).map_err(ErofsError::Write)?;
        Ok(self.file)
    }
}

/// How many of the bytes at `at` come before the first block, or part of one, that is not zeros if `zero`, or that is if not.
fn run(at: u64, bytes: &[u8], zero: bool) -> usize {
    let mut length = 0;
    while length < bytes.len() {
        let to_boundary = (BLOCK - (at + length as u64) % BLOCK) as usize;
        let piece = &bytes[length..bytes.len().min(length + to_boundary)];
        if (piece == &ZEROS[..piece.len()]) != zero {
            break;
        }
        length += piece.len();
    }
    length
}
