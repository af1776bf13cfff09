//! The disk behind `/tmp`: an empty ext4 over a sparse file that has no name and that nobody can read.
//!
//! The VMM encrypts what a guest writes under a key that ends with the VMM (`docs/devices.md`), so the file starts empty and holds
//! nothing in the clear, ever. The empty file system is its *template*: what blocks read as that were never written. It is the same
//! for all disks of a size, so it is made once, by the crate `mkext4` (no process to start, no file to keep in step), in memory
//! that is sealed: no microVM can change what another one's `/tmp` begins as.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use mkext4::{FsBuilder, InodeCount, Meta, Options, ROOT, RegionSink};
use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};

use crate::link::{RUNTIME_GID, RUNTIME_UID};
use crate::microvm::Disk;

#[cfg(test)]
mod tests;

/// Files that `/tmp` can hold. Each costs 256 bytes of tables; AWS Lambda's own count is not documented.
const INODES: u32 = 32 * 1024;
/// The journal in blocks of 4 KiB, the least that ext4 takes. The disk does not outlive its guest, so it protects nothing.
const JOURNAL_BLOCKS: u32 = 1024;
/// Templates that are kept, the latest used: most functions have the same size, and a customer can ask for thousands.
const TEMPLATES_MAX: usize = 16;

/// Templates by the sizes of their disks, the latest used last.
static TEMPLATES: Mutex<Vec<(u64, File)>> = Mutex::new(Vec::new());

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
    /// There is no memory for the template.
    #[error("no template of a scratch disk can be made")]
    Template(#[source] std::io::Error),
    /// The file system could not be written.
    #[error("the scratch file system cannot be written")]
    Format(#[source] mkext4::Error),
}

/// Makes a scratch disk of `bytes` in size, whose root belongs to the function's user.
///
/// # Errors
/// [`ScratchError`]
pub fn create(bytes: u64) -> Result<Disk, ScratchError> {
    let folder = std::env::temp_dir();
    let create = |source| ScratchError::Create { folder: folder.clone(), source };
    let file = tempfile::tempfile_in(&folder).map_err(create)?;
    file.set_len(bytes).map_err(create)?;
    Ok(Disk::encrypted(file, template(bytes)?))
}

/// The template of disks of `bytes`, made if it is not kept.
fn template(bytes: u64) -> Result<File, ScratchError> {
    let mut kept = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = match kept.iter().position(|(size, _)| *size == bytes) {
        Some(place) => kept.remove(place),
        None => (bytes, make_template(bytes)?),
    };
    if kept.len() == TEMPLATES_MAX {
        kept.remove(0);
    }
    let template = entry.1.try_clone().map_err(ScratchError::Template)?;
    kept.push(entry);
    Ok(template)
}

fn make_template(bytes: u64) -> Result<File, ScratchError> {
    let make = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("votive scratch template", flags)?);
        file.set_len(bytes)?;
        Ok(file)
    };
    let file = make().map_err(ScratchError::Template)?;
    format(&file, bytes).map_err(ScratchError::Format)?;
    let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    let seal = || fcntl_add_seals(&file, all).and_then(|()| fchmod(&file, Mode::RUSR));
    seal().map_err(|error| ScratchError::Template(error.into()))?;
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
