//! `cargo xtask test`: every check and every test, those in real microVMs included, and one line of counts.

use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use votive_lab::{Job, Lab};

use crate::binaries;
use crate::cache::Cache;
use crate::check;
use crate::check::Counts;
use crate::fuzz::{self, FuzzArguments};
use crate::hostile;
use crate::image;
use crate::place::{self, Place};
use crate::progress::Progress;
use crate::reproducible::{self, Depth};
use crate::setup;
use crate::subprocess;
use crate::workspace;

/// The longest that the tests on the host may take, their building included.
const HOST_LIMIT: Duration = Duration::from_secs(3600);

/// The longest that the tests in microVMs may take; the lab is about fifty times slower than hardware.
const GUEST_LIMIT: Duration = Duration::from_secs(3600);

/// The most labs at once: each takes a processor and up to [`place::LAB_MEMORY_MIB`].
const LABS_MAX: usize = 4;

/// Where the end-to-end tests are in the lab.
const E2E_INSIDE: &str = "/votive/bin/votive-e2e";
/// Where their functions' runtime is, beside them.
const PROBE_INSIDE: &str = "/votive/bin/votive-probe";
/// Where the jails' tests look for what they execute.
const COMPROMISED_INSIDE: &str = "/votive/bin/votive-compromised";

