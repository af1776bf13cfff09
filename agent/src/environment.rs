//! One execution environment, a microVM for one version of one function: a state machine without input or output.
//!
//! ```text
//!              Hello                 Ready              invoke
//!   Creating ---------> Initialising -------> Idle(warm) ------> Busy
//!      |                    |                     ^               | |
//!      |      error, exit,  |                     +---- Done -----+ |
//!      |      time-out      v      exited                 exit,     |
//!      |               Resetting ----------> Idle(cold)<-- time-out +
//!      |                                          |
//!      |                                          +-- invoke --> Busy, init runs again inside
//!      v
//!    Dying (killed, or ending by itself) ----> Gone       from every state
//! ```
//! It takes one invocation at a time. Every wait has an end: [`Environment::deadline`] says when to send it
//! [`Event::Tick`]. `/tmp` and everything else of the guest lives through a reset of the runtime, nothing through `Gone`.

use std::time::Duration;

use votive_protocol::{InvocationId, PhaseName, ResetReason, RuntimeErrorScope, RuntimeExited};

use crate::clock::Moment;
use crate::event::{Action, Event, GoneReason, GuestEvent, InitReport};
use crate::invocation::{Ending, FunctionError, Invocation, InvocationSpec, Step, complete};
use crate::limits::{BOOT_TIMEOUT, KILL_TIMEOUT, LOST_LINK_GRACE, RESET_TIMEOUT, SHUTDOWN_TIMEOUT};

#[cfg(test)]
mod tests;

/// An execution environment.
#[derive(Debug)]
pub struct Environment {
    init_timeout: Duration,
    /// How long the first init phase took, until an invocation has told it.
    init: Option<Duration>,
    state: State,
}

#[derive(Debug)]
enum State {
    Creating { deadline: Moment },
    Initialising { since: Moment },
    Resetting { deadline: Moment },
    Idle { runtime: Runtime },
    Busy(Box<Busy>),
    Dying(Box<Dying>),
    Gone,
}

/// What the next invocation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runtime {
    /// A runtime that waits for it.
    Warm,
    /// None: PID 1 starts one when the invocation comes.
    Cold,
}

#[derive(Debug)]
struct Busy {
    invocation: Invocation,
    init: Option<Duration>,
    /// The init phase inside this invocation is under way.
    starting: bool,
    /// Why the runtime is being killed, when that was asked for, and until when it may take.
    reset: Option<(Ending, Moment)>,
}

#[derive(Debug)]
struct Dying {
    reason: GoneReason,
    /// Whether the end of the process tells more than `reason`.
    reason_open: bool,
    killed: bool,
    deadline: Moment,
    invocation: Option<(Invocation, Option<Duration>, Moment)>,
}

/// An invocation was given to an environment that cannot take one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment is not idle")]
pub struct NotIdle;

