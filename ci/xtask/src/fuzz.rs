//! `cargo xtask fuzz`: every fuzz target of `tests/fuzz` for a while, as many at once as there are processors.
//!
//! The targets are built by the stable compiler with the counters that libFuzzer is guided by, and with debug assertions: an
//! overflow or a panic is a finding. What the fuzzer learned is kept in the user's cache, so that the next run begins there.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::Cache;
use crate::check::Counts;
use crate::progress::Progress;
use crate::subprocess::Running;
use crate::workspace;

mod report;

use report::Stats;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Coverage of edges, counted inline, and of comparisons: what cargo-fuzz asks the compiler for, less the sanitizer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// The seconds that each target runs, unless told otherwise.
const SECONDS: u64 = 60;
/// The seconds that one input may take.
const INPUT_SECONDS: u32 = 10;
/// The memory that a target may take, in MiB: a larger one was sized by its input.
const MEMORY_MIB: u32 = 1024;
/// How much longer than asked a target may take, to load what is known and to say what it found.
const SPARE: Duration = Duration::from_secs(120);
/// How much of a failed target's output is shown, in lines.
const SHOWN: usize = 40;

/// `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u64,
    /// Only these targets.
    #[arg(long = "target")]
    targets: Vec<String>,
    /// How many run at once, instead of one for each processor.
    #[arg(long)]
    jobs: Option<usize>,
}

impl Default for FuzzArguments {
    /// What continuous integration runs.
    fn default() -> Self {
        Self { seconds: SECONDS, targets: Vec::new(), jobs: None }
    }
}

/// A built target.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    program: PathBuf,
}

/// Where a target's files are.
struct Folders {
    /// The inputs that are known.
    corpus: PathBuf,
    /// What broke it.
    findings: PathBuf,
    log: PathBuf,
}

/// Runs the targets; each that nothing broke has passed.
pub(crate) fn run(arguments: &FuzzArguments, progress: &Progress) -> Result<Counts> {
    let cache = Cache::open()?;
    let targets = build(&cache, arguments, progress)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(jobs).clamp(1, targets.len());
    let seconds = arguments.seconds;
    let step = progress.step(format!("fuzzing {} targets, {seconds} s each", targets.len()));
    let waiting = Mutex::new(VecDeque::from(targets));
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop_front());
    let work = || {
        let mut done = Vec::new();
        while let Some(target) = next() {
            let ended = Folders::of(&cache, &target.name).and_then(|folders| {
                let stats = fuzz(&target, &folders, seconds)?;
                Ok((stats, report::units(&folders.corpus)?))
            });
            match &ended {
                Ok((stats, known)) => progress.say(&report::line(&target.name, stats, *known)),
                Err(error) => progress.say(&format!("{}: FOUND: {error:#}", target.name)),
            }
            done.push(ended.is_ok());
        }
        done
    };
    let done: Vec<bool> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        // A thread that died has no passes; its target is missing from the counts then, and that fails.
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or(vec![false])).collect()
    });
    let passed = done.iter().filter(|ok| **ok).count();
    let counts = Counts { passed, failed: done.len() - passed };
    step.done(&format!("{} found nothing, {} did", counts.passed, counts.failed));
    Ok(counts)
}

/// Builds all targets and gives those that are asked for.
fn build(cache: &Cache, arguments: &FuzzArguments, progress: &Progress) -> Result<Vec<Target>> {
    let step = progress.step("building the fuzz targets");
    let folder = workspace::root()?.join("tests/fuzz");
    let mut command = workspace::cargo(&folder);
    command
        .args(["build", "--quiet", "--locked", "--profile", "fuzz", "--bins", "--target", TARGET])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(cache.root().join("fuzz/build"))
        .env("RUSTFLAGS", COVERAGE)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the fuzz targets do not build");
    let built = programs(&String::from_utf8_lossy(&output.stdout));
    ensure!(!built.is_empty(), "there is no fuzz target in tests/fuzz");
    step.done(&format!("{} targets", built.len()));
    let names = &arguments.targets;
    if let Some(name) = names.iter().find(|name| built.iter().all(|target| target.name != **name)) {
        let known: Vec<_> = built.iter().map(|target| target.name.as_str()).collect();
        bail!("there is no fuzz target {name}; there are {}", known.join(", "));
    }
    let asked = |target: &Target| names.is_empty() || names.contains(&target.name);
    Ok(built.into_iter().filter(asked).collect())
}

/// The programs in cargo's messages.
fn programs(messages: &str) -> Vec<Target> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let program = |message: serde_json::Value| {
        let program = PathBuf::from(message["executable"].as_str()?);
        Some(Target { name: message["target"]["name"].as_str()?.to_owned(), program })
    };
    messages.filter_map(program).collect()
}

impl Folders {
    fn of(cache: &Cache, name: &str) -> Result<Self> {
        let root = cache.root().join("fuzz");
        let folders = Self {
            corpus: root.join("corpus").join(name),
            findings: root.join("findings").join(name),
            log: root.join(format!("{name}.log")),
        };
        fs::create_dir_all(&folders.corpus)?;
        fs::create_dir_all(&folders.findings)?;
        Ok(folders)
    }
}

/// Runs one target from what is known; what broke it is an error that says how to see it again.
fn fuzz(target: &Target, folders: &Folders, seconds: u64) -> Result<Stats> {
    let log = File::create(&folders.log)?;
    let mut command = Command::new(&target.program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", folders.findings.display()))
        .arg("-print_final_stats=1")
        .arg(&folders.corpus)
        .args(seeds(&target.name)?)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let limit = Duration::from_secs(seconds) + SPARE;
    let status = Running::start(&mut command)?.wait(limit, || ())?;
    let text = String::from_utf8_lossy(&fs::read(&folders.log)?).into_owned();
    if !status.success() {
        let lines: Vec<_> = text.lines().collect();
        let shown = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or(&[]).join("\n");
        bail!(
            "{status}; run `{}` with the file below to see it\n{shown}",
            target.program.display()
        );
    }
    report::stats(&text).with_context(|| format!("{} says no figures", folders.log.display()))
}

/// The folder of inputs in the repository that a target begins with, if it has one.
fn seeds(name: &str) -> Result<Option<PathBuf>> {
    let folder: PathBuf = workspace::root()?.join(Path::new("tests/fuzz/seeds")).join(name);
    Ok(folder.is_dir().then_some(folder))
}

#[cfg(test)]
mod tests;
