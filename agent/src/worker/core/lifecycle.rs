//! Environments from their plan to their end, and what they report between.

use votive_protocol::InvocationId;

use crate::clock::BootTime;
use crate::worker::api::{
    CreateReason, EndReason, EnvironmentId, EnvironmentState, FunctionVersionId, Initialization,
    WorkerState,
};
use crate::worker::core::entry::{Claim, Entry, Stage, cost};
use crate::worker::core::{Core, Creation, Effect, Timer};

impl Core {
    /// The environment's microVM has a process.
    pub fn launched(&mut self, id: EnvironmentId, process_id: Option<u32>, now: BootTime) {
        if let Some(entry) = self.environments.get_mut(&id) {
            entry.process_id = process_id;
            self.tell(id, now);
        }
    }

    /// The environment's guest spoke for the first time.
    pub fn initialising(&mut self, id: EnvironmentId, now: BootTime) {
        if let Some(entry) = self.environments.get_mut(&id)
            && entry.stage == Stage::Creating
        {
            entry.stage = Stage::Initialising;
            self.tell(id, now);
        }
    }

    /// The environment's first init phase failed. One on demand tries again inside its invocation; one that was to be ready
    /// ahead of any is of no use.
    pub fn init_failed(&mut self, id: EnvironmentId, now: BootTime) {
        let Some(entry) = self.environments.get(&id) else { return };
        let ahead = entry.initialization == Initialization::Provisioned;
        if ahead && entry.stage == Stage::Initialising {
            let version = entry.version;
            self.note_failure(version, "the init phase fails", now);
            self.end(id, EndReason::InitFailed, false, now);
        }
        self.settle(now);
    }

    /// The environment began its invocation.
    pub fn begun(&mut self, id: EnvironmentId, now: BootTime) {
        if let Some(entry) = self.environments.get_mut(&id)
            && !entry.is_ending()
        {
            self.note_ready(id);
            self.set_stage(id, Stage::Busy, now);
        }
        self.settle(now);
    }

    /// The environment's invocation is over, and was answered.
    pub fn finished(&mut self, id: EnvironmentId, invocation: InvocationId, now: BootTime) {
        self.live.remove(&invocation);
        if let Some(entry) = self.environments.get_mut(&id)
            && entry.claim == Claim::Invoked(invocation)
        {
            entry.claim = Claim::None;
        }
        self.settle(now);
    }

    /// The environment can take an invocation.
    pub fn idle(&mut self, id: EnvironmentId, now: BootTime) {
        let Some(entry) = self.environments.get(&id) else { return };
        if !entry.is_ending() && !matches!(entry.claim, Claim::Invoked(_)) {
            self.note_ready(id);
            self.set_stage(id, Stage::Idle { since: now }, now);
            self.free(id, now);
        }
        self.settle(now);
    }

    /// Nothing is left of the environment, for `reason` unless the core had one of its own.
    pub fn gone(&mut self, id: EnvironmentId, reason: EndReason, now: BootTime) {
        let Some(entry) = self.environments.get(&id) else { return };
        let reason = match entry.stage {
            Stage::Ending { reason, .. } => reason,
            _ => reason,
        };
        let (version, was_ready) = (entry.version, entry.was_ready);
        let on_its_own = !entry.is_ending();
        let ahead = entry.initialization == Initialization::Provisioned;
        self.forget(id, reason, now);
        if on_its_own && ahead {
            if was_ready {
                self.note_loss(version);
            } else {
                self.note_failure(version, "environments do not start", now);
            }
        }
        self.settle(now);
    }

    /// Plans an environment; it is launched when there is room, which is at once in most cases.
    pub(super) fn plan(
        &mut self,
        version: FunctionVersionId,
        initialization: Initialization,
        reason: CreateReason,
        now: BootTime,
    ) -> Option<EnvironmentId> {
        let schedule = self.current_schedule()?;
        let cost = cost(&self.registry.get(version)?.function);
        self.created = self.created.wrapping_add(1);
        let id = EnvironmentId(u64::from(self.config.run) << 32 | u64::from(self.created));
        let entry = Entry {
            version,
            cost,
            initialization,
            created_for: reason,
            since: now,
            schedule,
            stage: Stage::Planned,
            claim: Claim::None,
            retiring: None,
            was_ready: false,
            invocations: 0,
            process_id: None,
            timer: None,
        };
        self.admitted = self.admitted.plus(cost);
        self.versions.entry(version).or_default().admitted += 1;
        self.environments.insert(id, entry);
        self.planned.push_back(id);
        self.set_timer(id);
        Some(id)
    }

