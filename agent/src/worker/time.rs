//! The clocks that a worker goes by.

use std::time::Duration;

use tokio::time::Instant;

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

    /// Waits until the deadline of an environment; for ever without one.
    pub async fn sleep_until(&self, deadline: Option<Moment>) {
        match deadline {
            Some(deadline) => tokio::time::sleep(deadline.since(self.now())).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the deadline of a worker or a little less; for ever without one.
    pub async fn sleep_towards(&self, deadline: Option<BootTime>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        let wait = deadline.since(self.boot_time());
        match self.0 {
            Source::Host => tokio::time::sleep(wait.min(SLEEP_MAX)).await,
            Source::Runtime(_) => tokio::time::sleep(wait).await,
        }
    }
}
