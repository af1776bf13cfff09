//! `cargo xtask VERB`: everything that is done with this repository, by people and by continuous integration alike.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::cache::Cache;
use crate::progress::Progress;

mod cache;
mod debian;
mod kernel;
mod progress;
mod rootfs;
mod subprocess;
mod workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and measures votive")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build what guests are made of; all of it, or one part.
    Image {
        /// The part to build.
        part: Option<Part>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// The guest kernel.
    Kernel,
    /// The runtime images and the demo's functions.
    Rootfs,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let progress = Progress::new();
    match arguments.verb {
        Verb::Image { part } => {
            let cache = Cache::open()?;
            let wanted = |p: Part| part.is_none_or(|only| only as u8 == p as u8);
            if wanted(Part::Kernel) {
                kernel::build(&cache, &progress)?;
            }
            if wanted(Part::Rootfs) {
                rootfs::build(&cache, &progress)?;
            }
            Ok(())
        }
    }
}
