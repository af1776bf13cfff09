//! The beginning of a life, and what the agent asks of it: extensions first, then the runtime.

use rustix::io::Errno;
use votive_protocol::{
    ExitStatus, ExtensionExited, ExtensionFault, FaultCode, GuestFrame, Phase, PhaseName,
    ShutdownReason,
};

use super::ending::Cause;
use super::{Command, Ending, Exit, ExtensionNames, Life, Output, Platform, Problem, Who, Worker};
use crate::extensions::{ExtensionState, new_id};
use crate::http::Writer;
use crate::server::Failure;

/// Room for the words that tell of a process's end.
const MESSAGE_MAX: usize = 80;

impl<P: Platform> Worker<'_, P> {
    pub(super) fn obey(&mut self, command: Command) -> Result<(), Ending> {
        match command {
            Command::Nothing => Ok(()),
            Command::Configured => {
                self.phase(PhaseName::Configured);
                let configure = self.server.configuration().ok_or(NOT_CONFIGURED)?;
                self.platform.prepare(&configure)?;
                self.start()
            }
            Command::Invoked => {
                self.sinks_thaw();
                match &mut self.life {
                    Life::Absent => self.start(),
                    Life::Ending(ending) => {
                        ending.restart = true;
                        Ok(())
                    }
                    Life::Registering | Life::Alive => Ok(()),
                }
            }
            // Nothing runs, or is ending already: what tells of that end answers this.
            Command::Reset(reason) => {
                if matches!(self.life, Life::Registering | Life::Alive) {
                    let status = match reason {
                        votive_protocol::ResetReason::Timeout => "timeout",
                        votive_protocol::ResetReason::Failure => "failure",
                    };
                    let error_type = if status == "failure" { "Sandbox.Failure" } else { "" };
                    // The runtime's end names the invocation: it is over only then.
                    self.server
                        .tell_failure(Failure { status, error_type, message: "" }, &self.platform);
                    self.begin_ending(reason.into(), Cause::Told);
                }
                Ok(())
            }
            Command::Shutdown(shutdown) => self.shut_down(shutdown),
        }
    }

    pub(super) fn phase(&mut self, name: PhaseName) {
        let at_ns = self.platform.now_ns();
        self.server.outbox.push(&GuestFrame::Phase(Phase { name, at_ns }));
    }

    /// Begins a life: starts external extensions, and the runtime if there are none.
    pub(super) fn start(&mut self) -> Result<(), Ending> {
        self.server.begin_life(&self.platform);
        let mut names = ExtensionNames::default();
        let count = self.platform.list_extensions(&mut names)?;
        if count == 0 {
            return self.start_runtime();
        }
        self.life = Life::Registering;
        for at in 0..names.count() {
            let name = names.get(at);
            let id = new_id(self.platform.random());
            let Some(slot) = self.server.extensions_mut().add_external(name, id) else { break };
            if at == names.count() - 1 && count > names.count() {
                // One has no place: as with AWS that is the failure of the last one that has.
                self.server.extensions_mut().launch_error(slot, "TooManyExtensions");
                return self.extension_failed(slot, None);
            }
            let configure = self.server.configuration().ok_or(NOT_CONFIGURED)?;
            let output = self.platform.start_extension(&configure, slot, name)?;
            if output.is_some() {
                self.extensions_run |= 1 << slot;
            }
            self.watch_log(2 + slot, output)?;
        }
        self.phase(PhaseName::ExtensionsStarted);
        Ok(())
    }

    /// Starts the runtime.
    pub(super) fn start_runtime(&mut self) -> Result<(), Ending> {
        let configure = self.server.configuration().ok_or(NOT_CONFIGURED)?;
        let output = self.platform.start(&configure)?;
        self.phase(PhaseName::RuntimeStarted);
        self.life = Life::Alive;
        if let Some(Output { stdout, stderr }) = output {
            self.runtime_runs = true;
            self.watch_log(0, Some(stdout))?;
            self.watch_log(1, Some(stderr))?;
        }
        Ok(())
    }

    /// Goes on with what waits for something that may have happened by now.
    pub(super) fn advance(&mut self) -> Result<(), Ending> {
        match self.life {
            Life::Registering if self.server.extensions().all_registered() => self.start_runtime(),
            Life::Absent | Life::Registering | Life::Alive => Ok(()),
            Life::Ending(_) => self.advance_ending(),
        }
    }

    pub(super) fn take_signals(&mut self) -> Result<(), Ending> {
        if let Some(signals) = &self.descriptors.signals {
            // Only that one came matters, so that one read of one record or more will do; what is left wakes the loop again.
            let mut records = [0_u8; 1024];
            let _ = rustix::io::read(signals, &mut records);
        }
        while let Some(exit) = self.platform.reap()? {
            match exit.who {
                Who::Runtime => self.runtime_ended(exit.status),
                Who::Extension(slot) => self.extension_ended(slot, exit)?,
            }
        }
        Ok(())
    }

    fn runtime_ended(&mut self, status: ExitStatus) {
        self.runtime_runs = false;
        // Whatever it started ends with it: then its pipes and connections end too.
        self.platform.kill_runtime();
        match &mut self.life {
            Life::Ending(ending) => ending.runtime_status = Some(status),
            Life::Absent | Life::Registering | Life::Alive => {
                self.begin_ending(ShutdownReason::Failure, Cause::Runtime(status));
            }
        }
    }

    fn extension_ended(&mut self, slot: usize, exit: Exit) -> Result<(), Ending> {
        self.extensions_run &= !(1 << slot);
        if matches!(self.life, Life::Ending(_) | Life::Absent) {
            // Nobody listens there any more.
            self.server.telemetry.leave(slot);
            self.close_sink(slot);
            return Ok(());
        }
        if let Some(errno) = exit.launch_error {
            let denied = matches!(errno, Errno::ACCESS | Errno::PERM);
            let error_type = if denied { "PermissionDenied" } else { "UnknownError" };
            self.server.extensions_mut().launch_error(slot, error_type);
        }
        self.drain_log(2 + slot)?;
        if self.runtime_runs && self.platform.out_of_memory() {
            // The kernel ends all of them then: that is the end of the runtime, whoever is reaped first.
            self.begin_ending(ShutdownReason::Failure, Cause::Runtime(ExitStatus::Signal(9)));
            return Ok(());
        }
        self.extension_failed(slot, Some(exit.status).filter(|_| exit.launch_error.is_none()))
    }

    /// An extension takes everything else with it.
    fn extension_failed(&mut self, slot: usize, status: Option<ExitStatus>) -> Result<(), Ending> {
        let state = self.server.extensions().get(slot).map(|extension| extension.state());
        let fault = match state {
            Some(ExtensionState::LaunchError) => ExtensionFault::LaunchError,
            Some(ExtensionState::InitError) => ExtensionFault::InitError,
            Some(ExtensionState::ExitError) => ExtensionFault::ExitError,
            _ => ExtensionFault::Crash,
        };
        let mut message = [0; MESSAGE_MAX];
        let message = match status {
            None => "extension could not be started",
            Some(ExitStatus::Code(0)) => "exit code 0",
            Some(status) => describe(status, "", &mut message),
        };
        let failure = Failure { status: "error", error_type: fault.error_type(), message };
        let id = self.server.fail(failure, &self.platform);
        if let Some(extension) = self.server.extensions().get(slot) {
            let name = extension.name();
            let mut buffer = [0; votive_protocol::limits::EXTENSION_NAME_MAX];
            let len = name.len().min(buffer.len());
            if let (Some(to), Some(from)) = (buffer.get_mut(..len), name.as_bytes().get(..len)) {
                to.copy_from_slice(from);
            }
            let name = core::str::from_utf8(buffer.get(..len).unwrap_or(&[])).unwrap_or("");
            self.server.outbox.push(&GuestFrame::ExtensionExited(ExtensionExited {
                name,
                fault,
                status,
                id,
            }));
        }
        self.begin_ending(ShutdownReason::Failure, Cause::Told);
        self.flush_stirred()
    }
}

