//! Python packages that tests bring along: servers and clients of others to be tried against, pinned by hash and installed
//! once into the user's cache folder.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};

#[cfg(test)]
mod tests;

/// The cache folder of this user, as `cargo xtask` has it.
///
/// # Errors
/// A user without a home.
pub fn cache() -> anyhow::Result<PathBuf> {
    if let Some(cache) = std::env::var_os("VOTIVE_CACHE") {
        return Ok(cache.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(base
        .or_else(home)
        .context("neither VOTIVE_CACHE, XDG_CACHE_HOME nor HOME is set")?
        .join("votive"))
}

/// The folder with the packages that `requirements` lists, each with its version and hashes. It is named by `name` and by what
/// is listed, made once, and either whole or not there; whoever comes while it is made waits.
///
/// # Errors
/// What the file system and `pip` say.
pub fn python(name: &str, requirements: &str) -> anyhow::Result<PathBuf> {
    let digest = Sha256::digest(requirements.as_bytes());
    let digest: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let (cache, name) = (cache()?, format!("{name}-{digest}"));
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let place = cache.join(&name);
    let lock = File::create(cache.join(format!("{name}.lock"))).context("cannot make the lock")?;
    lock.lock().context("cannot take the lock")?;
    if !place.exists() {
        let unfinished = tempfile::tempdir_in(&cache)?;
        let list = unfinished.path().join("requirements.txt");
        fs::write(&list, requirements)?;
        let packages = unfinished.path().join("packages");
        let words = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"];
        let mut pip = Command::new("python3");
        pip.args(words).args(["--require-hashes", "--root-user-action=ignore", "--target"]);
        pip.arg(&packages).arg("--requirement").arg(&list);
        pip.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        let output = pip.output().context("cannot run python3")?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{pip:?}: {}\n{complaints}", output.status);
        fs::rename(packages, &place)?;
    }
    Ok(place)
}