    /// Launches what there is room for, in the order of the plans.
    pub(super) fn launch_planned(&mut self, now: BootTime) {
        let mut waiting = std::mem::take(&mut self.planned);
        waiting.retain(|id| !self.launch(*id, now));
        self.planned = waiting;
    }

    /// Whether the plan is done with: launched, or gone meanwhile.
    fn launch(&mut self, id: EnvironmentId, now: BootTime) -> bool {
        let Some(entry) = self.environments.get(&id) else { return true };
        let (version, cost) = (entry.version, entry.cost);
        let limit = self.version_limit(version);
        let pool = self.versions.entry(version).or_default();
        let room = self.launched.allows(cost, self.config.limits.capacity);
        if !room || pool.launched >= limit {
            return false;
        }
        pool.launched += 1;
        self.launched = self.launched.plus(cost);
        let Some(entry) = self.environments.get_mut(&id) else { return true };
        entry.stage = Stage::Creating;
        let creation = Creation {
            environment: id,
            version,
            initialization: entry.initialization,
            reason: entry.created_for,
            deadline: entry.schedule.deadline,
        };
        let claim = entry.claim;
        self.effects.push(Effect::Create(creation));
        if let Claim::Invoked(invocation) = claim {
            self.effects.push(Effect::Invoke { environment: id, invocation });
        }
        self.tell(id, now);
        true
    }

    /// Most environments of a version that may exist at once.
    pub(super) fn version_limit(&self, version: FunctionVersionId) -> u32 {
        let own = self.registry.get(version).map_or(0, |version| version.concurrency_limit);
        let general = self.config.limits.per_function_version;
        if own == 0 { general } else { own.min(general) }
    }

    /// An idle environment without a claim waits for the next, or ends if it is to.
    pub(super) fn free(&mut self, id: EnvironmentId, now: BootTime) {
        let Some(entry) = self.environments.get(&id) else { return };
        if entry.claim != Claim::None || !matches!(entry.stage, Stage::Idle { .. }) {
            return;
        }
        let reason = match self.lease.state() {
            WorkerState::Active if now >= entry.schedule.drain_at => Some(EndReason::LeaseEnding),
            WorkerState::Active => entry.retiring,
            _ => Some(entry.retiring.unwrap_or(EndReason::WorkerDraining)),
        };
        match reason {
            Some(reason) => self.end(id, reason, false, now),
            None => {
                let version = entry.version;
                self.versions.entry(version).or_default().idle.push(id);
                self.set_timer(id);
            }
        }
    }

