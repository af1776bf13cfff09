//! One execution environment, a microVM for one version of one function: a state machine without input or output.
//!
//! ```text
//!              Hello                 Ready              invoke
//!   Creating ---------> Initialising -------> Idle(warm) ------> Busy
//!      |                    |                     ^               | |
//!      |      error, exit,  |                     +---- Done -----+ |
//!      |      time-out      v       Down                    exit,   |
//!      |                Resetting ---------> Idle(cold)    time-out |
//!      |                    ^                     |                 |
//!      |                    +---------------------(-----------------+
//!      |                                          +-- invoke --> Busy, init runs again inside
//!      v
//!    Dying (killed, or ending by itself) ----> Gone       from every state
//! ```
//! It takes one invocation at a time. One that comes before it is idle waits in it, and begins without a pause between. While
//! it is idle no vCPU runs. Every wait has an end: [`Environment::deadline`] says when to send it [`Event::Tick`]. `/tmp` and
//! everything else of the guest lives through a reset of the runtime, nothing through `Gone`.

use std::time::Duration;

use votive_protocol::{InvocationId, ResetReason, ShutdownReason};

use crate::clock::Moment;
use crate::event::{Action, Event, GoneReason, InitReport};
use crate::invocation::{Ending, Invocation, InvocationSpec};
use crate::limits::{BOOT_TIMEOUT, KILL_TIMEOUT, RESET_TIMEOUT};
use crate::worker::api::Initialization;

mod ending;
mod guest;
mod probe;
#[cfg(test)]
mod tests;

use ending::Dying;
use probe::Probe;

/// An execution environment.
#[derive(Debug)]
pub struct Environment {
    init_timeout: Duration,
    initialization: Initialization,
    /// How long the first init phase took, until an invocation has told it.
    init: Option<Duration>,
    state: State,
    /// An invocation that came before the environment was idle.
    waiting: Option<InvocationSpec>,
    probe: Probe,
}

/// What an environment is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// How long the init phase may take.
    pub init_timeout: Duration,
    /// Whether it is made ahead of any invocation.
    pub initialization: Initialization,
    /// How long the VMM may take to answer; without it, it is never asked anything and its guest never paused.
    pub hang_timeout: Option<Duration>,
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

/// An invocation was given to an environment that cannot take one now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment takes no invocation now")]
pub struct Unavailable;

impl Environment {
    /// An environment whose microVM was started at `now`.
    #[must_use]
    pub fn new(spec: EnvironmentSpec, now: Moment) -> Self {
        Self {
            init_timeout: spec.init_timeout,
            initialization: spec.initialization,
            init: None,
            state: State::Creating { deadline: now + BOOT_TIMEOUT },
            waiting: None,
            probe: Probe::new(spec.hang_timeout),
        }
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        let own = match &self.state {
            State::Creating { deadline } | State::Resetting { deadline } => Some(*deadline),
            State::Initialising { since } => Some(*since + self.init_timeout),
            State::Busy(busy) => Some(match &busy.reset {
                Some((_, deadline)) => *deadline,
                None => busy.invocation.deadline(),
            }),
            State::Dying(dying) => return Some(dying.deadline),
            State::Idle { .. } => None,
            State::Gone => return None,
        };
        let probe = self.probe.deadline();
        own.into_iter().chain(probe).min()
    }

