//! `cargo xtask image binaries`: the project's programs as they run in guests, in the lab and on a worker: static, sealed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::progress::Progress;
use crate::subprocess;
use crate::workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// A static program runs on any root, also on one without a C library.
const STATIC: &str = "-C target-feature=+crt-static";
/// Sealed programs also have functions with the same instructions once, the addresses that they correct at their start packed,
/// and no index for unwinding, which they never do: 6 % of the VMM.
const SEALED: &str = "-C target-feature=+crt-static -C link-arg=-Wl,--icf=all \
                      -C link-arg=-Wl,-z,pack-relative-relocs -C link-arg=-Wl,--no-eh-frame-hdr";
/// The program that AWS's extension client is in.
const EXTENSION: &str = "extension-client";

/// How a program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    package: &'static str,
    name: &'static str,
    profile: &'static str,
    features: &'static str,
}

impl Program {
    const fn sealed(package: &'static str, name: &'static str) -> Self {
        Self { package, name, profile: "sealed", features: "" }
    }

    const fn release(package: &'static str, name: &'static str) -> Self {
        Self { package, name, profile: "release", features: "" }
    }

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
pub(crate) const VMM: Program = Program::sealed("votive-vmm", "votive-vmm");
/// The VMM without its filters on system calls, for the benchmark of what isolation costs.
pub(crate) const UNFILTERED_VMM: Program = Program { features: "unfiltered", ..VMM };
/// What makes the VMM's jail.
pub(crate) const JAILER: Program = Program::sealed("votive-jailer", "votive-jailer");
/// PID 1 of guests.
pub(crate) const INIT: Program = Program::sealed("votive-init", "votive-init");
/// The worker.
pub(crate) const AGENT: Program = Program::release("votive-agent", "votive-agent");
/// The operator's command line.
pub(crate) const VOTIVE: Program = Program::release("votive-agent", "votive");
/// PID 1 of the lab.
pub(crate) const LAB_INIT: Program = Program::sealed("votive-lab", "lab-init");
/// The end-to-end tests.
pub(crate) const E2E: Program = Program::release("votive-e2e", "votive-e2e");
/// The custom runtime of those tests' functions.
pub(crate) const PROBE: Program = Program::release("votive-e2e", "votive-probe");
/// The hostile suite.
pub(crate) const HOSTILE: Program = Program::release("votive-hostile", "votive-hostile");
/// What the jail's tests execute in the VMM's place.
pub(crate) const COMPROMISED: Program = Program::release("votive-e2e", "votive-compromised");

/// The demo's function with a bootstrap of its own.
pub(crate) const FUNCTION: Program = Program::sealed("votive-function-rust", "bootstrap");
/// The benchmarks' program.
pub(crate) const BENCH: Program = Program::release("votive-bench", "votive-bench");
/// The benchmark of warm invocations.
pub(crate) const WARM: Program = Program::release("votive-warm", "votive-warm");
/// The function that it measures.
pub(crate) const WARM_FUNCTION: Program = Program::release("votive-warm", "warm-function");
/// PID 1 of its peers' guests.
pub(crate) const WARM_GUEST: Program = Program::release("votive-warm", "warm-guest");
/// The benchmark of starts from artifacts.
pub(crate) const START: Program = Program::release("votive-start", "votive-start");

/// Builds the programs that a worker and its guests consist of, and makes them the current ones.
pub(crate) fn build(cache: &Cache, progress: &Progress) -> Result<()> {
    make_current(cache, progress, AGENT)?;
    make_current(cache, progress, VOTIVE)?;
    build_microvm(cache, progress)
}

/// Builds what a microVM consists of, beside a kernel: the VMM, its jailer and PID 1.
pub(crate) fn build_microvm(cache: &Cache, progress: &Progress) -> Result<()> {
    make_current(cache, progress, VMM)?;
    make_current(cache, progress, JAILER)?;
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
        .args(["--bin", program.name, "--features", program.features])
        .args(["--message-format", "json-render-diagnostics"])
        .env("RUSTFLAGS", if program.profile == "sealed" { SEALED } else { STATIC })
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

/// Builds AWS's extension client for Rust, unmodified, once for each version of it, and makes it current as
/// `functions/extension-client`: a program for a layer of the end-to-end tests.
pub(crate) fn build_extension_client(cache: &Cache, progress: &Progress) -> Result<()> {
    let source = workspace::root()?.join("guest-init/tests/extension-client");
    let key = Key::new(EXTENSION, 1)
        .file("lock", &source.join("Cargo.lock"))?
        .file("manifest", &source.join("Cargo.toml"))?
        .file("source", &source.join("src/main.rs"))?;
    let entry = cache.entry(key, |into| {
        let step = progress.step(format!("building {EXTENSION} (a minute, once)"));
        let scratch = cache.scratch()?;
        let target = scratch.path().join("target");
        let mut command = workspace::cargo(&source);
        command.args(["build", "--quiet", "--release", "--locked", "--target", TARGET]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
        command.env("CARGO_TARGET_DIR", &target);
        subprocess::logged(&mut command, &scratch.path().join("log"))?;
        fs::copy(target.join(TARGET).join("release").join(EXTENSION), into.join(EXTENSION))?;
        step.done("done");
        Ok(())
    })?;
    cache.link(&format!("functions/{EXTENSION}"), &entry.join(EXTENSION))?;
    Ok(())
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
