//! The program: arguments to spec, spec to machine, machine to exit code. One line on standard error says why.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(
    not(test),
    expect(unsafe_code, reason = "the C library's entry point has a name of its own")
)]

use std::ffi::{c_char, c_int};
use std::io::Write;
use std::sync::Arc;

use votive_vmm::boot::{Order, boot};
use votive_vmm::deadline::{self, Deadline, boottime_ns};
use votive_vmm::descriptor;
use votive_vmm::exit::{ExitReason, SETUP_FAILED, WRONG_SPEC, name_panics, one_line};
use votive_vmm::marks::monotonic_ns;
use votive_vmm::seccomp::{self, Install};
use votive_vmm::signals;
use votive_vmm::spec::{Ahead, HELP, Request, VmSpec};

/// Where the C library begins, and not the standard library before it: what that prepares, reports of stack overflows and
/// backtraces above all, is not for a process under filters, and costs each start 130,000 instructions and the program 110 kB.
// SAFETY: no other function of the program is called so.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    let start_ns = monotonic_ns();
    name_panics();
    let prepared = descriptor::fill_standard_streams()
        .and_then(|()| signals::ignore_broken_pipes())
        .and_then(|()| deadline::prepare_end());
    if let Err(error) = prepared {
        end(&format!("cannot prepare the process: {error}"), SETUP_FAILED);
    }
    let request = VmSpec::read(std::env::args_os().skip(1));
    let order = match request {
        Ok(Request::Help) => return print(HELP),
        Ok(Request::ProbeKvm) => return print(&format!("{}\n", votive_vmm::probe::probe())),
        Ok(Request::Version) => {
            return print(concat!("votive-vmm ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Ok(Request::Run(spec)) if spec.shell.is_some() => {
            spec.validate_shell().map(|shell| Order::Shell(Box::new(shell)))
        }
        Ok(Request::Run(spec)) => spec.validate().map(|spec| Order::Microvm(Box::new(spec))),
        Err(error) => Err(error),
    };
    match order {
        Ok(order) => run(order, start_ns),
        Err(error) => end(&one_line(&error), WRONG_SPEC),
    }
}

fn run(order: Order, start_ns: u64) -> ! {
    let is_shell = matches!(order, Order::Shell(_));
    let Ahead { cgroup, parent, deadline_ns, .. } = order.ahead();
    // While there is one thread and nothing that would have to be charged anew.
    if let Some(Err(error)) = cgroup.as_ref().map(votive_vmm::cgroup::join) {
        end(&format!("--cgroup: {error}"), SETUP_FAILED);
    }
    if let Some(Err(error)) = parent.map(votive_vmm::parent::die_with) {
        end(&format!("--parent: {error}"), SETUP_FAILED);
    }
    if is_shell && let Err(error) = votive_vmm::parent::hide_memory() {
        end(&format!("--shell: {error}"), SETUP_FAILED);
    }
    let deadline = match deadline(deadline_ns, is_shell) {
        Ok(deadline) => deadline,
        Err(error) => end(&format!("--deadline: {error}"), SETUP_FAILED),
    };
    if deadline_ns.is_some_and(|at_ns| boottime_ns() >= at_ns) {
        let reason = ExitReason::DeadlinePassed;
        end(&reason.to_string(), reason.code());
    }
    votive_vmm::heap::share();
    if let Err(error) = seccomp::renounce_new_rights() {
        end(&format!("no_new_privs: {error}"), SETUP_FAILED);
    }
    let install: Install = if cfg!(feature = "unfiltered") { |_| Ok(()) } else { seccomp::install };
    let mut machine = match boot(order, start_ns, deadline, install) {
        Ok(machine) => machine,
        Err(error) => end(&one_line(&error), error.code()),
    };
    if let Some(notice) = machine.notice() {
        let _ = std::io::stderr().write_all(format!("votive-vmm: {notice}\n").as_bytes());
    }
    let ended = machine.run();
    machine.put_away();
    match ended {
        Ok(reason) => end(&machine.last_words(&reason), reason.code()),
        Err(error) => end(&one_line(&error), SETUP_FAILED),
    }
}

/// The deadline, set if it is known; a shell may hear of one later.
fn deadline(at_ns: Option<u64>, is_shell: bool) -> std::io::Result<Option<Arc<Deadline>>> {
    if at_ns.is_none() && !is_shell {
        return Ok(None);
    }
    let deadline = Deadline::new()?;
    at_ns.map(|at_ns| deadline.set(at_ns)).transpose()?;
    Ok(Some(Arc::new(deadline)))
}

fn end(reason: &str, code: u8) -> ! {
    // Whoever would read the line may be gone, or not reading: the exit code counts.
    let _ = deadline::end_soon(code);
    let _ = std::io::stderr().write_all(format!("votive-vmm: {reason}\n").as_bytes());
    deadline::end_now(code)
}

fn print(text: &str) -> c_int {
    let mut output = std::io::stdout();
    let printed = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    c_int::from(if printed.is_ok() { 0 } else { SETUP_FAILED })
}
