//! The worker's pulse: its loop is asked every second, and everything that depends on its being alive depends on its answers.
//!
//! Each answer becomes gauges, systemd's status line and a sign of life for its watchdog. No answer, no sign: a loop that
//! hangs is noticed by `/healthz`, by [`WORKER_ANSWER_AGE`] and by the watchdog, and the lease's gauge runs on without it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::service;
use crate::clock::Moment;
use crate::config::value::HumanDuration;
use crate::metrics::{
    CAPACITY_ENVIRONMENTS, CAPACITY_MEMORY, CAPACITY_VCPUS, ENVIRONMENTS, FUNCTION_VERSIONS,
    LEASE_DURATION, LEASE_REMAINING, WORKER_ANSWER_AGE, WORKER_STATE, WORKER_UPTIME,
};
use crate::worker::WorkerHandle;
use crate::worker::api::{LeaseTimes, WorkerState, WorkerStatus};

/// How often the loop is asked.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// How old the last answer of a live loop may be. It answers in microseconds; a host under great load takes longer.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The states with their names in metrics.
const STATES: [(WorkerState, &str); 5] = [
    (WorkerState::Unleased, "unleased"),
    (WorkerState::Active, "active"),
    (WorkerState::Draining, "draining"),
    (WorkerState::Terminating, "terminating"),
    (WorkerState::Terminated, "terminated"),
];

/// The last answer.
#[derive(Debug)]
pub struct Pulse {
    started: Moment,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    at: Moment,
    state: Option<WorkerState>,
    times: Option<LeaseTimes>,
}

impl Pulse {
    /// A pulse without an answer yet.
    #[must_use]
    pub fn new() -> Self {
        let started = Moment::now();
        let last = Last { at: started, state: None, times: None };
        Self { started, last: Mutex::new(last) }
    }

    /// Whether the loop answered lately.
    #[must_use]
    pub fn is_alive(&self, now: Moment) -> bool {
        now.since(self.last().at) <= ANSWER_MAX
    }

    /// Whether the worker takes invocations: its loop is alive, and its lease is active.
    #[must_use]
    pub fn is_ready(&self, now: Moment) -> bool {
        self.is_alive(now) && self.last().state == Some(WorkerState::Active)
    }

    /// The worker's state as it last told, for people.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        let state = self.last().state;
        STATES.iter().find(|(s, _)| Some(*s) == state).map_or("starting", |(_, name)| name)
    }

    /// Sets the gauges that run on between two answers. To be called before metrics are rendered.
    pub fn refresh(&self, now: Moment) {
        let last = self.last();
        let age = now.since(last.at);
        gauge!(WORKER_ANSWER_AGE).set(age.as_secs_f64());
        gauge!(WORKER_UPTIME).set(now.since(self.started).as_secs_f64());
        if let Some(times) = last.times {
            gauge!(LEASE_REMAINING).set(times.remaining.as_secs_f64() - age.as_secs_f64());
            let duration = times.expires.saturating_sub(times.issued);
            gauge!(LEASE_DURATION).set(duration.as_secs_f64());
        }
    }

    /// Asks once, no longer than [`ANSWER_MAX`]; gives the answer.
    pub async fn beat(&self, worker: &WorkerHandle) -> Option<WorkerStatus> {
        // The answer is from some moment after this one, so that its age is never told too small.
        let asked = Moment::now();
        let status = timeout(ANSWER_MAX, worker.status()).await.ok()?;
        self.heard(asked, &status);
        Some(status)
    }

    /// Takes an answer to a question that was asked at `asked`.
    pub(super) fn heard(&self, asked: Moment, status: &WorkerStatus) {
        let last = Last { at: asked, state: Some(status.lease.state), times: status.lease.times };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        show(status);
    }

    /// Asks for ever, and tells systemd.
    pub async fn keep(self: Arc<Self>, worker: WorkerHandle) {
        let watchdog = service::watchdog_interval();
        // Two answers may be late before the watchdog bites.
        let pace = watchdog.map_or(INTERVAL, |watchdog| INTERVAL.min(watchdog / 3));
        let mut interval = interval(pace.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        let mut state = WorkerState::Unleased;
        loop {
            interval.tick().await;
            let Some(status) = self.beat(&worker).await else {
                tracing::error!(
                    seconds = ANSWER_MAX.as_secs(),
                    "the worker's loop does not answer"
                );
                continue;
            };
            if watchdog.is_some() {
                service::watchdog();
            }
            if status.lease.state != state {
                state = status.lease.state;
                tracing::info!(state = self.state_name(), "the worker's state");
                if state == WorkerState::Draining {
                    service::stopping();
                }
            }
            let text = status_line(self.state_name(), &status);
            if text != told {
                service::status(&text);
                told = text;
            }
        }
    }

    fn last(&self) -> Last {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

/// One line for `systemctl status`. The time that remains is told in minutes, so that it changes once a minute.
pub(super) fn status_line(state: &str, status: &WorkerStatus) -> String {
    let environments = format!("{} busy, {} idle", status.busy, status.idle);
    match status.lease.times {
        None => format!("{state}; {environments}"),
        Some(times) => {
            let minutes = times.remaining.as_secs() / 60;
            let remaining = HumanDuration(Duration::from_secs(minutes * 60));
            format!("{state}; {environments}; the lease ends in {remaining}")
        }
    }
}

fn show(status: &WorkerStatus) {
    for (state, value) in [
        ("creating", status.creating),
        ("initialising", status.initialising),
        ("idle", status.idle),
        ("busy", status.busy),
        ("ending", status.ending),
    ] {
        gauge!(ENVIRONMENTS, "state" => state).set(f64::from(value));
    }
    for (state, name) in STATES {
        let value = if state == status.lease.state { 1.0 } else { 0.0 };
        gauge!(WORKER_STATE, "state" => name).set(value);
    }
    for (kind, capacity) in [("total", status.capacity), ("used", status.used)] {
        gauge!(CAPACITY_ENVIRONMENTS, "kind" => kind).set(f64::from(capacity.environments));
        gauge!(CAPACITY_MEMORY, "kind" => kind).set(bytes(capacity.memory_mb));
        gauge!(CAPACITY_VCPUS, "kind" => kind).set(f64::from(capacity.vcpus));
    }
    gauge!(FUNCTION_VERSIONS).set(f64::from(status.function_versions));
}

#[expect(clippy::cast_precision_loss, reason = "a host's memory is far below 2^53 bytes")]
fn bytes(mebibytes: u64) -> f64 {
    mebibytes.saturating_mul(1024 * 1024) as f64
}
