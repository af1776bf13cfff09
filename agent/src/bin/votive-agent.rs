//! The worker's process. Everything is in [`votive_agent::daemon`]; here it becomes an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    votive_agent::daemon::cli::main()
}
