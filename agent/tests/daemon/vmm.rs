//! A VMM's command line: the probe, the agent's control socket, and the guest behind it.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::guest;

/// What the probe says of a host whose KVM runs guests.
const PROBE: &str = "kvm=native loop_ns=10000";

/// Plays a VMM.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--probe-kvm") {
        let _ = writeln!(std::io::stdout(), "{PROBE}");
        return ExitCode::SUCCESS;
    }
    if let Some(place) = arguments.iter().position(|argument| argument == "--control") {
        let stream = UnixStream::from(inherited(&arguments[place + 1]));
        std::thread::spawn(move || serve_control(stream));
    }
    guest::main()
}

/// Answers each order with itself, as one that is carried out at once; ends with the agent.
fn serve_control(mut stream: UnixStream) {
    stream.set_nonblocking(false).unwrap();
    let mut order = [0];
    while stream.read_exact(&mut order).is_ok() {
        let _ = stream.write_all(&order);
    }
    std::process::exit(143);
}

/// Takes the descriptor `fd:N` that the agent handed on.
fn inherited(name: &str) -> OwnedFd {
    let number = name.strip_prefix("fd:").unwrap().parse().unwrap();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).unwrap()
}
