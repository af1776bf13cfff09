//! A function's custom runtime, small and static: [`votive_e2e::bootstrap`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    votive_e2e::bootstrap::main()
}
