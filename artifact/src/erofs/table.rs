//! Where inodes lie: one after another, as close as the format allows.

use super::BLOCK;

/// Inodes lie at multiples of this, in bytes.
pub(super) const SLOT: u64 = 32;

/// The place where the next inode of a run of inodes would lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    next: u64,
}

impl Table {
    /// A table that begins at `start`, a multiple of the block size.
    pub(crate) fn new(start: u64) -> Table {
        Table { next: start }
    }

    /// Places an inode of `inode` bytes, `head` with its extended attributes, and `inline` bytes of data after them.
    ///
    /// Inode and inline data each lie in one block. `inline` is such that this is possible: see [`inline_fits`].
    pub(super) fn place(&mut self, inode: usize, head: usize, inline: usize) -> u64 {
        let (inode, head, inline) = (inode as u64, head as u64, inline as u64);
        let mut at = self.next.next_multiple_of(SLOT);
        let is_good = |at: u64| {
            at % BLOCK + inode <= BLOCK && (inline == 0 || (at + head) % BLOCK + inline <= BLOCK)
        };
        // Ends within a block's length: see `inline_fits`.
        while !is_good(at) {
            at += SLOT;
        }
        self.next = at + head + inline;
        at
    }

    /// Sets bytes aside behind the last inode, which may lie in several blocks; returns where they begin, a multiple of 4.
    pub(super) fn set_aside(&mut self, bytes: u64) -> u64 {
        let at = self.next.next_multiple_of(4);
        self.next = at + bytes;
        at
    }

    /// The end of the last inode.
    pub(crate) fn end(self) -> u64 {
        self.next
    }
}

/// Whether so much data may follow an inode: one that lies at the beginning of a block would have it in the same one, or,
/// with more extended attributes than a block holds, in its last.
pub(super) fn inline_fits(head: usize, inline: usize) -> bool {
    head % BLOCK as usize + inline <= BLOCK as usize
}
