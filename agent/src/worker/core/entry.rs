//! What the core knows of one environment.

use std::time::Duration;

use votive_protocol::InvocationId;

use crate::clock::BootTime;
use crate::function::Function;
use crate::worker::api::{
    Capacity, CreateReason, EndReason, EnvironmentId, EnvironmentInfo, EnvironmentState,
    FunctionVersionId, Initialization,
};
use crate::worker::lease::Schedule;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: FunctionVersionId,
    pub(super) cost: Capacity,
    pub(super) initialization: Initialization,
    pub(super) created_for: CreateReason,
    pub(super) since: BootTime,
    /// That of the lease under which it was planned: its microVM ends itself by it, whatever is granted later.
    pub(super) schedule: Schedule,
    pub(super) stage: Stage,
    pub(super) claim: Claim,
    /// Ends once it is free.
    pub(super) retiring: Option<EndReason>,
    /// It was initialised once: its loss is no failure to start.
    pub(super) was_ready: bool,
    pub(super) invocations: u64,
    pub(super) process_id: Option<u32>,
    pub(super) timer: Option<BootTime>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for room.
    Planned,
    Creating,
    Initialising,
    Idle {
        since: BootTime,
    },
    /// It has an invocation, or its runtime is being reset after one.
    Busy,
    Ending {
        reason: EndReason,
        killed: bool,
    },
}

/// Whom it waits for or serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    None,
    Reserved(InvocationId),
    Invoked(InvocationId),
}

impl Entry {
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.stage, Stage::Ending { .. })
    }

    pub(super) fn is_launched(&self) -> bool {
        self.stage != Stage::Planned
    }

    /// Whether it could serve an invocation at once.
    pub(super) fn is_initialised(&self) -> bool {
        matches!(self.stage, Stage::Idle { .. } | Stage::Busy)
    }

    pub(super) fn info(&self, id: EnvironmentId, now: BootTime) -> EnvironmentInfo {
        let (state, ending_for) = match self.stage {
            Stage::Planned | Stage::Creating => (EnvironmentState::Creating, None),
            Stage::Initialising => (EnvironmentState::Initialising, None),
            Stage::Idle { .. } => (EnvironmentState::Idle, None),
            Stage::Busy => (EnvironmentState::Busy, None),
            Stage::Ending { reason, .. } => (EnvironmentState::Ending, Some(reason)),
        };
        EnvironmentInfo {
            id,
            version: self.version,
            state,
            initialization: self.initialization,
            created_for: self.created_for,
            ending_for,
            process_id: self.process_id,
            age: now.since(self.since),
            invocations: self.invocations,
        }
    }

    /// When something is due that only time brings.
    pub(super) fn deadline(&self, idle_timeout: Duration) -> BootTime {
        match self.stage {
            Stage::Ending { killed: true, .. } => self.schedule.expires,
            Stage::Ending { killed: false, .. } => self.schedule.kill_at,
            Stage::Idle { since } if self.claim == Claim::None => {
                let idle_end = match self.initialization {
                    Initialization::OnDemand => since + idle_timeout,
                    Initialization::Provisioned => self.schedule.drain_at,
                };
                idle_end.min(self.schedule.drain_at)
            }
            _ => self.schedule.terminate_at,
        }
    }
}

/// What an environment of a function takes.
pub(super) fn cost(function: &Function) -> Capacity {
    Capacity {
        environments: 1,
        memory_mb: u64::from(function.microvm_memory_mib()),
        vcpus: function.vcpus(),
    }
}

impl Capacity {
    /// Whether `more` fits into what `limit` leaves.
    pub(super) fn allows(self, more: Self, limit: Self) -> bool {
        self.environments.saturating_add(more.environments) <= limit.environments
            && self.memory_mb.saturating_add(more.memory_mb) <= limit.memory_mb
            && self.vcpus.saturating_add(more.vcpus) <= limit.vcpus
    }

    pub(super) fn plus(self, more: Self) -> Self {
        Self {
            environments: self.environments.saturating_add(more.environments),
            memory_mb: self.memory_mb.saturating_add(more.memory_mb),
            vcpus: self.vcpus.saturating_add(more.vcpus),
        }
    }

    pub(super) fn minus(self, less: Self) -> Self {
        Self {
            environments: self.environments.saturating_sub(less.environments),
            memory_mb: self.memory_mb.saturating_sub(less.memory_mb),
            vcpus: self.vcpus.saturating_sub(less.vcpus),
        }
    }
}
