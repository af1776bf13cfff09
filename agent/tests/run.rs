//! `votive run` from end to end, with this very program in the VMM's place: it plays the guest.
//!
//! Started with the arguments of a VMM it is `guest::main`; otherwise it runs the tests, each of which starts `votive`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program without the test harness, which would allow both"
)]

#[path = "run/cases.rs"]
mod cases;
#[path = "run/guest.rs"]
mod guest;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--kernel") {
        return guest::main();
    }
    let arguments = Arguments::from_args();
    let trials = cases::ALL.iter().map(|(name, case)| {
        Trial::test(*name, move || {
            case();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
