//! `cargo xtask VERB`: everything that is done with this repository, by people and by continuous integration alike.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::cache::Cache;
use crate::progress::Progress;

mod bench;
mod binaries;
mod cache;
mod check;
mod cpio;
mod debian;
mod demo;
mod fuzz;
mod hostile;
mod kernel;
mod labimage;
mod place;
mod progress;
mod reproducible;
mod rootfs;
mod sealed;
mod setup;
mod subprocess;
mod suite;
mod tidy;
mod workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and measures votive")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run three functions in microVMs: Python, Node.js, and a program with its own bootstrap.
    Demo,
    /// Run every check and every test; ends with `N passed, N failed`.
    Test,
    /// Check format, lints, house rules, dependencies and documentation.
    Check,
    /// Check the house rules alone: a second's work.
    Tidy,
    /// Measure votive beside its peers, against ci/budgets.toml.
    Bench(bench::BenchArguments),
    /// Feed each parser of foreign bytes with what a fuzzer finds.
    Fuzz(fuzz::FuzzArguments),
    /// Run guests that drive the VMM's devices wrongly, and print what came of each (docs/hostile.md).
    Hostile(hostile::HostileArguments),
    /// Build what guests are made of; all of it, or one part.
    Image {
        /// The part to build.
        part: Option<Part>,
        /// Build runtime images, functions and PID 1 twice, from nothing but downloads, and fail unless the bytes are the same.
        #[arg(long, conflicts_with = "part")]
        check_reproducible: bool,
    },
    /// Run a command in the lab, with the current images in /votive.
    Lab(place::LabArguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The guest kernel.
    Kernel,
    /// The runtime images and the demo's functions.
    Rootfs,
    /// The machine that the lab boots.
    Lab,
    /// The VMM, PID 1 and the command line.
    Binaries,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let progress = Progress::new();
    match arguments.verb {
        Verb::Demo => demo::run(&progress),
        Verb::Test => suite::run(&progress),
        Verb::Check => check_all(&progress),
        Verb::Tidy => tidy_alone(),
        Verb::Bench(arguments) => bench::run(&arguments, &progress),
        Verb::Fuzz(arguments) => fuzz_all(&arguments, &progress),
        Verb::Hostile(arguments) => hostile::run(&arguments, &progress),
        Verb::Image { part, check_reproducible } => {
            setup::run(&progress)?;
            if check_reproducible {
                image(Some(Part::Rootfs), &progress)?;
                image(Some(Part::Binaries), &progress)?;
                return reproducible::report(&progress);
            }
            image(part, &progress).map(|()| ExitCode::SUCCESS)
        }
        Verb::Lab(arguments) => {
            setup::run(&progress)?;
            place::lab(&arguments, &progress)
        }
    }
}

fn tidy_alone() -> Result<ExitCode> {
    let complaints = tidy::run(&workspace::root()?)?;
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fuzz_all(arguments: &fuzz::FuzzArguments, progress: &Progress) -> Result<ExitCode> {
    let counts = fuzz::run(arguments, progress)?;
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_all(progress: &Progress) -> Result<ExitCode> {
    let counts = check::run(&Cache::open()?, progress);
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn image(part: Option<Part>, progress: &Progress) -> Result<()> {
    let cache = Cache::open()?;
    let wanted = |one: Part| part.is_none_or(|only| only == one);
    if wanted(Part::Binaries) {
        binaries::build(&cache, progress)?;
    }
    if wanted(Part::Kernel) {
        kernel::build(&cache, progress)?;
    }
    if wanted(Part::Rootfs) {
        rootfs::build(&cache, progress)?;
    }
    if wanted(Part::Lab) {
        labimage::build(&cache, progress)?;
    }
    Ok(())
}
