//! `votive-simulation [--schedules N] [--seed N]`: plays worlds until one of them fails.
//!
//! A million of them: `cargo run --release -p votive-simulation -- --schedules 1000000`.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use votive_simulation::{Counts, run};

/// Enough for every kind of fault to meet every kind of step.
const SCHEDULES_DEFAULT: u64 = 20_000;

fn main() -> ExitCode {
    let (schedules, first) = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            say(&format!("votive-simulation: {error}"));
            return ExitCode::from(2);
        }
    };
    say(&format!("seeds {first} to {}", first.saturating_add(schedules.saturating_sub(1))));
    let mut counts = Counts::default();
    for seed in (first..).take(usize::try_from(schedules).unwrap_or(usize::MAX)) {
        match run(seed) {
            Ok(world) => counts.add(&world),
            Err(failure) => {
                say(&format!(
                    "FAILED: {failure}\nagain: votive-simulation --schedules 1 --seed {seed}"
                ));
                return ExitCode::FAILURE;
            }
        }
    }
    say(&format!("{schedules} schedules held: {counts:?}"));
    ExitCode::SUCCESS
}

fn arguments() -> Result<(u64, u64), lexopt::Error> {
    use lexopt::prelude::{Long, ValueExt};
    let (mut schedules, mut seed) = (SCHEDULES_DEFAULT, 1);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("schedules") => schedules = parser.value()?.parse()?,
            Long("seed") => seed = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok((schedules, seed))
}

fn say(text: &str) {
    // Nobody reads: there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
}
