//! `cargo xtask check`: everything that is checked without running votive.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::binaries;
use crate::cache::{Cache, Key};
use crate::progress::Progress;
use crate::sealed;
use crate::subprocess;
use crate::tidy;
use crate::workspace;

/// The longest one check may take; a first build of everything is the longest.
const LIMIT: Duration = Duration::from_secs(3600);

/// The version of cargo-deny that is built when the machine has none.
const DENY_VERSION: &str = "0.20.2";

/// One check: what it is called, and how it is made.
type Check = (&'static str, fn(&Cache, &Progress) -> Result<()>);

const CHECKS: &[Check] = &[
    ("fmt", fmt),
    ("clippy", clippy),
    ("clippy of PID 1", clippy_of_pid_1),
    ("tidy", tidy),
    ("deny", deny),
    ("doc", doc),
    ("sealed programs", sealed),
];

/// How many checks passed and failed; each failure has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// How many passed.
    pub(crate) passed: usize,
    /// How many failed.
    pub(crate) failed: usize,
}

impl Counts {
    /// One check or test more.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Makes every check, also when one has failed.
pub(crate) fn run(cache: &Cache, progress: &Progress) -> Counts {
    let mut counts = Counts::default();
    for (name, check) in CHECKS {
        let step = progress.step(format!("check {name}"));
        match check(cache, progress) {
            Ok(()) => {
                counts.passed += 1;
                step.done("passed");
            }
            Err(error) => {
                counts.failed += 1;
                step.done(&format!("FAILED: {error:#}"));
            }
        }
    }
    counts
}

fn fmt(_: &Cache, _: &Progress) -> Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])
}

fn clippy(_: &Cache, _: &Progress) -> Result<()> {
    let words =
        ["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
    cargo(&words, &[])
}

/// PID 1 as it is built: beside the others its dependencies have features that it does not ask for.
fn clippy_of_pid_1(_: &Cache, _: &Progress) -> Result<()> {
    let program = binaries::INIT;
    let words = ["clippy", "--quiet", "--locked", "--package", program.package()];
    let which = ["--bin", program.name(), "--", "-D", "warnings"];
    cargo(&[&words[..], &which].concat(), &[])
}

fn sealed(_: &Cache, progress: &Progress) -> Result<()> {
    sealed::check(progress)
}

fn doc(_: &Cache, _: &Progress) -> Result<()> {
    let words =
        ["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--document-private-items"];
    cargo(&words, &[("RUSTDOCFLAGS", "-D warnings")])
}

fn tidy(_: &Cache, _: &Progress) -> Result<()> {
    let complaints = tidy::run(&workspace::root()?)?;
    if !complaints.is_empty() {
        bail!("{} complaints\n{}", complaints.len(), complaints.join("\n"));
    }
    Ok(())
}

/// Licences, banned crates and sources of every dependency. Advisories need a database from the network, which a build
/// host may not have; `cargo deny check advisories` asks for them.
fn deny(cache: &Cache, progress: &Progress) -> Result<()> {
    let program = deny_program(cache, progress)?;
    let mut command = Command::new(program);
    command.current_dir(workspace::root()?);
    command.args(["--workspace", "--locked", "check", "--hide-inclusion-graph"]);
    subprocess::shown(command.args(["bans", "licenses", "sources"]), LIMIT)
}

/// cargo-deny of this machine, or else one of our own, built once.
fn deny_program(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    if subprocess::exists("cargo-deny") {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let entry = cache.entry(Key::new("cargo-deny", 1).text("version", DENY_VERSION), |into| {
        let step = progress.step("building cargo-deny (a few minutes, once)");
        let scratch = cache.scratch()?;
        let mut install = workspace::cargo(&workspace::root()?);
        install.args(["install", "cargo-deny", "--locked", "--version", DENY_VERSION, "--root"]);
        install.arg(into).env("CARGO_TARGET_DIR", scratch.path().join("target"));
        subprocess::logged(&mut install, &scratch.path().join("log"))?;
        step.done("done");
        Ok(())
    })?;
    Ok(entry.join("bin/cargo-deny"))
}

fn cargo(words: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut command = workspace::cargo(&workspace::root()?);
    command.args(words).envs(variables.iter().copied());
    subprocess::shown(&mut command, LIMIT)
}