    /// Whether an invocation would begin at once.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle { .. })
    }

    /// Whether the guest's first frame is still to come.
    #[must_use]
    pub fn is_creating(&self) -> bool {
        matches!(self.state, State::Creating { .. })
    }

    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    /// Whether pieces of an answer can come: the guest may be left waiting with what it sends then, and at no other time.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        match &self.state {
            State::Busy(busy) => busy.reset.is_none() && !busy.invocation.is_answered(),
            _ => false,
        }
    }

    /// Begins an invocation, or has it wait until the environment is idle.
    ///
    /// # Errors
    /// [`Unavailable`] if it has one, or comes to its end.
    pub fn invoke(
        &mut self,
        spec: InvocationSpec,
        now: Moment,
    ) -> Result<Vec<Action>, Unavailable> {
        match &self.state {
            State::Idle { runtime } => {
                let runtime = *runtime;
                Ok(self.begin(spec, runtime, now))
            }
            State::Creating { .. } | State::Initialising { .. } | State::Resetting { .. }
                if self.waiting.is_none() =>
            {
                self.waiting = Some(spec);
                Ok(Vec::new())
            }
            _ => Err(Unavailable),
        }
    }

    /// Ends the environment: the guest is asked to power off, and killed if it does not.
    pub fn shutdown(&mut self, reason: ShutdownReason, now: Moment) -> Vec<Action> {
        if matches!(self.state, State::Dying(_) | State::Gone) {
            return Vec::new();
        }
        if matches!(self.state, State::Creating { .. }) {
            // There is nobody to ask yet.
            return self.kill(GoneReason::Shutdown, now);
        }
        let mut actions = Vec::new();
        actions.extend(self.probe.resume(now));
        self.start_dying(GoneReason::Shutdown, now + crate::limits::SHUTDOWN_TIMEOUT, now);
        actions.push(Action::Shutdown(reason));
        actions
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
            Event::VmmAnswered => {
                self.probe.answered(now);
                Vec::new()
            }
            Event::Tick => self.on_tick(now),
        }
    }

    fn begin(&mut self, spec: InvocationSpec, runtime: Runtime, now: Moment) -> Vec<Action> {
        let id = spec.id;
        let invocation = Invocation::new(spec, now);
        let starting = runtime == Runtime::Cold;
        // The init phase of a provisioned environment is nobody's wait.
        let init = self.init.take().filter(|_| self.initialization == Initialization::OnDemand);
        self.state = State::Busy(Box::new(Busy { invocation, init, starting, reset: None }));
        let mut actions = Vec::new();
        actions.extend(self.probe.resume(now));
        if starting {
            actions.push(Action::Unthrottle);
        }
        actions.push(Action::Invoke(id));
        actions
    }

    /// Nothing is under way in the guest any more: the invocation that waits begins, or the guest is paused.
    fn become_idle(&mut self, runtime: Runtime, now: Moment) -> Vec<Action> {
        if let Some(spec) = self.waiting.take() {
            return self.begin(spec, runtime, now);
        }
        self.state = State::Idle { runtime };
        let mut actions = Vec::new();
        actions.extend(self.probe.pause(now));
        actions.push(Action::Idle);
        actions
    }

    /// Makes the outcome of the invocation under way; the state is for the caller to set.
    fn end_invocation(&mut self, ending: Ending, now: Moment) -> Vec<Action> {
        let deadline = now + RESET_TIMEOUT;
        match std::mem::replace(&mut self.state, State::Resetting { deadline }) {
            State::Busy(busy) => {
                let outcome = busy.invocation.end(ending, busy.init, now);
                vec![Action::Finished(Box::new(outcome))]
            }
            other => {
                self.state = other;
                Vec::new()
            }
        }
    }

    fn on_tick(&mut self, now: Moment) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        if !matches!(self.state, State::Dying(_)) {
            match self.probe.on_tick(now) {
                Ok(None) => {}
                Ok(Some(action)) => return vec![action],
                Err(timeout) => return self.kill(GoneReason::Hung(timeout), now),
            }
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
            State::Busy(busy) if busy.reset.is_none() => time_out(busy, now),
            State::Busy(_) => self.kill(GoneReason::ResetTimeout(RESET_TIMEOUT), now),
            State::Dying(_) => self.on_dying_tick(now),
            State::Idle { .. } | State::Gone => Vec::new(),
        }
    }
}

/// The time of an invocation is up: its caller knows at once, its runtime is ended.
fn time_out(busy: &mut Busy, now: Moment) -> Vec<Action> {
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
    actions.extend(busy.invocation.time_out().cloned().map(Action::Answered));
    actions.push(Action::Reset(ResetReason::Timeout));
    actions
}

/// The id under which an environment's invocation is known, for tests and tables.
#[must_use]
pub fn new_invocation_id() -> InvocationId {
    InvocationId(uuid::Uuid::new_v4().into_bytes())
}
