//! `votive-agent` from end to end, with this very program in the VMM's place: it plays the guest.
//!
//! Started as a VMM it is `vmm::main`; otherwise it runs the tests, each of which starts agents of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program without the test harness, which would allow both"
)]

#[path = "daemon/artifacts.rs"]
mod artifacts;
#[path = "daemon/bed.rs"]
mod bed;
#[path = "daemon/cases.rs"]
mod cases;
#[path = "run/guest.rs"]
mod guest;
#[path = "daemon/invocations.rs"]
mod invocations;
#[path = "daemon/vmm.rs"]
mod vmm;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--kernel" || argument == "--probe-kvm") {
        return vmm::main();
    }
    let arguments = Arguments::from_args();
    let all = cases::ALL.iter().chain(invocations::ALL).chain(artifacts::ALL);
    let trials = all.map(|(name, case)| {
        Trial::test(*name, move || {
            case();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
