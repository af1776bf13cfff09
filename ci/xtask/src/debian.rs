//! Debian packages as material: resolved and downloaded by apt, which checks them, and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::progress::Progress;
use crate::subprocess;

/// One package in the version that apt chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Such as `libc6`.
    pub(crate) name: String,
    /// Such as `2.36-9+deb12u14`, with its epoch if it has one.
    pub(crate) version: String,
    /// The file's name in a package pool: name, version and architecture.
    file: String,
}

/// These packages and all that they depend on, as if nothing were installed; sorted by name.
///
/// The answer depends on apt's lists alone, not on the machine's packages, so it is fit for a cache key.
pub(crate) fn resolve(packages: &[&str]) -> Result<Vec<Package>> {
    // apt wants a file that lists no installed package.
    let nothing = tempfile::NamedTempFile::new()?;
    // It leaves out what an earlier download has left on this machine.
    let archives = tempfile::tempdir()?;
    let mut command = Command::new("apt-get");
    command
        .arg("--option")
        .arg(format!("Dir::State::status={}", nothing.path().display()))
        .arg("--option")
        .arg(format!("Dir::Cache::archives={}", archives.path().display()))
        .args(["--option", "Debug::NoLocking=1", "--no-install-recommends", "--yes"])
        .args(["--print-uris", "install"])
        .args(packages)
        .env("LC_ALL", "C");
    let printed = subprocess::output(&mut command)
        .with_context(|| format!("apt cannot resolve {}", packages.join(", ")))?;
    let mut resolved =
        printed.lines().filter_map(parse_uri_line).collect::<Result<Vec<Package>>>()?;
    resolved.sort();
    for wanted in packages {
        if !resolved.iter().any(|package| package.name == *wanted) {
            bail!("apt knows no way to get package {wanted}; are its lists up to date?");
        }
    }
    Ok(resolved)
}

/// One line a package, for a cache key.
pub(crate) fn listing(packages: &[Package]) -> String {
    packages.iter().map(|package| format!("{}\n", package.file)).collect()
}

/// Downloads what the cache does not hold yet; returns the packages' files in the order given.
pub(crate) fn download(
    cache: &Cache,
    progress: &Progress,
    packages: &[Package],
) -> Result<Vec<PathBuf>> {
    let pool = cache.root().join("debs");
    fs::create_dir_all(&pool)?;
    let lock = cache.lock("debs")?;
    let missing: Vec<&Package> =
        packages.iter().filter(|package| !pool.join(&package.file).exists()).collect();
    if !missing.is_empty() {
        let step = progress.step(format!("downloading {} Debian packages", missing.len()));
        let scratch = cache.scratch()?;
        let mut command = Command::new("apt-get");
        command.arg("download").current_dir(scratch.path()).env("LC_ALL", "C");
        // The sandbox user of apt could not write to our folder.
        command.args(["--option", "APT::Sandbox::User=root"]);
        command.args(missing.iter().map(|p| format!("{}={}", p.name, p.version)));
        subprocess::output(&mut command)?;
        for package in &missing {
            fs::rename(scratch.path().join(&package.file), pool.join(&package.file))
                .with_context(|| format!("apt did not leave {}", package.file))?;
        }
        step.done("done");
    }
    drop(lock);
    Ok(packages.iter().map(|package| pool.join(&package.file)).collect())
}

/// Unpacks packages' files into a folder; no script of theirs is run.
pub(crate) fn unpack(debs: &[PathBuf], into: &Path) -> Result<()> {
    for deb in debs {
        subprocess::output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(into))?;
    }
    Ok(())
}

/// Whether each package is installed on this machine, in the order given.
pub(crate) fn installed(packages: &[&str]) -> Result<Vec<bool>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output()
        .context("cannot start `dpkg-query`; votive is built on Debian 12")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(packages
        .iter()
        .map(|package| listed.lines().any(|line| line == format!("{package} installed")))
        .collect())
}

/// Reads one line of `--print-uris`: `'address' name_version_arch.deb size hash`.
fn parse_uri_line(line: &str) -> Option<Result<Package>> {
    let file = line.strip_prefix('\'')?.split('\'').nth(1)?.split_whitespace().next()?;
    let package = || {
        let mut parts = file.strip_suffix(".deb")?.split('_');
        let (name, version) = (parts.next()?, parts.next()?);
        // A colon, which separates the epoch, cannot stand in a file name.
        let version = version.replace("%3a", ":");
        Some(Package { name: name.to_owned(), version, file: file.to_owned() })
    };
    Some(package().with_context(|| format!("apt named a file that is no package: {file}")))
}

#[cfg(test)]
mod tests;
