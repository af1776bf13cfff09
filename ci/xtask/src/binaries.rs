//! `cargo xtask image binaries`: the project's programs as they run in guests, in the lab and on a worker: static, sealed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::progress::Progress;
use crate::workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    package: &'static str,
    name: &'static str,
    profile: &'static str,
}

impl Program {
    /// What cargo calls it.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// The package that it is in.
    pub(crate) fn package(self) -> &'static str {
        self.package
    }
}

/// The VMM.
pub(crate) const VMM: Program =
    Program { package: "votive-vmm", name: "votive-vmm", profile: "sealed" };
/// PID 1 of guests.
pub(crate) const INIT: Program =
    Program { package: "votive-init", name: "votive-init", profile: "sealed" };
/// The operator's command line.
pub(crate) const VOTIVE: Program =
    Program { package: "votive-agent", name: "votive", profile: "release" };
/// PID 1 of the lab.
pub(crate) const LAB_INIT: Program =
    Program { package: "votive-lab", name: "lab-init", profile: "sealed" };
/// The end-to-end tests.
pub(crate) const E2E: Program =
    Program { package: "votive-e2e", name: "votive-e2e", profile: "release" };

/// The demo's function with a bootstrap of its own.
pub(crate) const FUNCTION: Program =
    Program { package: "votive-function-rust", name: "bootstrap", profile: "sealed" };
/// The benchmarks' program.
pub(crate) const BENCH: Program =
    Program { package: "votive-bench", name: "votive-bench", profile: "release" };

/// Builds the programs that a worker and its guests consist of, and makes them the current ones.
pub(crate) fn build(cache: &Cache, progress: &Progress) -> Result<()> {
    make_current(cache, progress, VOTIVE)?;
    build_microvm(cache, progress)
}

/// Builds what a microVM consists of, beside a kernel: the VMM and PID 1.
pub(crate) fn build_microvm(cache: &Cache, progress: &Progress) -> Result<()> {
    make_current(cache, progress, VMM)?;
    let init = compile(progress, INIT)?;
    let entry = cache.entry(Key::new("init-cpio", 1).file("init", &init)?, |into| {
        Ok(fs::write(into.join("init.cpio"), initramfs(&fs::read(&init)?))?)
    })?;
    cache.link("init.cpio", &entry.join("init.cpio"))?;
    Ok(())
}

fn make_current(cache: &Cache, progress: &Progress, program: Program) -> Result<()> {
    let kept = keep(cache, program, &compile(progress, program)?)?;
    cache.link(&format!("bin/{}", program.name), &kept)?;
    Ok(())
}

/// Builds one program and returns where cargo left it. Cargo itself knows whether there is anything to do.
pub(crate) fn compile(progress: &Progress, program: Program) -> Result<PathBuf> {
    let step = progress.step(format!("building {}", program.name));
    let root = workspace::root()?;
    let mut command = workspace::cargo(&root);
    command
        .args(["build", "--quiet", "--target", TARGET])
        .args(["--profile", program.profile, "--package", program.package])
        .args(["--bin", program.name, "--message-format", "json-render-diagnostics"])
        // A static program runs on any root, also on one without a C library.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{} does not build", program.name);
    }
    let path = executable(&String::from_utf8_lossy(&output.stdout), program.name)
        .with_context(|| format!("cargo did not say where {} is", program.name))?;
    step.done(&format!("{} kB", fs::metadata(&path)?.len() / 1000));
    Ok(path)
}

/// Copies a program into the cache, under the hash of its content.
pub(crate) fn keep(cache: &Cache, program: Program, built: &Path) -> Result<PathBuf> {
    let entry = cache.entry(Key::new(program.name, 1).file("program", built)?, |into| {
        fs::copy(built, into.join(program.name))?;
        Ok(())
    })?;
    Ok(entry.join(program.name))
}

/// The path in cargo's messages of the program called `name`.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
}

/// The guest's initramfs: PID 1 and the folders it mounts on.
fn initramfs(init: &[u8]) -> Vec<u8> {
    let folders = ["dev", "proc", "sys", "root"];
    let archive = folders.iter().fold(Archive::new(), |archive, name| archive.folder(name));
    archive.program("init", init).finish()
}

#[cfg(test)]
mod tests;
