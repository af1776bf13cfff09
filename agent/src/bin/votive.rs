//! The operator's command line. Everything is in [`votive_agent::cli`]; here it becomes an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    votive_agent::cli::main()
}
