//! What killed writers leave in a store that is a folder.
//!
//! A file is written beside its place under its name, `#` and a number, and linked to its place when it is whole. Such a file is
//! no object and nobody reads it; one that nobody has written to for an hour is a dead process's, for a write takes seconds.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Store, StoreError};
use crate::gc::Collected;

/// How long nobody has written to what is taken away.
pub const UNFINISHED_FOR_MIN: Duration = Duration::from_secs(3600);

/// Folders below each other: `roots/<root>/chunks/<2 digits>`.
const DEPTH: usize = 4;

impl Store {
    /// Removes what killed writers have left and nobody has written to for `unfinished_for`; with `dry_run`, says what that would be.
    /// A store that is no folder has nothing of the kind.
    ///
    /// # Errors
    /// [`StoreError::Sweep`]
    pub async fn sweep(
        &self,
        unfinished_for: Duration,
        dry_run: bool,
    ) -> Result<Collected, StoreError> {
        let Some(folder) = self.folder.clone() else { return Ok(Collected::default()) };
        let swept = tokio::task::spawn_blocking(move || {
            let mut swept = Collected::default();
            let sweep = Sweep { before: SystemTime::now() - unfinished_for, dry_run };
            sweep.folder(&folder.join("roots"), DEPTH, &mut swept).map(|()| swept)
        });
        swept.await.map_err(io::Error::other).and_then(|swept| swept).map_err(StoreError::Sweep)
    }
}

struct Sweep {
    before: SystemTime,
    dry_run: bool,
}

impl Sweep {
    fn folder(&self, folder: &Path, depth: usize, swept: &mut Collected) -> io::Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            // Of a link, this tells what the link is.
            let kind = entry.file_type()?;
            if kind.is_dir() && depth > 0 {
                self.folder(&entry.path(), depth - 1, swept)?;
            } else if kind.is_file() && is_unfinished(&entry.file_name()) {
                self.file(&entry, swept)?;
            }
        }
        Ok(())
    }

    fn file(&self, entry: &fs::DirEntry, swept: &mut Collected) -> io::Result<()> {
        let removed = || -> io::Result<Option<u64>> {
            let metadata = entry.metadata()?;
            let old = metadata.modified()? <= self.before;
            if old && !self.dry_run {
                fs::remove_file(entry.path())?;
            }
            Ok(old.then_some(metadata.len()))
        };
        match removed() {
            // Its writer was alive, and is done.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(None) => Ok(()),
            Ok(Some(bytes)) => {
                swept.objects += 1;
                swept.bytes += bytes;
                Ok(())
            }
        }
    }
}

/// Whether it is a name with `#` and a number behind it. No object has one.
fn is_unfinished(name: &std::ffi::OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.rsplit_once('#'));
    number.is_some_and(|(name, number)| {
        !name.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests;
