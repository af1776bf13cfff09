//! Starts of a container image of 1 GiB from an artifact: what is fetched, and what it costs beside fetching everything first.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use votive_bench::report::Figure;

use super::{count_in_lab, job, parse, run_in_lab};
use crate::binaries;
use crate::cache::Cache;
use crate::place;
use crate::progress::Progress;
use crate::subprocess;

mod image;

/// The least that the image may hold.
const IMAGE_BYTES_MIN: u64 = 1 << 30;
/// What the function is asked; it solves a system of so many equations.
const EVENT: &str = r#"{"side":20}"#;

/// Builds the image, makes an artifact of it, and starts a microVM from that; makes another one for such starts, and starts
/// microVMs of both.
pub(super) fn measure(count: usize, cache: &Cache, progress: &Progress) -> Result<Vec<Figure>> {
    let layout = image::layout(cache, progress)?;
    let votive = binaries::compile(progress, binaries::VOTIVE)?;
    let program = binaries::compile(progress, binaries::START)?;
    let scratch = cache.scratch()?;
    let create = Create { votive: &votive, layout: &layout, folder: scratch.path(), progress };
    let plain = create.plain()?;

    let (current, home) = (cache.current(), place::LAB_IMAGES);
    let files = [
        (program.clone(), "votive-start"),
        (current.join("bin/votive-vmm"), "bin/votive-vmm"),
        (current.join("vmlinux"), "vmlinux"),
        (current.join("init.cpio"), "init.cpio"),
        (scratch.path().join("store"), "store"),
        (scratch.path().join("keys"), "keys"),
    ];
    let start = format!(
        "{home}/votive-start --store {home}/store --keys {home}/keys --identity {}",
        plain.identity
    );
    let lab = place::open_lab(cache, progress)?;
    let step = progress.step("recording a start in the lab");
    let script = format!("{start} record --images {home} --event '{EVENT}'");
    let outcome = run_in_lab(&lab, &job(&script, &files))?;
    step.done(&format!("{:.0} s", outcome.wall.as_secs_f64()));
    let laid_out = create.for_starts(&plain, &outcome.stdout)?;
    // The store is read once before: reading a disk costs the lab no instructions, but its clock jumps to the next timer.
    let script = format!(
        "set -e\n\
         find {home}/store -type f -exec cat {{}} + > /dev/null\n\
         {start} start --images {home} --event '{EVENT}' --laid-out {}\n",
        laid_out.identity
    );
    let mut figures = count_in_lab(&lab, &script, &files, "starts from an artifact", progress)?;

    let lazy = figures.iter().find(|figure| figure.bench == "artifact_start.first.fetched");
    let share = lazy.context("the first start was not measured")?.median.to_string();
    let step = progress.step("fetching, checking and decrypting, natively");
    let mut command = Command::new(&program);
    command.arg("--store").arg(scratch.path().join("store"));
    command.arg("--keys").arg(scratch.path().join("keys")).args([
        "--identity",
        &plain.identity,
        "fetch",
    ]);
    command.args(["--share", &share, "--count", &count.to_string()]);
    figures.extend(parse(&subprocess::output(&mut command)?)?);
    step.done("done");
    Ok(figures)
}

/// An artifact.
struct Made {
    identity: String,
    manifest: String,
    root: String,
}

/// Makes artifacts of one image in one store, both in `folder`.
struct Create<'a> {
    votive: &'a Path,
    layout: &'a Path,
    folder: &'a Path,
    progress: &'a Progress,
}

impl Create<'_> {
    /// Makes key service and store, and the artifact as ever.
    fn plain(&self) -> Result<Made> {
        let mut key = Command::new(self.votive);
        key.args(["image", "key", "create", "votive", "--keys"]).arg(self.folder.join("keys"));
        subprocess::output(&mut key)?;
        self.run("making the artifact", &[])
    }

    /// Makes the artifact for starts that read what `list` says, hexadecimal, as a start of `plain` gave it. It is put where a
    /// worker keeps it.
    fn for_starts(&self, plain: &Made, list: &[u8]) -> Result<Made> {
        let digits = list.trim_ascii().as_chunks::<2>().0;
        let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let list: Option<Vec<u8>> = digits.iter().map(byte).collect();
        let reads = self.folder.join("store/roots").join(&plain.root).join("reads");
        fs::create_dir_all(&reads)?;
        fs::write(reads.join(&plain.manifest), list.context("the list is not hexadecimal")?)?;
        self.run("making the artifact for such starts", &["--starts-like", &plain.identity])
    }

    fn run(&self, what: &str, more: &[&str]) -> Result<Made> {
        let step = self.progress.step(what.to_owned());
        let mut create = Command::new(self.votive);
        create.args(["image", "create", "--json", "--quiet", "--oci"]).arg(self.layout);
        create.arg("--keys").arg(self.folder.join("keys")).args(more);
        create.arg("--store").arg(self.folder.join("store")).arg("--temporary").arg(self.folder);
        let output = create.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "votive image create: {said}");
        let made: Value = serde_json::from_slice(&output.stdout)?;
        let bytes = made["logicalBytes"].as_u64().context("no size")?;
        ensure!(bytes >= IMAGE_BYTES_MIN, "the image has only {bytes} bytes");
        let stored = made["storedBytes"].as_u64().context("no size")?;
        step.done(&format!("{} MB, {} MB stored", bytes / 1_000_000, stored / 1_000_000));
        let text =
            |field: &str| made[field].as_str().map(str::to_owned).context("a field is missing");
        Ok(Made { identity: text("artifact")?, manifest: text("manifest")?, root: text("root")? })
    }
}
