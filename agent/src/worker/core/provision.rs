//! Provisioned concurrency: so many initialised environments of a version, always.

use std::time::Duration;

use crate::clock::BootTime;
use crate::function::LATEST;
use crate::limits::{PROVISION_FAILURES_MAX, PROVISION_RETRY_MAX, REPLACEMENT_LEAD};
use crate::worker::api::{
    CreateReason, EndReason, EnvironmentId, FunctionVersionId, Initialization, ProvisionError,
    Provisioned, ProvisionedStatus, UnknownFunctionVersion, WorkerState,
};
use crate::worker::core::entry::{Claim, Entry, Stage, cost};
use crate::worker::core::{Core, Timer};

/// What a version is to have.
#[derive(Debug, Default)]
pub(super) struct Target {
    environments: u32,
    /// Starts in a row that came to nothing.
    failures: u32,
    why: &'static str,
    /// No start before this.
    retry_at: Option<BootTime>,
    /// There is no room for more.
    blocked: bool,
    /// Environments of it were lost: the next ones replace them.
    lost: bool,
    timer: Option<BootTime>,
}

impl Core {
    /// Sets how many initialised environments of a version are kept.
    ///
    /// # Errors
    /// [`ProvisionError`]
    pub fn set_provisioned(
        &mut self,
        version: FunctionVersionId,
        environments: u32,
        now: BootTime,
    ) -> Result<Provisioned, ProvisionError> {
        let known = self.registry.get(version).ok_or(ProvisionError::UnknownFunctionVersion)?;
        if known.function.version() == LATEST {
            return Err(ProvisionError::Latest);
        }
        let max = self.version_limit(version).min(self.config.limits.capacity.environments);
        if environments > max {
            return Err(ProvisionError::TooMany { asked: environments, max });
        }
        match self.lease.state() {
            WorkerState::Active => {}
            WorkerState::Unleased if environments > 0 => {
                return Err(ProvisionError::NotReady { why: "it has no lease" });
            }
            _ if environments > 0 => {
                return Err(ProvisionError::NotReady { why: "it is draining" });
            }
            _ => {}
        }
        let target = self.targets.entry(version).or_default();
        target.environments = environments;
        target.failures = 0;
        target.retry_at = None;
        target.lost = false;
        self.unsettled.insert(version);
        self.settle(now);
        let gone = ProvisionError::UnknownFunctionVersion;
        self.provisioned(version).map_err(|UnknownFunctionVersion| gone)
    }

    /// How many there are and should be.
    ///
    /// # Errors
    /// [`UnknownFunctionVersion`]
    pub fn provisioned(
        &self,
        version: FunctionVersionId,
    ) -> Result<Provisioned, UnknownFunctionVersion> {
        self.registry.get(version).ok_or(UnknownFunctionVersion)?;
        let none = Target::default();
        let target = self.targets.get(&version).unwrap_or(&none);
        let entries = self.environments.values();
        let own = |entry: &&Entry| {
            entry.version == version
                && entry.initialization == Initialization::Provisioned
                && !entry.is_ending()
        };
        let (mut allocated, mut available) = (0, 0);
        for entry in entries.filter(own) {
            allocated += 1;
            available += u32::from(entry.is_initialised());
        }
        let (status, reason) = if available >= target.environments {
            (ProvisionedStatus::Ready, "")
        } else if target.blocked {
            (ProvisionedStatus::Failed, "the worker has no room for more")
        } else if target.failures >= PROVISION_FAILURES_MAX {
            (ProvisionedStatus::Failed, target.why)
        } else {
            (ProvisionedStatus::InProgress, "")
        };
        let requested = target.environments;
        let status_reason = reason.to_owned();
        Ok(Provisioned { version, requested, allocated, available, status, status_reason })
    }

    /// A provisioned environment did not come to serve.
    pub(super) fn note_failure(
        &mut self,
        version: FunctionVersionId,
        why: &'static str,
        now: BootTime,
    ) {
        if let Some(target) = self.targets.get_mut(&version) {
            target.failures = target.failures.saturating_add(1);
            target.why = why;
            target.lost = true;
            // The first is tried again at once, the next ones after 1 s, 2 s, 4 s, ...
            let doublings = target.failures.saturating_sub(2).min(6);
            let wait = Duration::from_secs(1 << doublings).min(PROVISION_RETRY_MAX);
            target.retry_at = (target.failures > 1).then(|| now + wait);
            self.unsettled.insert(version);
        }
    }

