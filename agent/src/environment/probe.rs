//! What the VMM is asked, and how long it may leave that unanswered.

use std::time::Duration;

use crate::clock::Moment;
use crate::event::Action;
use crate::limits::PROBE_PERIOD;

/// Whether the guest is paused, and whether the VMM is there to do it.
#[derive(Debug)]
pub(super) struct Probe {
    /// How long an answer may take; without it nothing is asked.
    timeout: Option<Duration>,
    paused: bool,
    /// Questions without an answer yet, and since when the eldest of them is.
    unanswered: u32,
    since: Moment,
    /// When the VMM is asked next although there is nothing to ask for. Only while its guest runs.
    next: Option<Moment>,
}

impl Probe {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, paused: false, unanswered: 0, since: Moment::default(), next: None }
    }

    /// The guest spoke for the first time: the VMM serves its control channel.
    pub(super) fn start(&mut self, now: Moment) {
        self.next = self.timeout.map(|_| now + PROBE_PERIOD);
    }

    /// Has the guest paused, unless it is.
    pub(super) fn pause(&mut self, now: Moment) -> Option<Action> {
        self.timeout?;
        if std::mem::replace(&mut self.paused, true) {
            return None;
        }
        self.next = None;
        self.ask(now);
        Some(Action::Pause)
    }

    /// Has the guest run, unless it does.
    pub(super) fn resume(&mut self, now: Moment) -> Option<Action> {
        if !std::mem::replace(&mut self.paused, false) {
            return None;
        }
        self.next = Some(now + PROBE_PERIOD);
        self.ask(now);
        Some(Action::Resume)
    }

    /// The VMM answered the eldest question. Answers without a question count for nothing.
    pub(super) fn answered(&mut self, now: Moment) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.since = now;
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        let timeout = self.timeout?;
        if self.unanswered > 0 { Some(self.since + timeout) } else { self.next }
    }

    /// What is due at `now`: a question, or the time-out that has passed.
    pub(super) fn on_tick(&mut self, now: Moment) -> Result<Option<Action>, Duration> {
        let Some(timeout) = self.timeout else { return Ok(None) };
        if self.unanswered > 0 {
            return if now < self.since + timeout { Ok(None) } else { Err(timeout) };
        }
        match self.next {
            Some(next) if next <= now => {
                self.next = Some(now + PROBE_PERIOD);
                self.ask(now);
                Ok(Some(Action::Resume))
            }
            _ => Ok(None),
        }
    }

    fn ask(&mut self, now: Moment) {
        if self.unanswered == 0 {
            self.since = now;
        }
        self.unanswered = self.unanswered.saturating_add(1);
    }
}
