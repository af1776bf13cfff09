//! mkfs.erofs packs a folder: the same files give the same bytes, whoever owns them and whenever they were made.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that makes the image.
const MKFS: &str = "mkfs.erofs";

/// Every image has this UUID: a random one would make equal contents unequal.
const UUID: &str = "766f7469-7665-4000-8000-000000000000";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MkfsError {
    /// mkfs.erofs is not there.
    #[error("mkfs.erofs is not in PATH; it is in Debian's package erofs-utils")]
    Missing,
    /// mkfs.erofs could not be started.
    #[error("cannot start mkfs.erofs")]
    Start(#[source] io::Error),
    /// mkfs.erofs did not like the folder.
    #[error("mkfs.erofs cannot pack {folder}: {reason}")]
    Pack {
        /// The folder.
        folder: PathBuf,
        /// The last line that mkfs.erofs wrote.
        reason: String,
    },
    /// The image could not be put in its place.
    #[error("cannot write {path}")]
    Write {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Packs `folder` into an uncompressed EROFS image at `image`, which appears whole or not at all.
///
/// All files belong to root, times are zero, extended attributes are left out. Nothing but `image` is left behind.
pub fn pack(folder: &Path, image: &Path) -> Result<(), MkfsError> {
    let mut partial = image.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let result = run(folder, &partial).and_then(|()| {
        std::fs::rename(&partial, image)
            .map_err(|source| MkfsError::Write { path: image.to_owned(), source })
    });
    if result.is_err() {
        // A second failure here could only hide the first.
        let _ = std::fs::remove_file(&partial);
    }
    result
}

fn run(folder: &Path, image: &Path) -> Result<(), MkfsError> {
    let output = Command::new(MKFS)
        .args(["-d1", "-T0", "-U", UUID, "-x-1", "--all-root"])
        .arg(image)
        .arg(folder)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MkfsError::Missing,
            _ => MkfsError::Start(error),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(MkfsError::Pack { folder: folder.to_owned(), reason: reason.trim().to_owned() })
}

#[cfg(test)]
mod tests;
