//! Warm invocations in the lab's exact clock: votive's path, and the same path made of its peers (docs/warm-invocation.md).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use votive_bench::report::Figure;

use super::{count_in_lab, firecracker, parse};
use crate::binaries;
use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::labimage;
use crate::place::{self, Place};
use crate::progress::Progress;
use crate::rootfs;
use crate::subprocess;

/// Where Firecracker is in the lab.
const FIRECRACKER: &str = "bin/firecracker";
/// The functions, and so the pairs, that are measured.
const PAIRS: [&str; 2] = ["python", "rust"];
/// The images that the functions need.
const RUNTIMES: [&str; 2] = ["python3.11", "provided"];
/// What stands between client and guest with each peer, and what its subject is called for it.
const CHANNELS: [(&str, &str); 3] = [("frozen", ""), ("agent", "-running"), ("direct", "-direct")];

/// What is measured, and how often.
pub(super) struct Plan {
    /// Windows of invocations of each path.
    pub(super) count: usize,
    /// Whether QEMU's `microvm` is measured as well.
    pub(super) with_qemu: bool,
}

/// Builds what both sides need and measures every path: instructions and exits in the lab, and times on a host that can run
/// guests.
pub(super) fn measure(plan: &Plan, cache: &Cache, progress: &Progress) -> Result<Vec<Figure>> {
    let mut lab = place::open_lab(cache, progress)?;
    let mut files = programs(cache, progress)?;
    if let Some(path) = firecracker() {
        files.push((path, FIRECRACKER));
    }
    if plan.with_qemu {
        lab.images.layers.insert(0, labimage::peers(cache, progress)?);
    }
    let script = script(plan, place::LAB_IMAGES, "");
    let mut figures = count_in_lab(&lab, &script, &files, "warm invocations", progress)?;
    // Says in one line where guests run; their times are told only where no emulator stretches them.
    if matches!(Place::find(cache, progress)?, Place::Host) {
        figures.extend(on_host(plan, cache, progress, &files)?);
    }
    Ok(figures)
}

/// p50 and p99 of each path's time, on this host.
fn on_host(
    plan: &Plan,
    cache: &Cache,
    progress: &Progress,
    files: &[(PathBuf, &str)],
) -> Result<Vec<Figure>> {
    let step = progress.step("the time of warm invocations on this host");
    let scratch = cache.scratch()?;
    let home = scratch.path();
    fs::create_dir(home.join("bin"))?;
    for (path, name) in files {
        std::os::unix::fs::symlink(path, home.join(name))?;
    }
    let script = script(plan, &home.display().to_string(), "--wall");
    let figures = parse(&subprocess::output(Command::new("sh").args(["-c", &script]))?)?;
    step.done("done");
    Ok(figures)
}

/// The commands that measure each path of what is in `home`.
fn script(plan: &Plan, home: &str, option: &str) -> String {
    let mut script = String::from("set -e\n");
    let mut peers = Vec::new();
    if firecracker().is_some() {
        peers.push(("firecracker", format!("{home}/{FIRECRACKER}")));
    }
    if plan.with_qemu {
        peers.push(("qemu-microvm", String::from("/usr/bin/qemu-system-x86_64")));
    }
    for pair in PAIRS {
        let common = format!("{option} --pair {pair} --windows {}", plan.count);
        for (subject, calls) in [("votive", ""), ("votive-two-calls", "--two-calls")] {
            // Writing to a String cannot fail.
            let _ = writeln!(
                script,
                "{home}/bin/votive-warm votive {common} --subject {subject} {calls} \
                 --agent {home}/bin/votive-agent --images {home} --function {home}/bin/warm-function",
            );
        }
        for ((vmm, program), (channel, suffix)) in
            peers.iter().flat_map(|peer| CHANNELS.map(|channel| (peer, channel)))
        {
            let _ = writeln!(
                script,
                "{home}/bin/votive-warm peer {common} --subject {vmm}{suffix} --vmm {vmm} \
                 --program {program} --channel {channel} --kernel {home}/vmlinux \
                 --initrd {home}/warm.cpio --root {home}/python3.11.erofs",
            );
        }
    }
    script
}

/// Every file that the paths are made of, with its place below the lab's folder of images.
fn programs(cache: &Cache, progress: &Progress) -> Result<Vec<(PathBuf, &'static str)>> {
    let current = cache.current();
    let mut files = vec![
        (binaries::compile(progress, binaries::WARM)?, "bin/votive-warm"),
        (binaries::compile(progress, binaries::WARM_FUNCTION)?, "bin/warm-function"),
        (binaries::compile(progress, binaries::AGENT)?, "bin/votive-agent"),
        (current.join("bin/votive-vmm"), "bin/votive-vmm"),
        (current.join("vmlinux"), "vmlinux"),
        (current.join("init.cpio"), "init.cpio"),
    ];
    let guest = binaries::compile(progress, binaries::WARM_GUEST)?;
    files.push((initrd(cache, &guest)?, "warm.cpio"));
    for name in RUNTIMES {
        let file = if name == "provided" { "provided.erofs" } else { "python3.11.erofs" };
        files.push((rootfs::image(cache, progress, name)?, file));
    }
    Ok(files)
}

/// The peers' initramfs.
fn initrd(cache: &Cache, guest: &Path) -> Result<PathBuf> {
    let entry = cache.entry(Key::new("warm-cpio", 1).file("guest", guest)?, |into| {
        let folders = ["dev", "proc", "root"];
        let archive = folders.iter().fold(Archive::new(), |archive, name| archive.folder(name));
        // Rust's standard library opens it before `main` if standard input is closed, as it is without a console.
        let archive = archive.device("dev/null", 1, 3).program("init", &fs::read(guest)?);
        Ok(fs::write(into.join("warm.cpio"), archive.finish())?)
    })?;
    Ok(entry.join("warm.cpio"))
}
