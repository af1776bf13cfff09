//! What a guest says, in each state of its environment.

use votive_protocol::{ResetReason, RuntimeErrorScope, RuntimeExited};

use crate::clock::Moment;
use crate::environment::{Environment, Runtime, State};
use crate::event::{Action, ExtensionEnd, GoneReason, GuestEvent, InitReport};
use crate::invocation::{Ending, FunctionError, Step, complete};
use crate::limits::RESET_TIMEOUT;

impl Environment {
    pub(super) fn on_guest(&mut self, event: GuestEvent, now: Moment) -> Vec<Action> {
        let event = match event {
            // A dying guest's last words count too; they are often the reason.
            GuestEvent::Log(stream, bytes) => return vec![Action::Log(stream, bytes)],
            GuestEvent::Fault { code, errno, detail } => {
                return self.on_fault(GoneReason::Fault { code, errno, detail }, now);
            }
            event => event,
        };
        match &mut self.state {
            State::Dying(_) | State::Gone => return Vec::new(),
            State::Creating { .. } => return self.on_hello(&event, now),
            _ => {}
        }
        match event {
            GuestEvent::Extension(extension) => return vec![Action::Extension(extension)],
            GuestEvent::Subscription(subscription) => {
                return vec![Action::Subscription(subscription)];
            }
            _ => {}
        }
        match &mut self.state {
            State::Initialising { since } => {
                let since = *since;
                self.on_initialising(event, since, now)
            }
            State::Resetting { .. } => match event {
                GuestEvent::Down => self.become_idle(Runtime::Cold, now),
                // What the runtime did before it was ended may still be on its way.
                GuestEvent::Hello(_) | GuestEvent::Fault { .. } => {
                    self.violation("a frame out of order", now)
                }
                _ => Vec::new(),
            },
            State::Idle { runtime } => match event {
                GuestEvent::RuntimeExited(_) | GuestEvent::ExtensionExited(_) => {
                    *runtime = Runtime::Cold;
                    Vec::new()
                }
                GuestEvent::Down if *runtime == Runtime::Cold => Vec::new(),
                _ => self.violation("a frame without an invocation", now),
            },
            State::Busy(_) => self.on_busy(event, now),
            State::Creating { .. } | State::Dying(_) | State::Gone => Vec::new(),
        }
    }

    fn on_hello(&mut self, event: &GuestEvent, now: Moment) -> Vec<Action> {
        match event {
            GuestEvent::Hello(hello) if hello.version == votive_protocol::VERSION => {
                self.state = State::Initialising { since: now };
                self.probe.start(now);
                vec![Action::Configure]
            }
            GuestEvent::Hello(hello) => {
                let version = hello.version;
                let text = format!("the guest speaks version {version} of the protocol");
                self.kill(GoneReason::Violation(text), now)
            }
            _ => self.violation("a frame before Hello", now),
        }
    }

    fn on_initialising(&mut self, event: GuestEvent, since: Moment, now: Moment) -> Vec<Action> {
        let duration = now.since(since);
        let error_type = match event {
            GuestEvent::Phase(_) => return Vec::new(),
            GuestEvent::Ready(_) => {
                self.init = Some(duration);
                let mut actions = vec![Action::Throttle];
                actions.append(&mut self.become_idle(Runtime::Warm, now));
                return actions;
            }
            GuestEvent::RuntimeError { scope: RuntimeErrorScope::Init, error_type, .. } => {
                self.state = State::Resetting { deadline: now + RESET_TIMEOUT };
                let report =
                    InitReport { duration, inside_invocation: false, timed_out: false, error_type };
                return vec![Action::InitFailed(report), Action::Reset(ResetReason::Failure)];
            }
            GuestEvent::RuntimeExited(exited) => exit_error_type(exited),
            GuestEvent::ExtensionExited(end) => end.fault.error_type().to_owned(),
            _ => return self.violation("an answer without an invocation", now),
        };
        self.state = State::Resetting { deadline: now + RESET_TIMEOUT };
        let report =
            InitReport { duration, inside_invocation: false, timed_out: false, error_type };
        vec![Action::InitFailed(report)]
    }

    fn on_busy(&mut self, event: GuestEvent, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        match event {
            GuestEvent::RuntimeExited(exited) => return self.on_exit(exited, now),
            GuestEvent::ExtensionExited(end) => return self.on_extension_exit(end, now),
            GuestEvent::Down => return self.on_busy_down(now),
            // The runtime is being killed: what it did before may still be on its way.
            _ if busy.reset.is_some() => return Vec::new(),
            _ => {}
        }
        match event {
            GuestEvent::Phase(_) if busy.starting => Vec::new(),
            GuestEvent::Ready(_) if busy.starting => {
                busy.starting = false;
                vec![Action::Throttle]
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
            Ok(Step::Head(content_type)) => vec![Action::Head(content_type)],
            Ok(Step::Respond(mode, bytes)) => vec![Action::Respond(mode, bytes)],
            Ok(Step::Answered) => {
                busy.invocation.answered().cloned().map(Action::Answered).into_iter().collect()
            }
            Ok(Step::Released) => {
                let mut actions = self.end_invocation(Ending::Released, now);
                actions.append(&mut self.become_idle(Runtime::Warm, now));
                actions
            }
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
        if let Some((ending, _)) = busy.reset.take() {
            return self.end_invocation(ending, now);
        }
        let mut actions = inside_failure(busy.starting, exit_error_type(exited), self, now);
        actions.append(&mut self.end_invocation(Ending::Exited(exited), now));
        actions
    }

    /// An extension failed, and PID 1 ends all that is left.
    fn on_extension_exit(&mut self, end: ExtensionEnd, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        if end.id.is_some_and(|id| id != busy.invocation.id()) {
            return self.violation("the end of an extension of another invocation", now);
        }
        if busy.reset.is_some() {
            return Vec::new();
        }
        if end.id.is_none() {
            busy.starting = true;
            return Vec::new();
        }
        let error_type = end.fault.error_type().to_owned();
        let mut actions = inside_failure(busy.starting, error_type, self, now);
        actions.append(&mut self.end_invocation(Ending::ExtensionFailed(end), now));
        actions
    }

    /// Nothing of the function's runs any more, and no runtime was there whose end could have told.
    fn on_busy_down(&mut self, now: Moment) -> Vec<Action> {
        let State::Busy(busy) = &mut self.state else {
            return Vec::new();
        };
        match busy.reset.take() {
            Some((ending, _)) => {
                let mut actions = self.end_invocation(ending, now);
                actions.append(&mut self.become_idle(Runtime::Cold, now));
                actions
            }
            // What ran before this invocation is down; what runs for it follows.
            None if busy.starting => Vec::new(),
            None => self.violation("an end of everything that nobody asked for", now),
        }
    }
}

/// The report of an init phase that failed inside an invocation, if it was one.
fn inside_failure(
    starting: bool,
    error_type: String,
    environment: &Environment,
    now: Moment,
) -> Vec<Action> {
    match &environment.state {
        State::Busy(busy) if starting => vec![Action::InitFailed(InitReport {
            duration: now.since(busy.invocation.started()),
            inside_invocation: true,
            timed_out: false,
            error_type,
        })],
        _ => Vec::new(),
    }
}

fn exit_error_type(exited: RuntimeExited) -> String {
    let error_type = if exited.out_of_memory { "Runtime.OutOfMemory" } else { "Runtime.ExitError" };
    error_type.to_owned()
}
