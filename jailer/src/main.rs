//! The program: arguments to spec, spec to jail, jail to exit code. One line on standard error says why not.

use std::io::Write;
use std::process::ExitCode;

use votive_jailer::jail::{self, Ended};
use votive_jailer::spec::{HELP, JailSpec, Request};

const FAILED: u8 = 1;
const WRONG_ARGUMENTS: u8 = 2;

fn main() -> ExitCode {
    match JailSpec::read(std::env::args_os().skip(1)) {
        Ok(Request::Help) => print(HELP),
        Ok(Request::Version) => print(concat!("votive-jailer ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Request::Make(spec)) => match jail::make(&spec) {
            Ok(Ended::Made | Ended::Checked) => ExitCode::SUCCESS,
            // The process in the jail has said why.
            Ok(Ended::Reported) => ExitCode::from(FAILED),
            Err(error) => end(&error, FAILED),
        },
        Err(error) => end(&error, WRONG_ARGUMENTS),
    }
}

fn end(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut line = format!("votive-jailer: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    line.push('\n');
    // Whoever would read the line may be gone: the exit code counts.
    let _ = std::io::stderr().write_all(line.as_bytes());
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}
