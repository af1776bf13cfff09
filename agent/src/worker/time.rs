//! The clocks that a worker goes by.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::clock::{BootTime, Moment};

/// How long a sleep may be at most by the host's clocks: the runtime's timers stand still while the host sleeps, leases do not.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Where a worker takes the time from.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Host,
    Runtime(Instant),
}

impl Clock {
    /// The host's `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn host() -> Self {
        Self(Source::Host)
    }

    /// The asynchronous runtime's own clock, which a test can stop and wind on.
    #[must_use]
    pub fn of_runtime() -> Self {
        Self(Source::Runtime(Instant::now()))
    }

    /// Now, for invocations.
    #[must_use]
    pub fn now(&self) -> Moment {
        match self.0 {
            Source::Host => Moment::now(),
            Source::Runtime(begun) => Moment::default() + begun.elapsed(),
        }
    }

    /// Now, for leases.
    #[must_use]
    pub fn boot_time(&self) -> BootTime {
        match self.0 {
            Source::Host => BootTime::now(),
            Source::Runtime(begun) => BootTime::default() + begun.elapsed(),
        }
    }

    /// Waits until `deadline`; for ever without one.
    pub async fn sleep_until(&self, deadline: Option<Moment>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        let wait = deadline.since(self.now());
        // The runtime's timers know full milliseconds only: what is due already must not wait for the next one.
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long it is until `deadline`, or until the host's clocks are to be looked at again.
    fn until(&self, deadline: BootTime) -> Duration {
        let wait = deadline.since(self.boot_time());
        match self.0 {
            Source::Host => wait.min(SLEEP_MAX),
            Source::Runtime(_) => wait,
        }
    }
}

/// A timer that a loop keeps between its turns.
///
/// Deadlines of an invocation move with each of its steps and are seldom reached. A timer that is set anew for each would
/// interrupt the event loop's wait as often, so this one is only ever set earlier: one that runs out before its deadline is
/// set again then.
#[derive(Debug)]
pub(crate) struct Alarm {
    clock: Clock,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, timer: None }
    }

    /// Waits until the deadline of an environment; for ever without one.
    pub(crate) async fn wait(&mut self, deadline: Option<Moment>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        loop {
            self.run_out(deadline.since(self.clock.now())).await;
            if deadline <= self.clock.now() {
                return;
            }
        }
    }

    /// Waits until the deadline of a worker or less; for ever without one.
    pub(crate) async fn wait_towards(&mut self, deadline: Option<BootTime>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        self.run_out(self.clock.until(deadline)).await;
    }

    /// Waits for as long as `wait` at most.
    async fn run_out(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.is_elapsed() || end < timer.deadline() {
            timer.as_mut().reset(end);
        }
        timer.await;
    }
}
