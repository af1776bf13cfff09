//! The end-to-end tests as one static program, which runs wherever there are images and a KVM that boots Linux.
//!
//! `votive-e2e [FILTER] [--list]` takes libtest's arguments; images come from `VOTIVE_IMAGES`. It runs two tests at a time,
//! and its last line is `N passed, N failed`. Named `bootstrap`, it is a function's custom runtime instead;
//! named `votive-vmm`, it gives a guest a console and becomes the VMM.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use votive_e2e::{bootstrap, cases, harness};

fn main() -> ExitCode {
    if bootstrap::is_called() {
        return bootstrap::main();
    }
    if harness::console::is_called() {
        return harness::console::become_vmm();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    if !arguments.list
        && let Err(error) = harness::require_guests()
    {
        eprintln!("votive-e2e: {error:#}");
        println!("0 passed, 1 failed");
        return ExitCode::FAILURE;
    }
    let trials = cases::all().map(|(name, case)| {
        Trial::test(name, move || {
            let ended = case();
            // Whatever the test says of it: a guest that died in it is part of the reason.
            let deaths = harness::console::deaths();
            ended.map_err(|error| Failed::from(format!("{error:#}\n{deaths}")))
        })
    });
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !listing {
        println!("{} passed, {} failed", conclusion.num_passed, conclusion.num_failed);
    }
    conclusion.exit_code()
}
