//! What a container image may be at most.

use crate::limits::Limits;

impl Limits {
    /// Lambda's published limit of a container image: 10 GiB in all, unpacked, over all layers. Nothing is published about the
    /// number of files; the largest images of machine learning hold about 200,000.
    pub const CONTAINER_IMAGE: Limits =
        Limits { zipped_bytes: 10 << 30, unzipped_bytes: 10 << 30, nodes: 500_000 };
}

/// The largest index, manifest or configuration, in bytes: registries take no more.
pub(super) const DOCUMENT_BYTES: u64 = 4 << 20;

/// The most layers: what Docker can stack.
pub(super) const LAYERS: usize = 127;

/// How deep indexes may name indexes.
pub(super) const INDEX_DEPTH: usize = 3;

/// The most files in the tar of a layout: blobs of many images may be in it.
pub(super) const ARCHIVE_FILES: usize = 10_000;

/// What stands before one entry of a tar, in bytes: its long names and extended attributes. Linux knows no list of extended
/// attributes over 64 KiB and no value over 64 KiB; this is room for many.
pub(super) const EXTENSION_BYTES: u64 = 1 << 20;

/// What names, targets of links and extended attributes may take in memory, in bytes: 500,000 files with long names.
pub(super) const METADATA_BYTES: usize = 256 << 20;

/// Deepest nesting of folders: with names of 15 bytes a path as long as Linux takes it.
pub(super) const DEPTH: usize = 255;

/// Longest target of a symbolic link, in bytes: PATH_MAX less the byte that ends it.
pub(super) const TARGET_BYTES: usize = 4095;

/// How many symbolic links may be followed in one name, as in Linux.
pub(super) const FOLLOWED: usize = 40;

/// How many parts of names are looked up in following links, over a whole image. Real images need thousands.
pub(super) const LOOKED_UP: usize = 4 << 20;

/// What a layer may unpack to before its ratio counts, in bytes, and the highest ratio. Files of programs reach 20, logs 50.
pub(super) const RATIO_FREE_BYTES: u64 = 1 << 30;
/// See [`RATIO_FREE_BYTES`].
pub(super) const RATIO: u64 = 200;

/// The most memory a zstd frame may ask for, in bytes: what `zstd --long` uses without a promise of the reader.
pub(super) const ZSTD_WINDOW_BYTES: u64 = 128 << 20;

/// The most strings in ENTRYPOINT, CMD and ENV, and what they and the others take together, in bytes. Linux takes 128 KiB for one.
pub(super) const CONFIG_STRINGS: usize = 1024;
/// See [`CONFIG_STRINGS`].
pub(super) const CONFIG_BYTES: usize = 32 << 10;

const _: () = assert!(CONFIG_BYTES < crate::limits::CONFIG_BYTES_MAX);
const _: () = assert!(Limits::CONTAINER_IMAGE.unzipped_bytes < crate::limits::IMAGE_BYTES_MAX);
