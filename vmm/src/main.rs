//! The program: arguments to spec, spec to machine, machine to exit code. One line on standard error says why.

use std::io::Write;
use std::process::ExitCode;

use votive_vmm::boot::boot;
use votive_vmm::deadline::{self, Deadline};
use votive_vmm::exit::{ExitReason, one_line};
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
    // While there is one thread and nothing that would have to be charged anew.
    if let Some(Err(error)) = spec.cgroup.as_ref().map(votive_vmm::cgroup::join) {
        return end(&format!("--cgroup: {error}"), SETUP_FAILED);
    }
    if let Some(Err(error)) = spec.parent.map(votive_vmm::parent::die_with) {
        return end(&format!("--parent: {error}"), SETUP_FAILED);
    }
    let deadline = match spec.deadline_ns.map(Deadline::set).transpose() {
        Ok(deadline) => deadline,
        Err(error) => return end(&format!("--deadline: {error}"), SETUP_FAILED),
    };
    if deadline.as_ref().is_some_and(Deadline::has_passed) {
        let reason = ExitReason::DeadlinePassed;
        return end(&reason.to_string(), reason.code());
    }
    votive_vmm::heap::share();
    let mut machine = match boot(spec, start_ns, deadline) {
        Ok(machine) => machine,
        Err(error) => return end(&one_line(&error), SETUP_FAILED),
    };
    if let Some(notice) = machine.notice() {
        let _ = std::io::stderr().write_all(format!("votive-vmm: {notice}\n").as_bytes());
    }
    match machine.run() {
        Ok(reason) => end(&machine.last_words(&reason), reason.code()),
        Err(error) => end(&one_line(&error), SETUP_FAILED),
    }
}

fn end(reason: &str, code: u8) -> ExitCode {
    // Whoever would read the line may be gone, or not reading: the exit code counts.
    let _ = deadline::end_soon(code);
    let _ = std::io::stderr().write_all(format!("votive-vmm: {reason}\n").as_bytes());
    ExitCode::from(code)
}

fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}
