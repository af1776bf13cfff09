//! What an upload may be at most.

/// The caps of one ZIP. All are checked against what is found, never against what headers claim alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the ZIP file, in bytes.
    pub zipped_bytes: u64,
    /// Sum of the sizes of all files that come out of it, in bytes.
    pub unzipped_bytes: u64,
    /// Files, links and folders, those included that names only imply.
    pub nodes: usize,
}

impl Limits {
    /// Lambda's published limits: 50 MB zipped and 250 MB unzipped. Lambda publishes no limit of entries; this one is
    /// what a ZIP without the 64-bit extension can hold.
    pub const LAMBDA: Limits =
        Limits { zipped_bytes: 50 << 20, unzipped_bytes: 250 << 20, nodes: 65_535 };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::LAMBDA
    }
}

/// Longest name of one file, in bytes: EROFS and Linux know no longer one.
pub(crate) const NAME_BYTES: usize = 255;

/// Longest path of an entry, in bytes: Linux's PATH_MAX less the place where it is mounted.
pub(crate) const PATH_BYTES: usize = 4000;

/// Deepest nesting of folders. Each level costs a descriptor while files are written.
pub(crate) const DEPTH: usize = 64;

/// Longest target of a symbolic link, in bytes.
pub(crate) const TARGET_BYTES: usize = 1024;

/// How much of a hostile name an error repeats, in characters.
pub(crate) const SHOWN_CHARS: usize = 200;

/// The largest image, in bytes: Lambda's 10 GiB of files and a tenth more for names, owners and places.
pub const IMAGE_BYTES_MAX: u64 = 11 << 30;

/// The most chunks of an image; a manifest's size follows from it.
pub const CHUNKS_MAX: u32 = (IMAGE_BYTES_MAX / crate::chunk::CHUNK_BYTES as u64) as u32;

/// The largest configuration that travels inside an artifact's sealed table, in bytes: ENTRYPOINT, CMD, ENV.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// The longest name of an artifact, a key or a worker, in bytes. Lambda's longest ARN of a function version has 140 characters,
/// that of a key 2048 by its API and 75 in practice.
pub const NAME_TEXT_MAX: usize = 512;

/// The longest wrapped data key, in bytes: twice what AWS KMS returns for a key of 32 bytes, and then some.
pub const WRAPPED_KEY_MAX: usize = 1024;
