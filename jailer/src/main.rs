//! The program: arguments to spec, spec to jail, jail to exit code. One line on standard error says why not.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(
    not(test),
    expect(unsafe_code, reason = "the C library's entry point has a name of its own")
)]

use std::ffi::{c_char, c_int};
use std::io::Write;

use votive_jailer::jail::{self, Ended};
use votive_jailer::spec::{HELP, JailSpec, Request};

const MADE: c_int = 0;
const FAILED: c_int = 1;
const WRONG_ARGUMENTS: c_int = 2;

/// Where the C library begins, and not the standard library before it: what that prepares, reports of stack overflows and
/// backtraces above all, is a fifth of what a jail costs, and of the program's size.
// SAFETY: no other function of the program is called so.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    if let Err(error) = votive_jailer::prepare_streams() {
        return end(&error, FAILED);
    }
    match JailSpec::read(std::env::args_os().skip(1)) {
        Ok(Request::Help) => print(HELP),
        Ok(Request::Version) => print(concat!("votive-jailer ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Request::Make(spec)) => match jail::make(&spec) {
            Ok(Ended::Made | Ended::Checked) => MADE,
            // The process in the jail has said why.
            Ok(Ended::Reported) => FAILED,
            Err(error) => end(&error, FAILED),
        },
        Err(error) => end(&error, WRONG_ARGUMENTS),
    }
}

fn end(error: &dyn std::error::Error, code: c_int) -> c_int {
    let mut line = format!("votive-jailer: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    line.push('\n');
    // Whoever would read the line may be gone: the exit code counts.
    let _ = std::io::stderr().write_all(line.as_bytes());
    code
}

fn print(text: &str) -> c_int {
    let mut output = std::io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => MADE,
        Err(_) => FAILED,
    }
}
