//! One agent for a state folder: a lock that the kernel gives back when the process ends, however it ends.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The lock's name in the folder. It holds the process id of the agent that has it, or had it last.
pub const LOCK_FILE: &str = "lock";

/// A state folder that nobody else uses.
#[derive(Debug)]
pub struct StateLock {
    /// Held open: closing it gives the lock back.
    _file: File,
    predecessor: Option<u32>,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The folder or the file.
    #[error("the state folder {path} cannot be used")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent.
    #[error("another agent{} uses the state folder {path}", process(.holder))]
    Taken {
        /// The folder.
        path: PathBuf,
        /// Its process, as far as the file tells.
        holder: Option<u32>,
    },
}

fn process(holder: &Option<u32>) -> String {
    holder.map_or_else(String::new, |id| format!(" (process {id})"))
}

impl StateLock {
    /// Makes the folder, for the agent's user alone, and locks it.
    ///
    /// # Errors
    /// [`LockError`]
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let unusable = |source| LockError::Unusable { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(folder.join(LOCK_FILE)).map_err(unusable)?;
        let locked = file.try_lock();
        let holder = read_process(&mut file);
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Taken { path: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        write_process(&mut file).map_err(unusable)?;
        Ok(Self { _file: file, predecessor: holder })
    }

    /// The process that had the lock before, if any did.
    #[must_use]
    pub fn predecessor(&self) -> Option<u32> {
        self.predecessor
    }
}

fn read_process(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_process(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
