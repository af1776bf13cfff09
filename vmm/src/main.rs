//! The program: arguments to spec, spec to machine, machine to exit code. One line on standard error says why.

use std::process::ExitCode;

use votive_vmm::boot::boot;
use votive_vmm::exit::one_line;
use votive_vmm::marks::monotonic_ns;
use votive_vmm::spec::{HELP, Request, ValidSpec, VmSpec};

const SETUP_FAILED: u8 = 1;
const WRONG_SPEC: u8 = 2;

fn main() -> ExitCode {
    let start_ns = monotonic_ns();
    let request = VmSpec::read(std::env::args_os().skip(1));
    let spec = match request {
        Ok(Request::Help) => return print(HELP),
        Ok(Request::ProbeKvm) => return print(&format!("{}\n", votive_vmm::probe::probe())),
        Ok(Request::Version) => {
            return print(concat!("votive-vmm ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Ok(Request::Run(spec)) => spec.validate(),
        Err(error) => Err(error),
    };
    match spec {
        Ok(spec) => run(spec, start_ns),
        Err(error) => end(&one_line(&error), WRONG_SPEC),
    }
}

fn run(spec: ValidSpec, start_ns: u64) -> ExitCode {
    if let Some(Err(error)) = spec.parent.map(votive_vmm::parent::die_with) {
        return end(&format!("--parent: {error}"), SETUP_FAILED);
    }
    let mut machine = match boot(spec, start_ns) {
        Ok(machine) => machine,
        Err(error) => return end(&one_line(&error), SETUP_FAILED),
    };
    match machine.run() {
        Ok(reason) => end(&machine.last_words(&reason), reason.code()),
        Err(error) => end(&one_line(&error), SETUP_FAILED),
    }
}

fn end(reason: &str, code: u8) -> ExitCode {
    eprintln!("votive-vmm: {reason}");
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}
