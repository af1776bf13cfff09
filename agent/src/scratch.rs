//! The disk behind `/tmp`: an empty ext4 in a sparse file that has no name.
//!
//! The file system is written by the crate `mkext4`: no process to start, no template to keep in step, and the few blocks
//! that are not zero are all that is written. The file is unlinked from the start, so nothing is left of it whatever happens.

use std::fs::File;
use std::path::PathBuf;

use mkext4::{FsBuilder, InodeCount, Meta, Options, ROOT, RegionSink};

use crate::link::{RUNTIME_GID, RUNTIME_UID};

#[cfg(test)]
mod tests;

/// Files that `/tmp` can hold. Each costs 256 bytes of tables; AWS Lambda's own count is not documented.
const INODES: u32 = 32 * 1024;
/// The journal in blocks of 4 KiB, the least that ext4 takes. The disk does not outlive its guest, so it protects nothing.
const JOURNAL_BLOCKS: u32 = 1024;

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The file could not be made.
    #[error("no scratch file can be made in {folder}")]
    Create {
        /// The folder for temporary files.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file system could not be written.
    #[error("the scratch file system cannot be written")]
    Format(#[source] mkext4::Error),
}

/// Makes a scratch disk of `bytes` in size, whose root belongs to the function's user.
///
/// # Errors
/// [`ScratchError`]
pub fn create(bytes: u64) -> Result<File, ScratchError> {
    let folder = std::env::temp_dir();
    let create = |source| ScratchError::Create { folder: folder.clone(), source };
    let file = tempfile::tempfile_in(&folder).map_err(create)?;
    file.set_len(bytes).map_err(create)?;
    format(&file, bytes).map_err(ScratchError::Format)?;
    Ok(file)
}

fn format(file: &File, bytes: u64) -> Result<(), mkext4::Error> {
    let mut options = Options::new(bytes, *b"votive scratch\0\0", 0);
    options.inodes = InodeCount::Exact(INODES);
    options.journal_blocks = Some(JOURNAL_BLOCKS);
    options.reserved_percent = 0;
    let mut builder = FsBuilder::new(options)?;
    let (uid, gid) = (RUNTIME_UID, RUNTIME_GID);
    builder.set_meta(ROOT, Meta::new(0o700, uid, gid, (0, 0)))?;
    let layout = builder.seal()?;
    let mut sink = SparseSink { file };
    layout.writer(&mut sink)?.finish().map(drop)
}

/// Writes what is not zero.
struct SparseSink<'a> {
    file: &'a File,
}

impl RegionSink for SparseSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        std::os::unix::fs::FileExt::write_all_at(self.file, bytes, offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> std::io::Result<()> {
        Ok(())
    }
}
