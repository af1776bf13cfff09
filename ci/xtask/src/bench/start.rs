//! Starts of a container image of 1 GiB from an artifact: what is fetched, and what it costs beside fetching everything first.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use votive_bench::report::Figure;

use super::{count_in_lab, parse};
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

/// Builds the image, makes an artifact of it, and starts microVMs from that.
pub(super) fn measure(count: usize, cache: &Cache, progress: &Progress) -> Result<Vec<Figure>> {
    let layout = image::layout(cache, progress)?;
    let votive = binaries::compile(progress, binaries::VOTIVE)?;
    let program = binaries::compile(progress, binaries::START)?;
    let scratch = cache.scratch()?;
    let identity = store(&votive, &layout, scratch.path(), progress)?;

    let (current, home) = (cache.current(), place::LAB_IMAGES);
    let files = [
        (program.clone(), "votive-start"),
        (current.join("bin/votive-vmm"), "bin/votive-vmm"),
        (current.join("vmlinux"), "vmlinux"),
        (current.join("init.cpio"), "init.cpio"),
        (scratch.path().join("store"), "store"),
        (scratch.path().join("keys"), "keys"),
    ];
    // The store is read once before: reading a disk costs the lab no instructions, but its clock jumps to the next timer.
    let script = format!(
        "set -e\n\
         find {home}/store -type f -exec cat {{}} + > /dev/null\n\
         {home}/votive-start --store {home}/store --keys {home}/keys --identity {identity} \
         start --images {home} --event '{EVENT}'\n"
    );
    let lab = place::open_lab(cache, progress)?;
    let mut figures = count_in_lab(&lab, &script, &files, "starts from an artifact", progress)?;

    let lazy = figures.iter().find(|figure| figure.bench == "artifact_start.first.fetched");
    let share = lazy.context("the first start was not measured")?.median.to_string();
    let step = progress.step("fetching, checking and decrypting, natively");
    let mut command = Command::new(&program);
    command.arg("--store").arg(scratch.path().join("store"));
    command.arg("--keys").arg(scratch.path().join("keys")).args(["--identity", &identity, "fetch"]);
    command.args(["--share", &share, "--count", &count.to_string()]);
    figures.extend(parse(&subprocess::output(&mut command)?)?);
    step.done("done");
    Ok(figures)
}

/// Makes a key service and a store in `folder`, and the artifact in it; gives its identity.
fn store(votive: &Path, layout: &Path, folder: &Path, progress: &Progress) -> Result<String> {
    let step = progress.step("making the artifact");
    let keys = folder.join("keys");
    let mut key = Command::new(votive);
    subprocess::output(key.args(["image", "key", "create", "votive", "--keys"]).arg(&keys))?;
    let mut create = Command::new(votive);
    create.args(["image", "create", "--json", "--quiet", "--oci"]).arg(layout);
    create.arg("--keys").arg(&keys).arg("--store").arg(folder.join("store"));
    let output = create.arg("--temporary").arg(folder).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "votive image create: {said}");
    let made: Value = serde_json::from_slice(&output.stdout)?;
    let bytes = made["logicalBytes"].as_u64().context("no size")?;
    ensure!(bytes >= IMAGE_BYTES_MIN, "the image has only {bytes} bytes");
    let stored = made["storedBytes"].as_u64().context("no size")?;
    step.done(&format!("{} MB, {} MB stored", bytes / 1_000_000, stored / 1_000_000));
    Ok(made["artifact"].as_str().context("no identity")?.to_owned())
}
