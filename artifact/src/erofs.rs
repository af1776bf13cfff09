//! EROFS images, written by votive itself: the same tree gives the same bytes on any machine, at any time, by any user.
//!
//! The on-disk format is that of Linux's `fs/erofs/erofs_fs.h` with 4 KiB blocks and without compression. An inode may lie
//! anywhere in the image at a multiple of 32 bytes, and its number is that multiple; the data of a file is one run of
//! blocks. So a writer may choose freely what lies beside what, and that is why this one exists: chunks of the image are
//! stored once for all images that share them, and only what lies alike can be shared.
//!
//! - `tree` is what is to be written: inodes with names in folders, and no contents.
//! - `superblock`, `inode`, `dirents` and `xattrs` turn parts of it into bytes. They know no file and no position.
//! - `table` chooses where inodes lie in their blocks.
//! - `image` is the file: runs of blocks, holes where there would be zeros, and `metadata` writes inodes into it.
//! - `flat` lays out a tree that is known before its contents are: a ZIP.
//! - `mkfs` has erofs-utils pack a folder; runtime images are built that way.

mod dirents;
mod flat;
mod image;
mod inode;
mod metadata;
mod mkfs;
mod superblock;
mod table;
mod tree;
mod xattrs;

pub(crate) use flat::Flat;
pub use image::ErofsError;
pub(crate) use image::ImageFile;
pub(crate) use metadata::{Metadata, Places, Shape, data_size};
pub use mkfs::{MkfsError, pack};
pub(crate) use table::Table;
pub(crate) use tree::{Attributes, Inode, InodeId, Kind, Timestamp, Tree};
pub(crate) use xattrs::{SIZE_MAX as XATTRS_SIZE_MAX, Xattr, size as xattrs_size};

/// Size of a block, in bytes: that of a page, so that a page of a file is one block and can be mapped.
pub(crate) const BLOCK: u64 = 4096;

/// Every image has this UUID: a random one would make equal contents unequal.
const UUID: [u8; 16] = *b"votive\x40\x00\x80\x00\x00\x00\x00\x00\x00\x00";

/// The number of blocks that hold so many bytes.
pub(crate) const fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

#[cfg(test)]
pub(crate) mod reader;
#[cfg(test)]
mod tests;