    /// Ends an environment once it is free.
    pub(super) fn retire_environment(
        &mut self,
        id: EnvironmentId,
        reason: EndReason,
        now: BootTime,
    ) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        if entry.claim == Claim::None && entry.stage != Stage::Busy {
            self.end(id, reason, false, now);
        } else {
            entry.retiring = Some(reason);
        }
    }

    /// Ends every environment that nobody waits for.
    pub(super) fn end_free(&mut self, reason: EndReason, now: BootTime) {
        let ids: Vec<_> = self.environments.keys().copied().collect();
        for id in ids {
            self.retire_environment(id, reason, now);
        }
    }

    /// Ends every environment.
    pub(super) fn end_all(&mut self, reason: EndReason, now: BootTime) {
        let ids: Vec<_> = self.environments.keys().copied().collect();
        for id in ids {
            self.end(id, reason, false, now);
        }
    }

    /// Begins an environment's end, or makes it quicker.
    pub(super) fn end(&mut self, id: EnvironmentId, reason: EndReason, kill: bool, now: BootTime) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        match entry.stage {
            Stage::Planned => return self.cancel(id, reason, now),
            Stage::Ending { killed: true, .. } => return,
            Stage::Ending { killed: false, .. } if !kill => return,
            Stage::Ending { reason, .. } => {
                entry.stage = Stage::Ending { reason, killed: true };
                self.effects.push(Effect::Kill(id, reason));
                return self.set_timer(id);
            }
            _ => {}
        }
        let (cost, version) = (entry.cost, entry.version);
        entry.stage = Stage::Ending { reason, killed: kill };
        if let Claim::Reserved(_) = entry.claim {
            // Its reservation finds another one when it is spent.
            entry.claim = Claim::None;
        }
        self.admitted = self.admitted.minus(cost);
        let pool = self.versions.entry(version).or_default();
        pool.admitted = pool.admitted.saturating_sub(1);
        pool.idle.retain(|idle| *idle != id);
        self.effects.push(if kill {
            Effect::Kill(id, reason)
        } else {
            Effect::Shutdown(id, reason)
        });
        self.unsettled.insert(version);
        self.set_timer(id);
        self.tell(id, now);
    }

    /// Gives up an environment that was never launched.
    fn cancel(&mut self, id: EnvironmentId, reason: EndReason, now: BootTime) {
        if let Some(Claim::Invoked(invocation)) = self.environments.get(&id).map(|it| it.claim) {
            self.live.remove(&invocation);
            self.effects.push(Effect::Abandon(invocation));
        }
        self.forget(id, reason, now);
    }

    /// Takes an environment off every list.
    fn forget(&mut self, id: EnvironmentId, reason: EndReason, now: BootTime) {
        let Some(entry) = self.environments.remove(&id) else { return };
        let pool = self.versions.entry(entry.version).or_default();
        if entry.is_launched() {
            self.launched = self.launched.minus(entry.cost);
            pool.launched = pool.launched.saturating_sub(1);
        }
        if !entry.is_ending() {
            self.admitted = self.admitted.minus(entry.cost);
            pool.admitted = pool.admitted.saturating_sub(1);
        }
        pool.idle.retain(|idle| *idle != id);
        if pool.launched == 0 && pool.admitted == 0 {
            self.versions.remove(&entry.version);
        }
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, Timer::Environment(id)));
        }
        if let Claim::Invoked(invocation) = entry.claim {
            // Whoever ran it answered it before it went.
            self.live.remove(&invocation);
        }
        self.unsettled.insert(entry.version);
        let mut info = entry.info(id, now);
        info.state = EnvironmentState::Gone;
        info.ending_for = Some(reason);
        self.effects.push(Effect::Changed(info));
    }

    pub(super) fn on_environment_timer(&mut self, id: EnvironmentId, now: BootTime) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        entry.timer = None;
        match entry.stage {
            // SIGKILL was sent; its actor gives up on it in bounded time.
            Stage::Ending { killed: true, .. } => {}
            Stage::Ending { reason, .. } => self.end(id, reason, true, now),
            Stage::Idle { .. } if entry.claim == Claim::None && now < entry.schedule.drain_at => {
                self.end(id, EndReason::IdleTimeout, false, now);
            }
            _ if now >= entry.schedule.kill_at => self.end(id, EndReason::LeaseEnding, true, now),
            _ => self.end(id, EndReason::LeaseEnding, false, now),
        }
    }

    pub(super) fn set_stage(&mut self, id: EnvironmentId, stage: Stage, now: BootTime) {
        if let Some(entry) = self.environments.get_mut(&id)
            && entry.stage != stage
        {
            entry.stage = stage;
            self.set_timer(id);
            self.tell(id, now);
        }
    }

    pub(super) fn set_timer(&mut self, id: EnvironmentId) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        let at = entry.deadline(self.config.idle_timeout);
        if let Some(before) = entry.timer.replace(at) {
            self.timers.remove(&(before, Timer::Environment(id)));
        }
        self.timers.insert((at, Timer::Environment(id)));
    }

    pub(super) fn tell(&mut self, id: EnvironmentId, now: BootTime) {
        if let Some(entry) = self.environments.get(&id) {
            self.effects.push(Effect::Changed(entry.info(id, now)));
        }
    }
}
