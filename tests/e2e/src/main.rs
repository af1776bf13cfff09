//! The end-to-end tests as one static program, which runs wherever there are images and a KVM that boots Linux.
//!
//! `votive-e2e [FILTER] [--list]` takes libtest's arguments; images come from `VOTIVE_IMAGES`. It runs a test at a time for
//! each processor, up to two; with `VOTIVE_E2E_SHARD=I/N` it runs every `N`th test from the `I`th on (`I` from 1), so that
//! several machines share the work. Its last line is `N passed, N failed`. Named `votive-vmm`, it gives a guest a console and
//! becomes the VMM.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Context as _;
use libtest_mimic::{Arguments, Failed, Trial};
use votive_e2e::{cases, harness};

fn main() -> ExitCode {
    if harness::console::is_called() {
        return harness::console::become_vmm();
    }
    let mut arguments = Arguments::from_args();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(processors.min(2));
    let shard = match Shard::from_environment() {
        Ok(shard) => shard,
        Err(error) => {
            eprintln!("votive-e2e: {error:#}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    if !arguments.list
        && let Err(error) = harness::require_guests()
    {
        eprintln!("votive-e2e: {error:#}");
        println!("0 passed, 1 failed");
        return ExitCode::FAILURE;
    }
    let trials = cases::all().skip(shard.first).step_by(shard.of).map(|(name, case)| {
        Trial::test(name, move || {
            let ended = case();
            // Whatever the test says of it: a guest that died in it is part of the reason.
            let (logs, deaths) = (harness::worker::logs(), harness::console::deaths());
            ended.map_err(|error| Failed::from(format!("{error:#}\n{logs}{deaths}")))
        })
    });
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !listing {
        println!("{} passed, {} failed", conclusion.num_passed, conclusion.num_failed);
    }
    conclusion.exit_code()
}

/// Which of the tests are this program's.
struct Shard {
    first: usize,
    of: usize,
}

impl Shard {
    const VARIABLE: &str = "VOTIVE_E2E_SHARD";

    fn from_environment() -> anyhow::Result<Self> {
        let Ok(text) = std::env::var(Self::VARIABLE) else {
            return Ok(Self { first: 0, of: 1 });
        };
        let parsed = text.split_once('/').and_then(|(number, of)| {
            let (number, of): (usize, usize) = (number.parse().ok()?, of.parse().ok()?);
            let first = number.checked_sub(1)?;
            (first < of).then_some(Self { first, of })
        });
        parsed
            .with_context(|| format!("{}={text}: I/N with 1 <= I <= N is allowed", Self::VARIABLE))
    }
}
