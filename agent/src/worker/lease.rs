//! The worker's lease: a state machine without input or output.
//!
//! ```text
//!              grant                drain_at, drain              nothing under way,
//!   Unleased ---------> Active -------------------> Draining -------------------> Terminating ---> Terminated
//!                       |    ^                          |         terminate_at                nothing left
//!                       +----+ grant (renewal)          +-- never back
//! ```
//! All moments are of `CLOCK_BOOTTIME`, which goes on while the host sleeps and which nobody can set. Before the end of a
//! lease, from its end backwards: microVMs end themselves ([`LEASE_DEADLINE_MARGIN`]), those that are left are killed
//! ([`LEASE_KILL_MARGIN`]), all are asked to end ([`SHUTDOWN_TIMEOUT`]), the longest invocation may run, a reservation may
//! still be spent.

use std::time::Duration;

use crate::clock::BootTime;
use crate::limits::{
    LEASE_DEADLINE_MARGIN, LEASE_DRAIN_MARGIN, LEASE_KILL_MARGIN, LEASE_MAX, SHUTDOWN_TIMEOUT,
    TIMEOUT_MAX_S,
};
use crate::worker::api::{LeaseError, WorkerState};

#[cfg(test)]
mod tests;

/// One grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it was given.
    pub issued: BootTime,
    /// When nothing may be left of the worker.
    pub expires: BootTime,
    /// What no grant may go beyond: 14 h after the first one.
    pub life_ends: BootTime,
    /// The longest invocation that must end inside it.
    pub longest_invocation: Duration,
}

/// When what has to happen under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// No reservation from here on.
    pub drain_at: BootTime,
    /// Everything is asked to end.
    pub terminate_at: BootTime,
    /// Everything that is left is killed.
    pub kill_at: BootTime,
    /// A microVM that is still there ends itself.
    pub deadline: BootTime,
    /// The end.
    pub expires: BootTime,
}

impl Schedule {
    /// The schedule of a lease that ends at `expires`.
    #[must_use]
    pub fn new(expires: BootTime, longest: Duration, reservation_lifetime: Duration) -> Self {
        let kill_at = expires - LEASE_KILL_MARGIN;
        let terminate_at = kill_at - SHUTDOWN_TIMEOUT;
        let drain_at = terminate_at - (longest + reservation_lifetime + LEASE_DRAIN_MARGIN);
        let deadline = expires - LEASE_DEADLINE_MARGIN;
        Self { drain_at, terminate_at, kill_at, deadline, expires }
    }
}

/// The lease through the worker's life.
#[derive(Clone, Debug)]
pub struct Lease {
    state: WorkerState,
    term: Option<Term>,
    reservation_lifetime: Duration,
}

impl Lease {
    /// No lease yet.
    #[must_use]
    pub fn new(reservation_lifetime: Duration) -> Self {
        Self { state: WorkerState::Unleased, term: None, reservation_lifetime }
    }

    /// What the worker may do.
    #[must_use]
    pub fn state(&self) -> WorkerState {
        self.state
    }

    /// The grant that counts.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// What has to happen when; `None` without a lease.
    #[must_use]
    pub fn schedule(&self) -> Option<Schedule> {
        let term = self.term?;
        Some(Schedule::new(term.expires, term.longest_invocation, self.reservation_lifetime))
    }

    /// What a grant would come to. It counts once it is [applied](Self::apply), which is for the caller to do when it is kept.
    ///
    /// # Errors
    /// [`LeaseError`]
    pub fn plan(
        &self,
        duration: Duration,
        longest_invocation: Duration,
        now: BootTime,
    ) -> Result<Term, LeaseError> {
        if !matches!(self.state, WorkerState::Unleased | WorkerState::Active) {
            return Err(LeaseError::Draining);
        }
        if duration > LEASE_MAX {
            return Err(LeaseError::TooLong { asked: duration, max: LEASE_MAX });
        }
        let longest_allowed = Duration::from_secs(u64::from(TIMEOUT_MAX_S));
        if longest_invocation < Duration::from_secs(1) || longest_invocation > longest_allowed {
            return Err(LeaseError::LongestInvocation { asked: longest_invocation });
        }
        let expires = now + duration;
        let life_ends = self.term.map_or(now + LEASE_MAX, |term| term.life_ends);
        if expires > life_ends {
            return Err(LeaseError::BeyondLife { by: expires.since(life_ends) });
        }
        if self.term.is_some_and(|term| expires < term.expires) {
            return Err(LeaseError::Shorter);
        }
        let schedule = Schedule::new(expires, longest_invocation, self.reservation_lifetime);
        if schedule.drain_at <= now || duration <= expires.since(schedule.drain_at) {
            let min = LEASE_KILL_MARGIN
                + SHUTDOWN_TIMEOUT
                + longest_invocation
                + self.reservation_lifetime
                + LEASE_DRAIN_MARGIN;
            return Err(LeaseError::TooShort { asked: duration, min });
        }
        Ok(Term { issued: now, expires, life_ends, longest_invocation })
    }

    /// Makes a planned or restored grant count.
    pub fn apply(&mut self, term: Term) {
        self.term = Some(term);
        if self.state == WorkerState::Unleased {
            self.state = WorkerState::Active;
        }
    }

    /// Begins the drain. A worker without a lease drains too: it never serves.
    pub fn drain(&mut self) {
        if matches!(self.state, WorkerState::Unleased | WorkerState::Active) {
            self.state = WorkerState::Draining;
        }
    }

    /// Nothing is under way any more.
    pub fn terminate(&mut self) {
        if self.state != WorkerState::Terminated {
            self.state = WorkerState::Terminating;
        }
    }

    /// Nothing is left.
    pub fn terminated(&mut self) {
        self.state = WorkerState::Terminated;
    }

    /// Goes on to the state that `now` asks for.
    pub fn on_tick(&mut self, now: BootTime) {
        let Some(schedule) = self.schedule() else { return };
        if now >= schedule.drain_at {
            self.drain();
        }
        if now >= schedule.terminate_at && self.state == WorkerState::Draining {
            self.terminate();
        }
    }

    /// When [`Self::on_tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        let schedule = self.schedule()?;
        match self.state {
            WorkerState::Active => Some(schedule.drain_at),
            WorkerState::Draining => Some(schedule.terminate_at),
            WorkerState::Unleased | WorkerState::Terminating | WorkerState::Terminated => None,
        }
    }
}
