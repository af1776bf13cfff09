//! The folder with images, and variants of it with one file replaced.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::bounded;

/// The folder that `VOTIVE_IMAGES` names.
///
/// # Errors
/// It names none.
pub fn images() -> Result<PathBuf> {
    let folder = std::env::var_os("VOTIVE_IMAGES").context("VOTIVE_IMAGES names no folder")?;
    Ok(PathBuf::from(folder))
}

/// The operator's command line.
pub(super) fn votive() -> Result<PathBuf> {
    Ok(images()?.join("bin/votive"))
}

/// The worker's program.
pub(super) fn agent() -> Result<PathBuf> {
    Ok(images()?.join("bin/votive-agent"))
}

/// Fails, with the doctor's reason, where guests cannot run: a test never passes by not running.
///
/// # Errors
/// No images, or no KVM that boots Linux.
pub fn require_guests() -> Result<()> {
    let mut doctor = Command::new(votive()?);
    let ended = bounded(doctor.args(["doctor", "--json"]), Duration::from_secs(60))?;
    let found: Value = serde_json::from_slice(&ended.stdout)
        .with_context(|| format!("votive doctor said: {}", ended.stderr))?;
    if found["can_run_guests"] != Value::Bool(true) {
        bail!("this host cannot run guests: {}", found["reason"]);
    }
    Ok(())
}

/// A folder with the same images but for those that a test replaces.
#[derive(Debug)]
pub struct Home(TempDir);

impl Home {
    /// A copy, by links.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for entry in std::fs::read_dir(images()?)? {
            let entry = entry?;
            symlink(std::fs::canonicalize(entry.path())?, folder.path().join(entry.file_name()))?;
        }
        Ok(Self(folder))
    }

    /// Puts `bytes` in an image's place.
    ///
    /// # Errors
    /// The file system's.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.remove(name)?;
        Ok(std::fs::write(self.path().join(name), bytes)?)
    }

    /// Takes an image away.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.path().join(name))?)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
