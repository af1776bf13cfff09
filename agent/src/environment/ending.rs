//! How an environment comes to its end.

use std::time::Duration;

use crate::clock::Moment;
use crate::environment::{Environment, State};
use crate::event::{Action, GoneReason};
use crate::invocation::{Ending, Invocation, InvocationSpec, never_begun};
use crate::limits::{KILL_TIMEOUT, LOST_LINK_GRACE, SHUTDOWN_TIMEOUT};

#[derive(Debug)]
pub(super) struct Dying {
    reason: GoneReason,
    /// Whether the end of the process tells more than `reason`.
    reason_open: bool,
    pub(super) killed: bool,
    pub(super) deadline: Moment,
    invocation: Option<Interrupted>,
}

/// What the end came over.
#[derive(Debug)]
enum Interrupted {
    Begun { invocation: Invocation, init: Option<Duration>, ended: Moment },
    Waiting(InvocationSpec),
}

impl Environment {
    /// PID 1 said that it cannot go on, and powers off.
    pub(super) fn on_fault(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        if !matches!(self.state, State::Dying(_) | State::Gone) {
            self.start_dying(reason, now + SHUTDOWN_TIMEOUT, now);
        }
        Vec::new()
    }

    /// The end of the process, which tells more, is likely on its way.
    pub(super) fn on_link_lost(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        if !matches!(self.state, State::Dying(_) | State::Gone) {
            self.start_dying(reason, now + LOST_LINK_GRACE, now);
            if let State::Dying(dying) = &mut self.state {
                dying.reason_open = true;
            }
        }
        Vec::new()
    }

    pub(super) fn violation(&mut self, what: &str, now: Moment) -> Vec<Action> {
        self.kill(GoneReason::Violation(what.to_owned()), now)
    }

    pub(super) fn die(&mut self, reason: GoneReason, now: Moment) -> Vec<Action> {
        self.start_dying(reason, now + KILL_TIMEOUT, now);
        if let State::Dying(dying) = &mut self.state {
            dying.killed = true;
        }
        vec![Action::Kill]
    }

    pub(super) fn start_dying(&mut self, reason: GoneReason, deadline: Moment, now: Moment) {
        let invocation = self.interrupt(now);
        let (reason_open, killed) = (false, false);
        self.state =
            State::Dying(Box::new(Dying { reason, reason_open, killed, deadline, invocation }));
    }

    pub(super) fn on_dying_tick(&mut self, now: Moment) -> Vec<Action> {
        let State::Dying(dying) = &mut self.state else {
            return Vec::new();
        };
        if dying.killed {
            // SIGKILL did nothing: the process is stuck in the kernel. There is nothing more to do for it.
            let reason = dying.reason.clone();
            return self.on_gone(reason, now);
        }
        dying.killed = true;
        dying.deadline = now + KILL_TIMEOUT;
        vec![Action::Kill]
    }

    /// The process is gone, for `end` unless a better reason is known.
    pub(super) fn on_gone(&mut self, end: GoneReason, now: Moment) -> Vec<Action> {
        let (reason, interrupted) = match self.state {
            State::Gone => return Vec::new(),
            State::Dying(_) => match std::mem::replace(&mut self.state, State::Gone) {
                State::Dying(dying) if dying.reason_open => (end, dying.invocation),
                State::Dying(dying) => (dying.reason, dying.invocation),
                _ => (end, None),
            },
            _ => (end, self.interrupt(now)),
        };
        self.state = State::Gone;
        let outcome = interrupted.map(|interrupted| match interrupted {
            Interrupted::Begun { invocation, init, ended } => {
                invocation.end(Ending::Lost(reason.clone()), init, ended)
            }
            Interrupted::Waiting(spec) => never_begun(&spec, &reason),
        });
        let mut actions: Vec<_> =
            outcome.map(|it| Action::Finished(Box::new(it))).into_iter().collect();
        actions.push(Action::Gone(reason));
        actions
    }

    fn interrupt(&mut self, now: Moment) -> Option<Interrupted> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Busy(busy) => {
                let (invocation, init) = (busy.invocation, busy.init);
                Some(Interrupted::Begun { invocation, init, ended: now })
            }
            _ => self.waiting.take().map(Interrupted::Waiting),
        }
    }
}
