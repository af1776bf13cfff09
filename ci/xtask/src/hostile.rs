//! `cargo xtask hostile`: guests that drive the VMM's devices wrongly, on this host's KVM or in the lab.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use votive_lab::{Job, Lab};

use crate::binaries;
use crate::cache::Cache;
use crate::check::Counts;
use crate::place::{self, Place};
use crate::progress::Progress;
use crate::setup;
use crate::subprocess;

/// The longest that a whole run may take.
const LIMIT: Duration = Duration::from_secs(3600);
/// Where the suite is in the lab.
const INSIDE: &str = "/votive/bin/votive-hostile";
/// Where the VMM is there.
const VMM_INSIDE: &str = "/votive/bin/votive-vmm";
/// Where Firecracker is there.
const FIRECRACKER_INSIDE: &str = "/votive/bin/firecracker";
/// What every change is tried with in the lab: all cases, few repetitions, a new seed.
const IN_SUITE: &[&str] = &["--scale", "5", "--seeds", "2", "--steps", "1500", "--deadline", "3"];

/// `cargo xtask hostile`. Any KVM will do, one that cannot boot Linux as well. Firecracker is run beside votive if the
/// environment variable FIRECRACKER names its program.
#[derive(Debug, clap::Args)]
pub(crate) struct HostileArguments {
    /// In the lab, though this host has a KVM.
    #[arg(long)]
    lab: bool,
    /// What `votive-hostile` is told: a part of a case's name, --seed N, --steps N, --scale PERCENT, --json, --list, --help.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the suite as asked.
pub(crate) fn run(arguments: &HostileArguments, progress: &Progress) -> Result<ExitCode> {
    let cache = Cache::open()?;
    let program = binaries::compile(progress, binaries::HOSTILE)?;
    let vmm = binaries::compile(progress, binaries::VMM)?;
    if !arguments.lab && Path::new("/dev/kvm").exists() {
        let mut command = Command::new(&program);
        let status = command.arg("--votive").arg(&vmm).args(&arguments.arguments).status();
        let status = status.context("cannot start votive-hostile")?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    setup::run(progress)?;
    let lab = place::open_lab(&cache, progress)?;
    let job = job(&program, &vmm, &arguments.arguments);
    let outcome = lab.run(&job, &mut place::pass_on)?;
    Ok(if outcome.exit == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The suite's part: all cases, shared among as many labs as this host has processors.
pub(crate) fn suite(place: &Place, labs: usize, progress: &Progress) -> Result<(Counts, bool)> {
    let program = binaries::compile(progress, binaries::HOSTILE)?;
    let vmm = binaries::compile(progress, binaries::VMM)?;
    match place {
        Place::Host => {
            let mut command = Command::new(&program);
            command.arg("--votive").arg(&vmm).args(IN_SUITE).env_remove("FIRECRACKER");
            let text = subprocess::output(&mut command)?;
            print!("{text}");
            Ok((counts_in(&text), true))
        }
        Place::Lab(lab) => in_labs(lab, labs, &program, &vmm),
    }
}

fn in_labs(lab: &Lab, labs: usize, program: &Path, vmm: &Path) -> Result<(Counts, bool)> {
    let in_lab = |number: usize| -> Result<(Counts, bool)> {
        let shard = format!("{number}/{labs}");
        let mut words: Vec<String> = IN_SUITE.iter().map(|word| (*word).to_owned()).collect();
        words.extend(["--shard".to_owned(), shard]);
        let mut job = job(program, vmm, &words);
        job.env.retain(|(name, _)| name != "FIRECRACKER");
        let mut lines = place::Lines::default();
        let outcome = lab.run(&job, &mut |stream, bytes| lines.pass_on(stream, bytes))?;
        Ok((counts_in(&String::from_utf8_lossy(&outcome.stdout)), outcome.exit == 0))
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (1..=labs).map(|number| scope.spawn(move || in_lab(number))).collect();
        let mut all = (Counts::default(), true);
        for part in parts {
            let (counts, ok) = part.join().ok().context("a lab's thread died")??;
            all.0.add(counts);
            all.1 &= ok && counts.passed > 0;
        }
        Ok(all)
    })
}

fn job(program: &Path, vmm: &Path, arguments: &[String]) -> Job {
    let words = [INSIDE, "--votive", VMM_INSIDE].map(String::from);
    let mut job = Job::new(words.into_iter().chain(arguments.iter().cloned()));
    job = job.file(program, INSIDE).file(vmm, VMM_INSIDE);
    if let Some(firecracker) = std::env::var_os("FIRECRACKER").map(PathBuf::from) {
        job = job.file(firecracker, FIRECRACKER_INSIDE).env("FIRECRACKER", FIRECRACKER_INSIDE);
    }
    job.timeout = LIMIT;
    job
}

/// `N passed, N failed`, the last line.
fn counts_in(text: &str) -> Counts {
    let words: Vec<&str> = text.lines().next_back().unwrap_or_default().split([' ', ',']).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok());
    match (number(0), number(3)) {
        (Some(passed), Some(failed)) => Counts { passed, failed },
        _ => Counts { passed: 0, failed: 1 },
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, counts_in};

    #[test]
    fn the_last_line_has_the_counts() {
        let text = "ok votive nothing\n63 passed, 2 failed\n";
        assert_eq!(counts_in(text), Counts { passed: 63, failed: 2 });
        assert_eq!(counts_in("it died"), Counts { passed: 0, failed: 1 });
    }
}
