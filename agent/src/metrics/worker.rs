//! What the worker's loop counts: it shows each event and each refusal to [`WorkerMetrics`], once and in order.
//!
//! An invocation is counted when it begins and again when it ends, whatever order its environment's end comes in: one whose
//! environment is gone has ended, and one that ends without having begun has begun.

use std::collections::{BTreeSet, HashMap};

use metrics::{counter, histogram};

use super::function::{Concurrency, FunctionMetrics, ProvisionedEnvironments};
use super::{
    ENVIRONMENT_START, ENVIRONMENTS_CREATED, ENVIRONMENTS_ENDED, INIT_DURATION,
    POST_RUNTIME_EXTENSIONS_DURATION, REFUSED,
};
use crate::report::Report;
use crate::worker::api::{
    EnvironmentId, EnvironmentInfo, EnvironmentState, FunctionVersion, FunctionVersionId,
    Initialization, InvokeError, Provisioned, WorkerEventKind,
};

#[cfg(test)]
mod tests;

/// The metrics of one worker. Bounded by what the worker itself holds: versions, and environments that are not gone.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    versions: HashMap<FunctionVersionId, Version>,
    environments: HashMap<EnvironmentId, Environment>,
    /// Versions that were removed and still have environments.
    removed: BTreeSet<FunctionVersionId>,
}

#[derive(Debug)]
struct Version {
    metrics: FunctionMetrics,
    has_provisioned: bool,
}

#[derive(Debug)]
struct Environment {
    version: FunctionVersionId,
    initialization: Initialization,
    /// Whether its start was measured.
    is_started: bool,
    /// Its invocation.
    open: Option<Concurrency>,
}

impl WorkerMetrics {
    /// A function version is known.
    pub fn registered(&mut self, version: &FunctionVersion) {
        let FunctionVersion { id, account, function_name, version, .. } = version;
        self.removed.remove(id);
        self.versions.entry(*id).or_insert_with(|| Version {
            metrics: FunctionMetrics::new(account, function_name, version),
            has_provisioned: false,
        });
    }

    /// A function version was removed; its environments end.
    pub fn removed(&mut self, id: FunctionVersionId) {
        self.removed.insert(id);
        self.forget_removed();
    }

    /// A version's provisioned concurrency is another, or its environments are.
    pub fn provisioned(&mut self, told: &Provisioned) {
        let Some(version) = self.versions.get_mut(&told.version) else { return };
        version.has_provisioned = told.requested > 0;
        version.metrics.provisioned(ProvisionedEnvironments {
            requested: told.requested,
            allocated: told.allocated,
            available: told.available,
        });
    }

    /// A reservation or an invocation was refused: it is a throttle or a refusal, and neither an invocation nor an error.
    pub fn refused(&self, version: FunctionVersionId, error: &InvokeError) {
        match (error.reason(), self.versions.get(&version)) {
            (Some(reason), Some(version)) => version.metrics.throttled(reason.name()),
            _ => counter!(REFUSED, "error" => error.name()).increment(1),
        }
    }

    /// Something happened.
    pub fn event(&mut self, event: &WorkerEventKind) {
        match event {
            WorkerEventKind::Environment(info) => self.environment(info),
            WorkerEventKind::Invocation { environment, report: None, .. } => {
                self.begun(*environment);
            }
            WorkerEventKind::Invocation {
                environment, report: Some(report), error_type, ..
            } => {
                self.ended(*environment, report, error_type.is_some());
            }
            WorkerEventKind::Lease(_)
            | WorkerEventKind::Log { .. }
            | WorkerEventKind::Missed(_) => {}
        }
    }

    fn environment(&mut self, info: &EnvironmentInfo) {
        let environment = self.environments.entry(info.id).or_insert_with(|| {
            counter!(ENVIRONMENTS_CREATED, "reason" => info.created_for.name()).increment(1);
            Environment {
                version: info.version,
                initialization: info.initialization,
                is_started: false,
                open: None,
            }
        });
        match info.state {
            EnvironmentState::Creating
            | EnvironmentState::Initialising
            | EnvironmentState::Ending => {}
            EnvironmentState::Idle | EnvironmentState::Busy => {
                if !std::mem::replace(&mut environment.is_started, true) {
                    histogram!(ENVIRONMENT_START).record(info.age.as_secs_f64());
                }
            }
            EnvironmentState::Gone => self.gone(info),
        }
    }

    fn gone(&mut self, info: &EnvironmentInfo) {
        let reason = info.ending_for.map_or("unknown", |reason| reason.name());
        counter!(ENVIRONMENTS_ENDED, "reason" => reason).increment(1);
        let Some(environment) = self.environments.remove(&info.id) else { return };
        if let (Some(concurrency), Some(version)) =
            (environment.open, self.versions.get(&environment.version))
        {
            // Its own end was not told: it was lost with its environment.
            version.metrics.lost(concurrency);
        }
        self.forget_removed();
    }

    fn begun(&mut self, id: EnvironmentId) -> Option<Concurrency> {
        let environment = self.environments.get_mut(&id)?;
        let version = self.versions.get(&environment.version)?;
        if environment.open.is_none() {
            let concurrency = match (environment.initialization, version.has_provisioned) {
                (Initialization::Provisioned, _) => Concurrency::Provisioned,
                (Initialization::OnDemand, true) => Concurrency::Spillover,
                (Initialization::OnDemand, false) => Concurrency::OnDemand,
            };
            version.metrics.started(concurrency);
            environment.open = Some(concurrency);
        }
        environment.open
    }

    fn ended(&mut self, id: EnvironmentId, report: &Report, failed: bool) {
        let Some(concurrency) = self.begun(id) else { return };
        let Some(environment) = self.environments.get_mut(&id) else { return };
        environment.open = None;
        let Some(version) = self.versions.get(&environment.version) else { return };
        let billed = u64::try_from(report.billed_ms()).unwrap_or(u64::MAX);
        version.metrics.ended(concurrency, report.duration, billed, failed);
        histogram!(POST_RUNTIME_EXTENSIONS_DURATION).record(report.extensions.as_secs_f64());
        if let Some(init) = report.init {
            histogram!(INIT_DURATION).record(init.as_secs_f64());
        }
    }

    /// Drops removed versions that have no environment any more.
    fn forget_removed(&mut self) {
        let environments = &self.environments;
        let versions = &mut self.versions;
        self.removed.retain(|id| {
            let in_use = environments.values().any(|environment| environment.version == *id);
            if !in_use {
                versions.remove(id);
            }
            in_use
        });
    }
}
