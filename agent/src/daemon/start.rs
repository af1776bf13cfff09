//! From a [`Config`] to a running worker.

use std::path::PathBuf;

use tokio::task::JoinHandle;

use crate::artifacts::Origin;
use crate::config::place::Places;
use crate::config::{self, Config, VCPUS_OF_LARGEST};
use crate::images::Images;
use crate::limits::BOOTS_PER_PROCESSOR;
use crate::shells::Shells;
use crate::worker::api::Capacity;
use crate::worker::config::{LeaseSource, WorkerConfig, WorkerLimits};
use crate::worker::microvms::{HostParts, HostShell, MicrovmLauncher};
use crate::worker::{self, Clock, WorkerEnd, WorkerHandle};

/// The part of the host's memory that microVMs get by default, in quarters: the rest is the agent's, the page cache's and the VMMs'.
const MEMORY_QUARTERS: u64 = 3;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder for packed code.
    #[error("{path} cannot be made a store of images")]
    Store {
        /// The state folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The worker's own reason.
    #[error(transparent)]
    Worker(#[from] worker::StartError),
}

/// Starts the worker in this asynchronous runtime.
pub(super) fn start(
    config: &Config,
    places: &Places,
    images: Images,
    host: HostParts,
    origin: Option<Origin>,
) -> Result<(WorkerHandle, JoinHandle<WorkerEnd>, Shells<HostShell>), StartError> {
    let launcher = MicrovmLauncher::new(images, host, boots(config), &places.state_dir, origin)
        .map_err(|source| StartError::Store { path: places.state_dir.clone(), source })?;
    let shells = launcher.shells();
    let config = worker_config(config, places, host_memory());
    let (worker, ended) = worker::start(config, launcher, Clock::host())?;
    Ok((worker, ended, shells))
}

/// What the worker is told.
pub(super) fn worker_config(config: &Config, places: &Places, host_memory: u64) -> WorkerConfig {
    let capacity = &config.capacity;
    let memory = capacity.memory.map_or(host_memory / 4 * MEMORY_QUARTERS, |memory| memory.0);
    let vcpus = capacity.environments.saturating_mul(VCPUS_OF_LARGEST);
    let lease = match config.lease.source {
        config::LeaseSource::Orchestrator => LeaseSource::FromOrchestrator,
        config::LeaseSource::SelfIssued => LeaseSource::SelfIssued {
            duration: config.lease.duration.0,
            longest_invocation: config.lease.longest_invocation.0,
        },
    };
    WorkerConfig {
        limits: WorkerLimits {
            capacity: Capacity {
                environments: capacity.environments,
                memory_mb: memory >> 20,
                vcpus: capacity.vcpus.unwrap_or(vcpus),
            },
            per_function_version: capacity.environments_per_function_version,
        },
        idle_timeout: config.environments.idle_timeout.0,
        reservation_lifetime: config.environments.reservation_lifetime.0,
        hang_timeout: config.environments.hang_timeout.0,
        lease,
        ..WorkerConfig::new(&places.worker_id, places.state_dir.clone())
    }
}

/// How many microVMs may boot at once.
fn boots(config: &Config) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let given = config.capacity.boots.map(|boots| usize::try_from(boots).unwrap_or(usize::MAX));
    given.unwrap_or(processors.saturating_mul(BOOTS_PER_PROCESSOR))
}

/// The host's memory in bytes.
pub(super) fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}
