//! A temporary folder that does not outlive its process by much: what a killed one leaves, the next one removes.
//!
//! A folder that is in use is locked by its owner, and the kernel drops the lock with the process. So a folder of ours
//! that nobody has locked is a dead process's.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

/// What the folders' names begin with.
const PREFIX: &str = ".votive-pack-";

/// Entries of the parent that are looked at in search of dead folders: a full folder for temporary files must not hold a
/// start up.
const LOOKED_AT_MAX: usize = 4096;

/// How often a folder is made that another process takes for a dead one's, between its being made and its being locked.
const ATTEMPTS: usize = 16;

/// A folder for intermediate files, removed when dropped.
#[derive(Debug)]
pub struct Workplace {
    folder: TempDir,
    _lock: File,
}

impl Workplace {
    /// Makes a folder in `parent`, after removing those that dead processes of this user left there.
    ///
    /// # Errors
    /// The file system's.
    pub fn new_in(parent: &Path) -> io::Result<Workplace> {
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            // It may be removed before it is opened, and before it is locked.
            let lock = match File::open(folder.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            lock.lock()?;
            if lock.metadata()?.nlink() == 0 {
                continue;
            }
            sweep(parent, &lock.metadata()?);
            return Ok(Workplace { folder, _lock: lock });
        }
        Err(io::Error::other("other processes remove every folder that is made"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the dead folders in `parent` that belong to the owner of `own`. Whatever cannot be removed is left: it is in
/// nobody's way.
fn sweep(parent: &Path, own: &fs::Metadata) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.take(LOOKED_AT_MAX).flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Of the entry itself: a link is no folder.
        let Ok(metadata) = entry.metadata() else { continue };
        if !metadata.is_dir() || metadata.uid() != own.uid() || metadata.ino() == own.ino() {
            continue;
        }
        let Ok(lock) = File::open(entry.path()) else { continue };
        match lock.try_lock() {
            Ok(()) => drop(fs::remove_dir_all(entry.path())),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
