//! How a worker begins: with the lease that it had, with one of its own, or without any.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::{BootTime, wall_clock};
use crate::limits::COMMANDS_WAITING_MAX;
use crate::worker::api::LeaseError;
use crate::worker::config::{LeaseSource, WorkerConfig};
use crate::worker::core::{Core, CoreConfig};
use crate::worker::launcher::Launcher;
use crate::worker::lease::{Schedule, Term};
use crate::worker::lease_file::{
    Clocks, LeaseFile, LeaseFileError, LeaseRecord, Restored, boot_id,
};
use crate::worker::service::{Service, Start};
use crate::worker::time::Clock;
use crate::worker::watch::Broadcast;
use crate::worker::{WorkerEnd, WorkerHandle};

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder that outlives the process.
    #[error("the state directory cannot be used")]
    StateDir(#[source] std::io::Error),
    /// The lease that was kept does not count, and no other may take its place.
    #[error("the lease that was kept cannot be used")]
    Lease(#[from] LeaseFileError),
    /// The lease is over.
    #[error("the worker's lease is over: a worker serves for one lease")]
    LeaseOver,
    /// The lease that the worker is to give itself.
    #[error("the worker cannot give itself its lease")]
    SelfIssued(#[source] LeaseError),
}

pub(super) fn start<L: Launcher>(
    config: WorkerConfig,
    launcher: L,
    clock: Clock,
) -> Result<(WorkerHandle, JoinHandle<WorkerEnd>), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&config.state_dir).map_err(StartError::StateDir)?;
    let boot_id = boot_id().map_err(StartError::StateDir)?;
    let run = uuid::Uuid::new_v4().as_fields().0;
    let mut core = Core::new(CoreConfig {
        limits: config.limits,
        idle_timeout: config.idle_timeout,
        reservation_lifetime: config.reservation_lifetime,
        run,
    });
    let lease_file = LeaseFile::new(&config.state_dir);
    let lease_record = begin_lease(&mut core, &config, &lease_file, &boot_id, clock)?;
    let broadcast = Arc::new(Broadcast::new());
    let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
    let handle = WorkerHandle { commands, broadcast: Arc::clone(&broadcast) };
    let launcher = Arc::new(launcher);
    let start =
        Start { config, core, launcher, clock, broadcast, lease_file, lease_record, boot_id };
    let service = Service::new(start);
    Ok((handle, tokio::spawn(service.run(receiver))))
}

fn drain_at(term: &Term, config: &WorkerConfig) -> BootTime {
    Schedule::new(term.expires, term.longest_invocation, config.reservation_lifetime).drain_at
}

fn begin_lease(
    core: &mut Core,
    config: &WorkerConfig,
    file: &LeaseFile,
    boot_id: &str,
    clock: Clock,
) -> Result<Option<LeaseRecord>, StartError> {
    let now = clock.boot_time();
    let clocks = Clocks { boot_id: boot_id.to_owned(), boot_time: now, wall: wall_clock() };
    if let Some(record) = file.load()? {
        match (record.restore(&clocks)?, config.lease) {
            // An orchestrator that had a worker drain does not expect it back.
            (Restored::Running { term, draining }, LeaseSource::FromOrchestrator) => {
                core.apply_lease(term, draining, now);
                return Ok(Some(record));
            }
            // One that leases itself drains whenever it is stopped, and goes on with what is left of its lease.
            (Restored::Running { term, .. }, LeaseSource::SelfIssued { .. })
                if now < drain_at(&term, config) =>
            {
                core.apply_lease(term, false, now);
                return Ok(Some(LeaseRecord { draining: false, ..record }));
            }
            (Restored::Over, LeaseSource::FromOrchestrator) => return Err(StartError::LeaseOver),
            // What was leased is gone, and this process is another worker. That is so already when the drain was due: the
            // old worker was to accept nothing more, and nothing that it began is alive without it.
            (_, LeaseSource::SelfIssued { .. }) => {}
        }
    }
    let LeaseSource::SelfIssued { duration, longest_invocation } = config.lease else {
        return Ok(None);
    };
    let planned = core.plan_lease(duration, longest_invocation, now);
    let term = planned.map_err(StartError::SelfIssued)?;
    let issued = clocks;
    let first = issued.clone();
    let record = LeaseRecord { first, issued, duration, longest_invocation, draining: false };
    file.store(&record)?;
    core.apply_lease(term, false, now);
    Ok(Some(record))
}
