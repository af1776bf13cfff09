//! Whether images come out the same twice: everything is built again in another folder, by another process with another
//! umask, and compared byte for byte. docs/reproducible.md says what that shows.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::cache::{Cache, Scratch};
use crate::check::Counts;
use crate::progress::Progress;
use crate::subprocess;

/// What is compared, by its name in a cache's current set.
const FILES: &[&str] = &[
    "provided.erofs",
    "python3.11.erofs",
    "nodejs24.erofs",
    "init.cpio",
    "functions/python.zip",
    "functions/node.zip",
    "functions/rust.zip",
];

/// The parts of `cargo xtask image` that make [`FILES`].
const PARTS: [&str; 2] = ["rootfs", "binaries"];

/// Entries of a cache that hold what was downloaded: files that are checked by hash whenever they arrive.
const DOWNLOADED: &[&str] = &["debs", "wheels-"];

/// Entries that hold what took minutes to compile.
const COMPILED: &[&str] = &["npm-"];

/// How much is made a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All but compilers' work: under a minute.
    Packing,
    /// Native npm packages and static programs as well: minutes.
    Everything,
}

/// `cargo xtask image --check-reproducible`, after which the images are there.
pub(crate) fn report(progress: &Progress) -> Result<ExitCode> {
    let counts = check(&Cache::open()?, progress, Depth::Everything)?;
    println!("{} of {} images are reproducible", counts.passed, counts.passed + counts.failed);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds [`FILES`] again and compares them with the current ones of `first`; each counts as a test.
pub(crate) fn check(first: &Cache, progress: &Progress, depth: Depth) -> Result<Counts> {
    let scratch = first.scratch()?;
    // Another folder, deeper than the first: a path that leaves a trace leaves another one.
    let second = scratch.path().join("a/second/build");
    fs::create_dir_all(&second)?;
    share(first, &second, DOWNLOADED)?;
    if depth == Depth::Packing {
        share(first, &second, COMPILED)?;
    }
    let step = progress.step("building the images a second time");
    for part in PARTS {
        build_again(part, depth, &scratch, &second)?;
    }
    let mut counts = Counts::default();
    for name in FILES {
        let (one, other) = (first.current().join(name), second.join("current").join(name));
        match first_difference(&one, &other)? {
            None => counts.passed += 1,
            Some(at) => {
                counts.failed += 1;
                progress.say(&format!("{name}: NOT reproducible: byte {at} differs"));
            }
        }
    }
    step.done(&format!("{} the same, {} not", counts.passed, counts.failed));
    Ok(counts)
}

/// Lets a second cache find entries of the first.
fn share(first: &Cache, second: &Path, kinds: &[&str]) -> Result<()> {
    for entry in fs::read_dir(first.root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if kinds.iter().any(|kind| name.starts_with(kind)) {
            symlink(first.root().join(&name), second.join(&name))?;
        }
    }
    Ok(())
}

/// Runs this program again with the second cache, allowed to leave nothing readable to others.
fn build_again(part: &str, depth: Depth, scratch: &Scratch, second: &Path) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0077 && exec \"$@\"", "sh"]);
    shell.arg(std::env::current_exe()?).args(["image", part]).env("VOTIVE_CACHE", second);
    if depth == Depth::Everything {
        shell.env("CARGO_TARGET_DIR", scratch.path().join("target"));
    }
    subprocess::logged(&mut shell, &scratch.path().join("log"))
        .with_context(|| format!("image {part} cannot be built a second time"))
}

/// The offset of the first byte in which two files differ; the shorter one's end if one begins with the other.
fn first_difference(one: &Path, other: &Path) -> Result<Option<usize>> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (mut one, mut other) = (open(one)?, open(other)?);
    let mut offset = 0;
    loop {
        let (left, right) = (piece(&mut one)?, piece(&mut other)?);
        if left != right {
            let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
            return Ok(Some(offset + same));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += left.len();
    }
}

/// The next bytes of a file: fewer than a whole piece only at its end.
fn piece(file: &mut File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
