//! `votive-start`: measures starts of a container image from an artifact, and prints a JSON object a line.
//!
//! `cargo xtask bench` runs it in the lab, where a nanosecond is an instruction, and on this host for what needs no guest.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use votive_bench::report::{self, Figure};

mod origin;
mod starts;

use origin::Origin;

/// Measures starts from artifacts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The folder of the store
    #[arg(long)]
    store: PathBuf,
    /// The folder of the embedded key service
    #[arg(long)]
    keys: PathBuf,
    /// The artifact
    #[arg(long)]
    identity: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a microVM once, and print the list of what it read, in hexadecimal
    Record {
        /// The folder with kernel, initramfs and VMM
        #[arg(long)]
        images: PathBuf,
        /// The event of the invocation
        #[arg(long)]
        event: String,
    },
    /// Start microVMs: for the first time, with what the first start read, and with everything fetched first
    Start {
        /// The folder with kernel, initramfs and VMM
        #[arg(long)]
        images: PathBuf,
        /// The event of the invocation
        #[arg(long)]
        event: String,
        /// The artifact of the same image that is laid out for such starts
        #[arg(long)]
        laid_out: Option<String>,
        /// Leave out the start that fetches everything first
        #[arg(long)]
        lazy_alone: bool,
    },
    /// Fetch, check and decrypt all chunks, and a share of them, without a guest: in milliseconds
    Fetch {
        /// The share, in percent
        #[arg(long)]
        share: f64,
        /// How often
        #[arg(long)]
        count: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    report::end("votive-start", run(Arguments::parse()).await)
}

async fn run(arguments: Arguments) -> anyhow::Result<Vec<Figure>> {
    let origin = Origin::open(&arguments.store, &arguments.keys, &arguments.identity).await?;
    match arguments.command {
        Command::Record { images, event } => {
            let list = starts::record(&origin, &images, event.as_bytes()).await?;
            let digits: String = list.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(std::io::stdout(), "{digits}")?;
            Ok(Vec::new())
        }
        Command::Start { images, event, laid_out, lazy_alone } => {
            let laid_out = match laid_out {
                Some(identity) => {
                    Some(Origin::open(&arguments.store, &arguments.keys, &identity).await?)
                }
                None => None,
            };
            starts::measure(&origin, laid_out.as_ref(), &images, event.as_bytes(), lazy_alone).await
        }
        Command::Fetch { share, count } => starts::fetches(&origin, share, count).await,
    }
}