impl Environment {
    /// An environment whose microVM was started at `now`.
    #[must_use]
    pub fn new(init_timeout: Duration, now: Moment) -> Self {
        let deadline = now + BOOT_TIMEOUT;
        Self { init_timeout, init: None, state: State::Creating { deadline } }
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Creating { deadline } | State::Resetting { deadline } => Some(*deadline),
            State::Initialising { since } => Some(*since + self.init_timeout),
            State::Busy(busy) => Some(match &busy.reset {
                Some((_, deadline)) => *deadline,
                None => busy.invocation.deadline(),
            }),
            State::Dying(dying) => Some(dying.deadline),
            State::Idle { .. } | State::Gone => None,
        }
    }

    /// Whether an invocation can be taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle { .. })
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Begins an invocation.
    ///
    /// # Errors
    /// [`NotIdle`] in every other state.
    pub fn invoke(&mut self, spec: InvocationSpec, now: Moment) -> Result<Vec<Action>, NotIdle> {
        let State::Idle { runtime } = self.state else {
            return Err(NotIdle);
        };
        let id = spec.id;
        let invocation = Invocation::new(spec, now);
        let starting = runtime == Runtime::Cold;
        let init = self.init.take();
        self.state = State::Busy(Box::new(Busy { invocation, init, starting, reset: None }));
        Ok(vec![Action::Invoke(id)])
    }

    /// Ends the environment: the guest is asked to power off, and killed if it does not.
    pub fn shutdown(&mut self, now: Moment) -> Vec<Action> {
        if matches!(self.state, State::Dying(_) | State::Gone) {
            return Vec::new();
        }
        self.start_dying(GoneReason::Shutdown, now + SHUTDOWN_TIMEOUT, now);
        vec![Action::Shutdown]
    }

    /// Ends the environment at once, for `reason`.
    pub fn kill(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        match &mut self.state {
            State::Gone => Vec::new(),
            State::Dying(dying) if dying.killed => Vec::new(),
            State::Dying(dying) => {
                dying.killed = true;
                dying.deadline = now + KILL_TIMEOUT;
                vec![Action::Kill]
            }
            _ => self.die(reason, now),
        }
    }

    /// Takes an event that happened at `now`.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Action> {
        match event {
            Event::Guest(event) => self.on_guest(event, now),
            Event::LinkClosed(None) => self.on_link_lost(GoneReason::LinkClosed, now),
            Event::LinkClosed(Some(error)) if error.is_violation() => {
                self.kill(GoneReason::Violation(error.to_string()), now)
            }
            Event::LinkClosed(Some(_)) => self.on_link_lost(GoneReason::LinkClosed, now),
            Event::MicrovmEnded(end) => self.on_gone(GoneReason::MicrovmEnded(end), now),
            Event::Tick => self.on_tick(now),
        }
    }

    fn on_guest(&mut self, event: GuestEvent, now: Moment) -> Vec<Action> {
        if let GuestEvent::Log(stream, bytes) = event {
            // A dying guest's last words count too; they are often the reason.
            return vec![Action::Log(stream, bytes)];
        }
        if let GuestEvent::Fault { code, errno, detail } = event {
            return self.on_fault(GoneReason::Fault { code, errno, detail }, now);
        }
        match &mut self.state {
            State::Creating { .. } => match event {
                GuestEvent::Hello(hello) if hello.version == votive_protocol::VERSION => {
                    self.state = State::Initialising { since: now };
                    vec![Action::Configure]
                }
                GuestEvent::Hello(hello) => {
                    let version = hello.version;
                    let text = format!("the guest speaks version {version} of the protocol");
                    self.kill(GoneReason::Violation(text), now)
                }
                _ => self.violation("a frame before Hello", now),
            },
            State::Initialising { since } => {
                let since = *since;
                self.on_initialising(event, since, now)
            }
            State::Resetting { .. } => match event {
                GuestEvent::RuntimeExited(_) => self.become_cold(),
                // What the runtime did before it was killed may still be on its way.
                GuestEvent::Phase(_) | GuestEvent::Ready(_) | GuestEvent::RuntimeError { .. } => {
                    Vec::new()
                }
                _ => self.violation("an answer without an invocation", now),
            },
            State::Idle { runtime } => match event {
                GuestEvent::RuntimeExited(_) => {
                    *runtime = Runtime::Cold;
                    Vec::new()
                }
                _ => self.violation("a frame without an invocation", now),
            },
            State::Busy(_) => self.on_busy(event, now),
            State::Dying(_) | State::Gone => Vec::new(),
        }
    }

    fn on_initialising(&mut self, event: GuestEvent, since: Moment, now: Moment) -> Vec<Action> {
        let duration = now.since(since);
        match event {
            GuestEvent::Phase(_) => Vec::new(),
            GuestEvent::Ready(_) => {
                self.init = Some(duration);
                self.state = State::Idle { runtime: Runtime::Warm };
                vec![Action::Idle]
            }
            GuestEvent::RuntimeError { scope: RuntimeErrorScope::Init, error_type, .. } => {
                self.state = State::Resetting { deadline: now + RESET_TIMEOUT };
                let report =
                    InitReport { duration, inside_invocation: false, timed_out: false, error_type };
                vec![Action::InitFailed(report), Action::Reset(ResetReason::Failure)]
            }
            GuestEvent::RuntimeExited(exited) => {
                let report = InitReport {
                    duration,
                    inside_invocation: false,
                    timed_out: false,
                    error_type: exit_error_type(exited),
                };
                let mut actions = vec![Action::InitFailed(report)];
                actions.append(&mut self.become_cold());
                actions
            }
            _ => self.violation("an answer without an invocation", now),
        }
    }

    fn on_busy(&mut self, event: GuestEvent, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        if let GuestEvent::RuntimeExited(exited) = event {
            return self.on_exit(exited, now);
        }
        if busy.reset.is_some() {
            // The runtime is being killed: what it did before may still be on its way.
            return Vec::new();
        }
        match event {
            GuestEvent::Phase(_) if busy.starting => Vec::new(),
            GuestEvent::Ready(phase) if busy.starting && phase.name == PhaseName::RuntimeReady => {
                busy.starting = false;
                Vec::new()
            }
            GuestEvent::RuntimeError { scope: RuntimeErrorScope::Init, error_type, body }
                if busy.starting =>
            {
                let id = busy.invocation.id();
                let error = complete(id, FunctionError { error_type, payload: body });
                let report = InitReport {
                    duration: now.since(busy.invocation.started()),
                    inside_invocation: true,
                    timed_out: false,
                    error_type: error.error_type.clone(),
                };
                busy.reset = Some((Ending::InitFailed(error), now + RESET_TIMEOUT));
                vec![Action::InitFailed(report), Action::Reset(ResetReason::Failure)]
            }
            GuestEvent::ResponseStart { .. }
            | GuestEvent::ResponsePayload(_)
            | GuestEvent::ResponseEnd { .. }
            | GuestEvent::RuntimeError { scope: RuntimeErrorScope::Invocation(_), .. }
            | GuestEvent::Done(_) => self.on_answer(event, now),
            _ => self.violation("a frame that does not belong to an invocation", now),
        }
    }

    fn on_answer(&mut self, event: GuestEvent, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        match busy.invocation.on(event) {
            Ok(Step::Nothing) => Vec::new(),
            Ok(Step::Respond(mode, bytes)) => vec![Action::Respond(mode, bytes)],
            Ok(Step::Released) => self.finish(Ending::Released, Runtime::Warm, now),
            Err(violation) => self.kill(GoneReason::Violation(violation.to_string()), now),
        }
    }

    /// The runtime ended while an invocation was under way: killed for it, or by itself.
    fn on_exit(&mut self, exited: RuntimeExited, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        if exited.id.is_some_and(|id| id != busy.invocation.id()) {
            return self.violation("the end of a runtime of another invocation", now);
        }
        if exited.id.is_none() && busy.reset.is_none() {
            // The runtime before this invocation ended as the invocation was sent: PID 1 starts another one for it.
            busy.starting = true;
            return Vec::new();
        }
        busy.invocation.note_memory(exited.memory_peak_bytes);
        let mut actions = Vec::new();
        let ending = match busy.reset.take() {
            Some((ending, _)) => ending,
            None => {
                if busy.starting {
                    actions.push(Action::InitFailed(InitReport {
                        duration: now.since(busy.invocation.started()),
                        inside_invocation: true,
                        timed_out: false,
                        error_type: exit_error_type(exited),
                    }));
                }
                Ending::Exited(exited)
            }
        };
        actions.append(&mut self.finish(ending, Runtime::Cold, now));
        actions
    }

    fn finish(&mut self, ending: Ending, runtime: Runtime, now: Moment) -> Vec<Action> {
        match std::mem::replace(&mut self.state, State::Idle { runtime }) {
            State::Busy(busy) => {
                let outcome = busy.invocation.end(ending, busy.init, now);
                vec![Action::Finished(Box::new(outcome)), Action::Idle]
            }
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    fn become_cold(&mut self) -> Vec<Action> {
        self.state = State::Idle { runtime: Runtime::Cold };
        vec![Action::Idle]
    }

    fn on_tick(&mut self, now: Moment) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match &mut self.state {
            State::Creating { .. } => self.kill(GoneReason::BootTimeout(BOOT_TIMEOUT), now),
            State::Initialising { since } => {
                let report = InitReport {
                    duration: now.since(*since),
                    inside_invocation: false,
                    timed_out: true,
                    error_type: String::new(),
                };
                self.state = State::Resetting { deadline: now + RESET_TIMEOUT };
                vec![Action::InitFailed(report), Action::Reset(ResetReason::Timeout)]
            }
            State::Resetting { .. } => self.kill(GoneReason::ResetTimeout(RESET_TIMEOUT), now),
            State::Busy(busy) if busy.reset.is_none() => {
                busy.reset = Some((Ending::TimedOut, now + RESET_TIMEOUT));
                let mut actions = Vec::new();
                if busy.starting {
                    actions.push(Action::InitFailed(InitReport {
                        duration: now.since(busy.invocation.started()),
                        inside_invocation: true,
                        timed_out: true,
                        error_type: String::new(),
                    }));
                }
                actions.push(Action::Reset(ResetReason::Timeout));
                actions
            }
            State::Busy(_) => self.kill(GoneReason::ResetTimeout(RESET_TIMEOUT), now),
            State::Dying(dying) if dying.killed => {
                // SIGKILL did nothing: the process is stuck in the kernel. There is nothing more to do for it.
                let reason = dying.reason.clone();
                self.on_gone(reason, now)
            }
            State::Dying(dying) => {
                dying.killed = true;
                dying.deadline = now + KILL_TIMEOUT;
                vec![Action::Kill]
            }
            State::Idle { .. } | State::Gone => Vec::new(),
        }
    }

    /// PID 1 said that it cannot go on, and powers off.
    fn on_fault(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        if !matches!(self.state, State::Dying(_) | State::Gone) {
            self.start_dying(reason, now + SHUTDOWN_TIMEOUT, now);
        }
        Vec::new()
    }

    /// The end of the process, which tells more, is likely on its way.
    fn on_link_lost(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        if !matches!(self.state, State::Dying(_) | State::Gone) {
            self.start_dying(reason, now + LOST_LINK_GRACE, now);
            if let State::Dying(dying) = &mut self.state {
                dying.reason_open = true;
            }
        }
        Vec::new()
    }

    fn violation(&mut self, what: &str, now: Moment) -> Vec<Action> {
        self.kill(GoneReason::Violation(what.to_owned()), now)
    }

    fn die(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        self.start_dying(reason, now + KILL_TIMEOUT, now);
        if let State::Dying(dying) = &mut self.state {
            dying.killed = true;
        }
        vec![Action::Kill]
    }

    fn start_dying(&mut self, reason: GoneReason, deadline: Moment, now: Moment) {
        let invocation = match std::mem::replace(&mut self.state, State::Gone) {
            State::Busy(busy) => Some((busy.invocation, busy.init, now)),
            _ => None,
        };
        let (reason_open, killed) = (false, false);
        self.state =
            State::Dying(Box::new(Dying { reason, reason_open, killed, deadline, invocation }));
    }

    /// The process is gone, for `end` unless a better reason is known.
    fn on_gone(&mut self, end: GoneReason, now: Moment) -> Vec<Action> {
        let (reason, invocation) = match std::mem::replace(&mut self.state, State::Gone) {
            State::Gone => return Vec::new(),
            State::Dying(dying) => {
                let reason = if dying.reason_open { end } else { dying.reason };
                (reason, dying.invocation)
            }
            State::Busy(busy) => (end, Some((busy.invocation, busy.init, now))),
            _ => (end, None),
        };
        let mut actions = Vec::new();
        if let Some((invocation, init, ended)) = invocation {
            let ending = Ending::Lost(reason.clone());
            actions.push(Action::Finished(Box::new(invocation.end(ending, init, ended))));
        }
        actions.push(Action::Gone(reason));
        actions
    }
}

fn exit_error_type(exited: RuntimeExited) -> String {
    let error_type = if exited.out_of_memory { "Runtime.OutOfMemory" } else { "Runtime.ExitError" };
    error_type.to_owned()
}

/// The id under which an environment's invocation is known, for tests and tables.
#[must_use]
pub fn new_invocation_id() -> InvocationId {
    InvocationId(uuid::Uuid::new_v4().into_bytes())
}
