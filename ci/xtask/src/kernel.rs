//! `cargo xtask image kernel`: the guest kernel, from Debian's source package and the fragments in `kernel-config/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::progress::{Progress, Step};
use crate::subprocess;
use crate::workspace;

mod elf;
mod fragments;

/// Debian's package with the kernel's source, and the archive in it.
const SOURCE_PACKAGE: &str = "linux-source-6.12";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Changes when the way of building changes, so that cached kernels are made again.
const RECIPE: u32 = 1;

/// About how many object files a build makes; only the progress line depends on it.
const OBJECTS_ABOUT: usize = 1000;
const COUNT_EVERY: Duration = Duration::from_secs(2);

/// A build takes five minutes on two idle cores.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// Builds the kernel of `kernel-config/` unless the cache has it, and makes it the current one.
pub(crate) fn build(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let folder = workspace::root()?.join("kernel-config");
    let entry = build_from(cache, progress, &fragments::read_folder(&folder)?)?;
    cache.link("vmlinux", &entry.join("vmlinux"))?;
    Ok(entry)
}

/// The fragments that a kernel needs to boot at all.
const LEAST_FRAGMENTS: usize = 2;

/// Builds one kernel of the fragments that every kernel needs, one with the next fragment as well, and so on to the last: the
/// name of the last fragment in it, and its entry.
pub(crate) fn build_steps(cache: &Cache, progress: &Progress) -> Result<Vec<(String, PathBuf)>> {
    let fragments = fragments::read_folder(&workspace::root()?.join("kernel-config"))?;
    let mut steps = Vec::new();
    for count in LEAST_FRAGMENTS..=fragments.len() {
        let Some((last, _)) = fragments[..count].split_last() else { continue };
        steps.push((last.name.clone(), build_from(cache, progress, &fragments[..count])?));
    }
    Ok(steps)
}

/// Builds a kernel from these fragments. The entry holds `vmlinux` (stripped, for the VMM), `vmlinux.symbols`
/// (the same with symbols, to read a panic's addresses) and `config`.
fn build_from(
    cache: &Cache,
    progress: &Progress,
    fragments: &[fragments::Fragment],
) -> Result<PathBuf> {
    let mut key = Key::new("kernel", RECIPE)
        .text("source", &source_version()?)
        .text("compiler", &subprocess::output(Command::new("gcc").arg("-dumpfullversion"))?);
    for fragment in fragments {
        key = key.text(&fragment.name, &fragment.text);
    }
    cache.entry(key, |into| {
        let scratch = cache.scratch()?;
        let mut step = progress.step("building the guest kernel (a few minutes, once)");
        let source = unpack_source(scratch.path(), &mut step)?;
        let objects = scratch.path().join("objects");
        fs::create_dir(&objects)?;
        configure(&source, &objects, fragments)?;
        compile(&source, &objects, &mut step)?;
        collect(&objects, into)?;
        let bytes = fs::metadata(into.join("vmlinux"))?.len();
        step.done(&format!("{:.1} MB", bytes as f64 / 1e6));
        Ok(())
    })
}

fn source_version() -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Version}", SOURCE_PACKAGE]);
    subprocess::output(&mut query)
        .with_context(|| format!("Debian package {SOURCE_PACKAGE} is not installed"))
}

fn unpack_source(into: &Path, step: &mut Step) -> Result<PathBuf> {
    step.update("unpacking the source");
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(SOURCE_ARCHIVE).arg("--directory").arg(into);
    subprocess::output(&mut tar)?;
    Ok(into.join(SOURCE_PACKAGE))
}

/// Writes the final configuration: `make tinyconfig`, then the fragments, then the defaults of what they enable.
fn configure(source: &Path, objects: &Path, fragments: &[fragments::Fragment]) -> Result<()> {
    let log = objects.join("configure.log");
    subprocess::logged(make(source, objects).arg("tinyconfig"), &log)?;
    let path = objects.join(".config");
    let mut config = fs::read_to_string(&path)?;
    for fragment in fragments {
        config.push_str(&fragment.text);
    }
    // Of several lines for one option the last one counts.
    fs::write(&path, config)?;
    subprocess::logged(make(source, objects).arg("olddefconfig"), &log)?;
    let unmet = fragments::unmet(fragments, &fs::read_to_string(&path)?);
    if !unmet.is_empty() {
        bail!("the kernel's configuration does not follow the fragments:\n{}", unmet.join("\n"));
    }
    Ok(())
}

fn compile(source: &Path, objects: &Path, step: &mut Step) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = make(source, objects);
    command.arg(format!("--jobs={jobs}")).arg("vmlinux");
    let mut counted = Instant::now();
    subprocess::logged_within(&mut command, &objects.join("build.log"), BUILD_LIMIT, || {
        if counted.elapsed() > COUNT_EVERY {
            step.update(&format!("{} of about {OBJECTS_ABOUT} files", count_objects(objects)));
            counted = Instant::now();
        }
    })
}

/// `make`, told everything that would otherwise differ from build to build.
fn make(source: &Path, objects: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .arg("--directory")
        .arg(source)
        .arg(format!("O={}", objects.display()))
        .args(["--silent", "ARCH=x86_64"])
        .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
        .env("KBUILD_BUILD_USER", "votive")
        .env("KBUILD_BUILD_HOST", "votive")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LC_ALL", "C")
        // What the caller's environment says about flags is not part of the cache key.
        .env_remove("KCFLAGS")
        .env_remove("MAKEFLAGS")
        .env_remove("LOCALVERSION");
    command
}

fn collect(objects: &Path, into: &Path) -> Result<()> {
    let (full, stripped) = (into.join("vmlinux.symbols"), into.join("vmlinux"));
    fs::copy(objects.join("vmlinux"), &full)?;
    fs::copy(objects.join(".config"), into.join("config"))?;
    let mut strip = Command::new("strip");
    subprocess::output(strip.arg("--strip-all").arg("-o").arg(&stripped).arg(&full))?;
    elf::check_mappable(&fs::read(&stripped)?).context("the kernel's segments cannot be mapped")
}

fn count_objects(folder: &Path) -> usize {
    let files = walkdir::WalkDir::new(folder).into_iter().flatten();
    files.filter(|file| file.path().extension().is_some_and(|ext| ext == "o")).count()
}
