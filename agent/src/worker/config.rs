//! How a worker is set up.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits::{HANG_TIMEOUT, IDLE_TIMEOUT_DEFAULT, LEASE_MAX, RESERVATION_LIFETIME};
use crate::worker::api::Capacity;

/// Everything that is decided about a worker before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// The worker's name in its status and events.
    pub id: String,
    /// The folder that outlives the process: the lease, packed images. Made if it is not there, with no access for others.
    pub state_dir: PathBuf,
    /// What environments may take together, and one function version.
    pub limits: WorkerLimits,
    /// How long an environment on demand may wait for its next invocation.
    pub idle_timeout: Duration,
    /// How long a reservation is good.
    pub reservation_lifetime: Duration,
    /// How long a VMM may leave a question unanswered before it counts as hung.
    pub hang_timeout: Duration,
    /// Where the lease comes from.
    pub lease: LeaseSource,
}

/// Caps on environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLimits {
    /// What all environments may take together.
    pub capacity: Capacity,
    /// The most environments of one function version, if it names no limit of its own.
    pub per_function_version: u32,
}

/// Where the lease comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseSource {
    /// An orchestrator grants it over the control channel; once it is over, this worker never serves again.
    FromOrchestrator,
    /// The worker gives it to itself when it starts, for one machine is all there is. Once it is over, the process ends; a
    /// process started after that is a new worker.
    SelfIssued {
        /// How long it lasts.
        duration: Duration,
        /// The longest invocation that must end inside it.
        longest_invocation: Duration,
    },
}

impl WorkerConfig {
    /// Defaults for everything but the folder.
    #[must_use]
    pub fn new(id: &str, state_dir: PathBuf) -> Self {
        Self {
            id: id.to_owned(),
            state_dir,
            limits: WorkerLimits {
                capacity: Capacity { environments: 1000, memory_mb: 64 * 1024, vcpus: 1000 },
                per_function_version: 1000,
            },
            idle_timeout: IDLE_TIMEOUT_DEFAULT,
            reservation_lifetime: RESERVATION_LIFETIME,
            hang_timeout: HANG_TIMEOUT,
            lease: LeaseSource::SelfIssued {
                duration: LEASE_MAX,
                longest_invocation: Duration::from_secs(900),
            },
        }
    }
}
