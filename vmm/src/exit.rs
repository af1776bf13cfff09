//! Why a microVM ended, and the exit code that says so.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::deadline;

/// Why a microVM ended. The first reason given stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest wrote 0 to the exit port.
    PoweredOff,
    /// The guest wrote another value to the exit port.
    GuestStopped {
        /// What it wrote.
        code: u8,
    },
    /// A triple fault: how a guest resets itself, or how a kernel ends after a panic.
    TripleFault {
        /// The vCPU it happened on.
        vcpu: u8,
    },
    /// A vCPU cannot go on.
    VcpuFailed {
        /// The vCPU it happened on.
        vcpu: u8,
        /// What KVM said.
        failure: String,
    },
    /// A device's worker ended while the guest was running.
    WorkerDied {
        /// Which one and why.
        what: String,
    },
    /// The deadline of `--deadline` passed.
    DeadlinePassed,
    /// The other end of the control channel is gone.
    ControlClosed,
    /// A signal asked this process to end.
    Signal {
        /// Its number.
        number: u8,
    },
}

impl ExitReason {
    /// The process's exit code: 0 for a power-off, never 0 for anything else.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::GuestStopped { .. } | Self::TripleFault { .. } => 3,
            Self::VcpuFailed { .. } => 4,
            Self::WorkerDied { .. } => 5,
            Self::DeadlinePassed => 6,
            Self::ControlClosed => 7,
            Self::Signal { number } => 128 | number,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(f, "guest powered off"),
            Self::GuestStopped { code } => write!(f, "guest stopped with code {code}"),
            Self::TripleFault { vcpu } => write!(f, "guest reset or triple fault on vcpu {vcpu}"),
            Self::VcpuFailed { vcpu, failure } => write!(f, "vcpu {vcpu} failed: {failure}"),
            Self::WorkerDied { what } => write!(f, "device worker died: {what}"),
            Self::DeadlinePassed => write!(f, "deadline passed"),
            Self::ControlClosed => write!(f, "control channel closed"),
            Self::Signal { number } => write!(f, "ended by signal {number}"),
        }
    }
}

/// An error and all its causes on one line.
#[must_use]
pub fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}

/// What a process ends with that could not make its microVM.
pub const SETUP_FAILED: u8 = 1;
/// What a process ends with whose specification is wrong.
pub const WRONG_SPEC: u8 = 2;

/// What a process ends with after a panic, which is a fault of its own: as if by `SIGABRT`.
pub const PANICKED: u8 = 128 + 6;

/// From now on a panic is one line on standard error and exit code [`PANICKED`], with no call that a filter lacks.
pub fn name_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let _ = deadline::end_soon(PANICKED);
        let text = panic.payload_as_str().unwrap_or("panicked");
        let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
        let _ = std::io::stderr().write_all(format!("votive-vmm: {text}{place}\n").as_bytes());
        deadline::end_now(PANICKED);
    }));
}

/// Where any thread says that the microVM is over.
///
/// The reason is stored before the main loop is woken, so whoever is woken finds it: a vCPU's
/// death can never be taken for a clean end.
#[derive(Debug)]
pub struct Exit {
    reason: Mutex<Option<ExitReason>>,
    event: EventFd,
}

impl Exit {
    /// An exit that has not happened.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { reason: Mutex::new(None), event: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Stores `reason` unless there is one, then wakes the main loop.
    pub fn end(&self, reason: ExitReason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        // The counter of a non-blocking eventfd can only be full when the loop has been woken before.
        let _ = self.event.write(1);
    }

    /// The reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<ExitReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the main loop waits on.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests;
