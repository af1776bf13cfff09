//! `votive-hostile`: runs hostile guests against votive-vmm and its peer, and prints a table.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use votive_hostile::plan::Plan;
use votive_hostile::table::CASES;

/// Runs hostile guests, each in a microVM of its own. The last line is `N passed, N failed`.
#[derive(Debug, Parser)]
#[command(name = "votive-hostile")]
struct Arguments {
    /// Only cases whose names contain this.
    #[arg(default_value = "")]
    filter: String,
    /// votive-vmm's program.
    #[arg(long, default_value = "votive-vmm")]
    votive: PathBuf,
    /// Firecracker's program, to be run beside it.
    #[arg(long, env = "FIRECRACKER")]
    firecracker: Option<PathBuf>,
    /// The seed of what is random; a new one each time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds of the random case, one after the other.
    #[arg(long, default_value_t = 4)]
    seeds: u64,
    /// Steps of each of them.
    #[arg(long, default_value_t = 5000)]
    steps: u64,
    /// Repetitions in the cases that repeat themselves, in percent.
    #[arg(long, default_value_t = 100)]
    scale: u64,
    /// Seconds that a case may take.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Seconds that those cases run that only their deadline ends.
    #[arg(long, default_value_t = 2)]
    deadline: u64,
    /// Cases at a time, each beside an innocent microVM of its own.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Part I of N of the cases, as I/N with I from 1.
    #[arg(long, value_parser = parse_shard, default_value = "1/1")]
    shard: (usize, usize),
    /// One JSON object a line instead of the table.
    #[arg(long)]
    json: bool,
    /// Print the names and what each case does.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        CASES.iter().for_each(|case| println!("{:26} {}", case.name, case.what));
        return ExitCode::SUCCESS;
    }
    let plan = Plan {
        votive: arguments.votive,
        firecracker: arguments.firecracker,
        filter: arguments.filter,
        seed: arguments.seed.unwrap_or_else(new_seed),
        seeds: arguments.seeds,
        steps: arguments.steps,
        scale: arguments.scale,
        limit: Duration::from_secs(arguments.limit),
        deadline: Duration::from_secs(arguments.deadline),
        jobs: arguments.jobs,
        json: arguments.json,
        shard: arguments.shard,
    };
    match plan.run(&mut std::io::stdout()) {
        Ok(counts) => {
            println!("{} passed, {} failed", counts.passed, counts.failed);
            if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("votive-hostile: {error:#}");
            println!("0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// A seed of six digits, easy to type.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs() * 1_000 % 1_000_000 + u64::from(now.subsec_millis())
}

fn parse_shard(text: &str) -> Result<(usize, usize), String> {
    let wrong = || format!("{text}: I/N with 1 <= I <= N is allowed");
    let (part, of) = text.split_once('/').ok_or_else(wrong)?;
    let (part, of): (usize, usize) =
        (part.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
    if (1..=of).contains(&part) { Ok((part - 1, of)) } else { Err(wrong()) }
}