const NOT_CONFIGURED: Ending = Ending::Fault(Problem::without_errno(FaultCode::Frame, "Configure"));

/// How a process ended, in the words of AWS's emulator, behind `before`.
pub(super) fn describe<'a>(status: ExitStatus, before: &str, buffer: &'a mut [u8]) -> &'a str {
    let mut writer = Writer::new(buffer);
    writer.push(before.as_bytes());
    match status {
        ExitStatus::Code(code) => {
            writer.push(b"exit status ");
            writer.push_decimal(u64::from(code));
        }
        ExitStatus::Signal(signal) => {
            writer.push(b"signal: ");
            match signal {
                6 => writer.push(b"aborted"),
                9 => writer.push(b"killed"),
                11 => writer.push(b"segmentation fault"),
                15 => writer.push(b"terminated"),
                other => writer.push_decimal(u64::from(other)),
            }
        }
    }
    let len = writer.finish().unwrap_or(0);
    core::str::from_utf8(buffer.get(..len).unwrap_or(&[])).unwrap_or("")
}

/// The end of a runtime that nobody asked for, as a failure.
pub(super) fn runtime_failure<'a>(status: ExitStatus, buffer: &'a mut [u8]) -> Failure<'a> {
    let message = match status {
        ExitStatus::Code(0) => "Runtime exited without providing a reason",
        status => describe(status, "Runtime exited with error: ", buffer),
    };
    Failure { status: "error", error_type: "Runtime.ExitError", message }
}