/// One part of the suite: what it is called, and how it is run.
type Part = (&'static str, fn(&Progress) -> Result<Counts>);

const PARTS: &[Part] = &[
    ("setup", prepare),
    ("checks", checks),
    ("host tests", host),
    ("images", images),
    ("guest tests", guest),
    ("hostile guests", hostile_guests),
    ("fuzzing", fuzzing),
];

/// Runs everything; the last line of standard output is `N passed, N failed`.
pub(crate) fn run(progress: &Progress) -> Result<ExitCode> {
    let mut counts = Counts::default();
    for (name, part) in PARTS {
        match part(progress) {
            Ok(more) => {
                counts.add(more);
                progress.say(&format!("{name}: {} passed, {} failed", more.passed, more.failed));
            }
            Err(error) => {
                // A part that could not be run has not passed.
                counts.failed += 1;
                progress.say(&format!("{name}: FAILED: {error:#}"));
            }
        }
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A minute of each fuzz target.
fn fuzzing(progress: &Progress) -> Result<Counts> {
    fuzz::run(&FuzzArguments::default(), progress)
}

fn prepare(progress: &Progress) -> Result<Counts> {
    setup::run(progress)?;
    Ok(Counts::default())
}

fn checks(progress: &Progress) -> Result<Counts> {
    Ok(check::run(&Cache::open()?, progress))
}

/// The tests that need no guest, by cargo-nextest where it is installed.
fn host(progress: &Progress) -> Result<Counts> {
    let mut counts = if subprocess::exists("cargo-nextest") {
        let words = ["nextest", "run", "--workspace", "--no-fail-fast", "--color", "never"];
        tested(&words, progress, Stdout::Inherit)?
    } else {
        tested(&["test", "--workspace", "--no-fail-fast", "--all-targets"], progress, Stdout::Read)?
    };
    counts.add(tested(
        &["test", "--workspace", "--no-fail-fast", "--doc"],
        progress,
        Stdout::Read,
    )?);
    Ok(counts)
}

/// Which of cargo's outputs has the counts.
#[derive(Clone, Copy, PartialEq)]
enum Stdout {
    /// Standard output is passed on and standard error read.
    Inherit,
    /// The other way round.
    Read,
}

fn tested(words: &[&str], progress: &Progress, stdout: Stdout) -> Result<Counts> {
    let mut command = workspace::cargo(&workspace::root()?);
    command.args(words).env("CARGO_TERM_COLOR", "never");
    let step = progress.step(format!("cargo {}", words.join(" ")));
    let (counts, ok) = counted(&mut command, stdout)?;
    step.done(&format!("{} passed, {} failed", counts.passed, counts.failed));
    Ok(counts.or_failed(ok))
}

/// Runs a command, shows what it says, and adds up the counts in it.
fn counted(command: &mut Command, stdout: Stdout) -> Result<(Counts, bool)> {
    let (reader, writer) = std::io::pipe()?;
    match stdout {
        Stdout::Inherit => command.stderr(writer),
        Stdout::Read => command.stdout(writer),
    };
    let mut running = subprocess::Running::start(command)?;
    // Our copy of the pipe's writing end goes with these, else the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let listener = std::thread::spawn(move || listen(reader));
    let status = running.wait(HOST_LIMIT, || ())?;
    let counts = listener.join().ok().context("the reader of test output died")?;
    Ok((counts, status.success()))
}

fn listen(reader: impl Read) -> Counts {
    let mut counts = Counts::default();
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        counts.add(counts_in(&line));
    }
    counts
}

/// Builds the images, and packs those that promise the same bytes a second time.
fn images(progress: &Progress) -> Result<Counts> {
    image(None, progress)?;
    reproducible::check(&Cache::open()?, progress, Depth::Packing)
}

/// The tests in microVMs: in the lab, or on this host if its KVM can boot Linux.
fn guest(progress: &Progress) -> Result<Counts> {
    image(None, progress)?;
    let cache = Cache::open()?;
    let place = Place::find(&cache, progress)?;
    binaries::build_extension_client(&cache, progress)?;
    let probe = binaries::compile(progress, binaries::PROBE)?;
    let compromised = binaries::compile(progress, binaries::COMPROMISED)?;
    // Cargo puts all into one folder, where this one looks for the others.
    let program = binaries::compile(progress, binaries::E2E)?;
    let step = progress.step("tests in microVMs");
    let (counts, ok) = match &place {
        Place::Host => {
            let mut command = Command::new(&program);
            counted(command.env("VOTIVE_IMAGES", cache.current()), Stdout::Read)?
        }
        Place::Lab(lab) => in_labs(
            lab,
            &cache,
            &[(&program, E2E_INSIDE), (&probe, PROBE_INSIDE), (&compromised, COMPROMISED_INSIDE)],
        )?,
    };
    step.done(&format!("{} passed, {} failed", counts.passed, counts.failed));
    // No test is no pass.
    Ok(counts.or_failed(ok && counts.passed > 0))
}

/// The cases of guests that drive devices wrongly.
fn hostile_guests(progress: &Progress) -> Result<Counts> {
    let place = Place::find(&Cache::open()?, progress)?;
    let step = progress.step("hostile guests");
    let (counts, ok) = hostile::suite(&place, labs(), progress)?;
    step.done(&format!("{} passed, {} failed", counts.passed, counts.failed));
    Ok(counts.or_failed(ok && counts.passed > 0))
}

/// How many labs run at once.
fn labs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(LABS_MAX)
}

/// The tests in as many labs as this host has processors, a part in each: a lab has one processor.
fn in_labs(lab: &Lab, cache: &Cache, programs: &[(&PathBuf, &str)]) -> Result<(Counts, bool)> {
    let labs = labs();
    let in_lab = |number: usize| -> Result<(Counts, bool)> {
        let mut job = Job::new([E2E_INSIDE]);
        for (program, inside) in programs {
            job = job.file(program, inside);
        }
        job = job.env("VOTIVE_E2E_SHARD", &format!("{number}/{labs}"));
        let mut job = place::with_images(job, cache)?;
        job.timeout = GUEST_LIMIT;
        job.memory_mib = place::LAB_MEMORY_MIB;
        let mut lines = place::Lines::default();
        let outcome = lab.run(&job, &mut |stream, bytes| lines.pass_on(stream, bytes))?;
        let text = String::from_utf8_lossy(&outcome.stdout);
        let mut counts = Counts::default();
        text.lines().for_each(|line| counts.add(counts_in(line)));
        // A part without a test would be a part that did not run.
        Ok((counts, outcome.exit == 0 && counts.passed > 0))
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (1..=labs).map(|number| scope.spawn(move || in_lab(number))).collect();
        let mut all = (Counts::default(), true);
        for part in parts {
            let (counts, ok) = part.join().ok().context("a lab's thread died")??;
            all.0.add(counts);
            all.1 &= ok;
        }
        Ok(all)
    })
}

impl Counts {
    /// These counts, with at least one failure unless all went well.
    fn or_failed(self, ok: bool) -> Self {
        let failed = if ok { self.failed } else { self.failed.max(1) };
        Self { failed, ..self }
    }
}

/// The counts in one line of a test runner: `test result: ok. 3 passed; 1 failed; ...` of libtest, or
/// `Summary [ 1.2s] 4 tests run: 3 passed, 1 failed, 1 timed out, ...` of nextest.
fn counts_in(line: &str) -> Counts {
    // What nextest repeats of a failed program's output is indented, and was counted by nextest itself.
    if !line.starts_with("test result: ") && !line.trim_start().starts_with("Summary [") {
        return Counts::default();
    }
    let words: Vec<&str> = line.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
    let number_before = |what: &str| -> usize {
        let pairs = words.windows(2).filter(|pair| pair[1] == what);
        pairs.filter_map(|pair| pair[0].parse::<usize>().ok()).sum()
    };
    let failed = number_before("failed") + number_before("timed") + number_before("exec");
    Counts { passed: number_before("passed"), failed }
}

#[cfg(test)]
mod tests;
