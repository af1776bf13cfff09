//! The superblock: `erofs_super_block`.

use super::{BLOCK, UUID};

/// Where it lies in the image, in bytes.
const OFFSET: usize = 1024;

const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = BLOCK.trailing_zeros() as u8;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the checksum is there.
const CHECKSUM: u32 = 1;

/// `EROFS_FEATURE_COMPAT_MTIME`: times are those of the last change.
const MTIME: u32 = 2;

/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`: there are files whose blocks are mapped, one by one.
const MAPPED: u32 = 4;

/// What differs between superblocks. Inode numbers count from the image's beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    /// Number of the root's inode.
    pub(super) root: u16,
    /// How many inodes there are.
    pub(super) inodes: u64,
    /// How many blocks the image has.
    pub(super) blocks: u32,
    /// Whether any file's blocks are mapped.
    pub(super) mapped: bool,
}

impl Superblock {
    /// The image's first block.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        let mut put = |at: usize, bytes: &[u8]| {
            block[OFFSET + at..OFFSET + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(CHECKSUM | MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(48, &UUID);
        put(80, &(u32::from(self.mapped) * MAPPED).to_le_bytes());
        let checksum = crc32c(&block[OFFSET..]);
        block[OFFSET + 4..OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// CRC-32C as Linux's `crc32c(~0, ...)` has it: without the last inversion. It is computed once an image.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    //! The checksum of the standard's check value.

    use super::crc32c;

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }
}