    /// A provisioned environment that served was lost.
    pub(super) fn note_loss(&mut self, version: FunctionVersionId) {
        if let Some(target) = self.targets.get_mut(&version) {
            target.lost = true;
            self.unsettled.insert(version);
        }
    }

    /// The environment is initialised.
    pub(super) fn note_ready(&mut self, id: EnvironmentId) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        if std::mem::replace(&mut entry.was_ready, true) {
            return;
        }
        if entry.initialization == Initialization::Provisioned
            && let Some(target) = self.targets.get_mut(&entry.version)
        {
            target.failures = 0;
            target.retry_at = None;
        }
    }

    pub(super) fn settle_targets(&mut self, now: BootTime) {
        while let Some(version) = self.unsettled.pop_first() {
            if self.targets.contains_key(&version) {
                self.settle_target(version, now);
            }
        }
        // Room for one version may have become free by the end of another's environment.
        let blocked = self.targets.iter().filter(|(_, target)| target.blocked);
        let blocked: Vec<_> = blocked.map(|(version, _)| *version).collect();
        for version in blocked {
            self.settle_target(version, now);
        }
        self.unsettled.clear();
    }

    fn settle_target(&mut self, version: FunctionVersionId, now: BootTime) {
        let Some(target) = self.targets.get(&version) else { return };
        let (wanted, retry_at) = (target.environments, target.retry_at);
        let mut counted = Vec::new();
        let mut next = None;
        for (id, entry) in &self.environments {
            if entry.version != version
                || entry.initialization != Initialization::Provisioned
                || entry.is_ending()
                || entry.retiring.is_some()
            {
                continue;
            }
            let replace_at = entry.schedule.drain_at - REPLACEMENT_LEAD;
            // Under a lease that never leaves time for a replacement there is none: the worker itself ends with it.
            let renewed =
                self.current_schedule().is_some_and(|it| it.expires > entry.schedule.expires);
            if now < replace_at || !renewed {
                counted.push((entry.claim != Claim::None || entry.stage == Stage::Busy, *id));
                next = [next, (now < replace_at).then_some(replace_at)].into_iter().flatten().min();
            }
        }
        let have = u32::try_from(counted.len()).unwrap_or(u32::MAX);
        let mut blocked = false;
        if have > wanted {
            // Those that nobody uses go first.
            counted.sort_unstable();
            for (_, id) in counted.into_iter().take(usize::try_from(have - wanted).unwrap_or(0)) {
                self.retire_environment(id, EndReason::ProvisionedConcurrencyLowered, now);
            }
        } else if self.lease.state() == WorkerState::Active {
            match retry_at {
                Some(at) if now < at && have < wanted => {
                    next = Some(next.map_or(at, |it| it.min(at)))
                }
                _ => blocked = !self.provision(version, wanted - have, now),
            }
        }
        self.note_settled(version, blocked, next);
    }

    /// Plans `missing` environments; whether there was room for all.
    fn provision(&mut self, version: FunctionVersionId, missing: u32, now: BootTime) -> bool {
        let Some(known) = self.registry.get(version) else { return true };
        let cost = cost(&known.function);
        let lost = self.targets.get(&version).is_some_and(|target| target.lost);
        let reason =
            if lost { CreateReason::Replacement } else { CreateReason::ProvisionedConcurrency };
        for _ in 0..missing {
            let admitted = self.versions.get(&version).map_or(0, |pool| pool.admitted);
            let full = admitted >= self.version_limit(version) && !self.evict_own(version, now);
            if full || !self.make_room(cost, now) {
                return false;
            }
            self.plan(version, Initialization::Provisioned, reason, now);
        }
        true
    }

    fn note_settled(&mut self, version: FunctionVersionId, blocked: bool, next: Option<BootTime>) {
        let Some(target) = self.targets.get_mut(&version) else { return };
        target.blocked = blocked;
        if let Some(before) = target.timer.take() {
            self.timers.remove(&(before, Timer::Target(version)));
        }
        target.timer = next;
        if let Some(at) = next {
            self.timers.insert((at, Timer::Target(version)));
        }
        if target.environments == 0 {
            if let Some(at) = target.timer {
                self.timers.remove(&(at, Timer::Target(version)));
            }
            self.targets.remove(&version);
        }
    }
}
