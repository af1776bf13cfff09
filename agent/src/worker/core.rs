//! What decides: the worker as a state machine without input or output.
//!
//! It is handed questions, what environments report, and the time; it answers, and puts what is to be done into a list that
//! [`Core::take_effects`] gives. Lease, function versions, environments, reservations and provisioned concurrency all live in
//! here, so that no two of them can disagree. Environments themselves are [`crate::environment::Environment`]s of their own.
//!
//! **Invariants** (`tests/simulation` holds it to them): an environment has one version for ever and at most one claim, a
//! reservation or an invocation; what has been launched and is not gone never exceeds a cap; nothing is launched without a
//! lease; every invocation that was taken leaves as an [`Effect::Invoke`] or an [`Effect::Abandon`], once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use votive_protocol::InvocationId;

use crate::clock::BootTime;
use crate::worker::api::{
    Capacity, CreateReason, EndReason, EnvironmentId, EnvironmentInfo, EnvironmentState,
    FunctionVersionId, Initialization, LeaseError, RegisterError, UnknownEnvironment,
    UnknownFunctionVersion, WorkerState,
};
use crate::worker::config::WorkerLimits;
use crate::worker::lease::{Lease, Schedule, Term};
use crate::worker::registry::{Registered, Registry, Version};

mod entry;
mod lifecycle;
mod provision;
mod reserve;
#[cfg(test)]
mod tests;

use entry::{Claim, Entry};
use provision::Target;
use reserve::Reserved;
pub use reserve::{Grant, Token, TokenHash};

/// What a core is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// Caps.
    pub limits: WorkerLimits,
    /// How long an environment on demand may be idle.
    pub idle_timeout: Duration,
    /// How long a reservation is good.
    pub reservation_lifetime: Duration,
    /// What makes this worker's environments unlike those of others on the host, earlier ones of itself included.
    pub run: u32,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch an environment. It reports, whatever comes of it, with [`Core::gone`] last of all.
    Create(Creation),
    /// Give an environment its invocation, also while it starts.
    Invoke {
        /// Which environment.
        environment: EnvironmentId,
        /// Which invocation.
        invocation: InvocationId,
    },
    /// Answer an invocation that will never reach an environment with a failure.
    Abandon(InvocationId),
    /// Ask an environment to end.
    Shutdown(EnvironmentId, EndReason),
    /// End an environment at once.
    Kill(EnvironmentId, EndReason),
    /// An environment is new, or its state is.
    Changed(EnvironmentInfo),
    /// The lease is another, or its state is.
    LeaseChanged(WorkerState),
    /// Nothing is left and nothing will come: the process can end.
    Terminated,
}

/// An environment to launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Its id.
    pub environment: EnvironmentId,
    /// Its version, which is known.
    pub version: FunctionVersionId,
    /// How it comes to be initialised.
    pub initialization: Initialization,
    /// Why.
    pub reason: CreateReason,
    /// When its microVM is to end itself, by `CLOCK_BOOTTIME`.
    pub deadline: BootTime,
}

/// The machine.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    lease: Lease,
    registry: Registry,
    environments: BTreeMap<EnvironmentId, Entry>,
    /// Those that wait for others to be gone before they are launched.
    planned: VecDeque<EnvironmentId>,
    versions: BTreeMap<FunctionVersionId, VersionPool>,
    targets: BTreeMap<FunctionVersionId, Target>,
    /// Targets that may have to be acted on.
    unsettled: BTreeSet<FunctionVersionId>,
    reservations: HashMap<TokenHash, Reserved>,
    /// Invocations with a reservation that can still be spent.
    reserved: HashMap<InvocationId, TokenHash>,
    /// Invocations that were begun and are not over.
    live: HashMap<InvocationId, EnvironmentId>,
    timers: BTreeSet<(BootTime, Timer)>,
    /// What environments take that were launched and are not gone.
    launched: Capacity,
    /// What environments take that are planned, or launched and not being ended.
    admitted: Capacity,
    effects: Vec<Effect>,
    created: u32,
}

/// A version's environments.
#[derive(Debug, Default)]
struct VersionPool {
    /// Launched and not gone.
    launched: u32,
    /// Planned, or launched and not being ended.
    admitted: u32,
    /// Idle without a claim, the most recently used last.
    idle: Vec<EnvironmentId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Environment(EnvironmentId),
    Reservation(TokenHash),
    Target(FunctionVersionId),
}

impl Core {
    /// A worker without a lease.
    #[must_use]
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            lease: Lease::new(config.reservation_lifetime),
            registry: Registry::default(),
            environments: BTreeMap::new(),
            planned: VecDeque::new(),
            versions: BTreeMap::new(),
            targets: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            reservations: HashMap::new(),
            reserved: HashMap::new(),
            live: HashMap::new(),
            timers: BTreeSet::new(),
            launched: Capacity::default(),
            admitted: Capacity::default(),
            effects: Vec::new(),
            created: 0,
        }
    }

    /// What is to be done since the last time.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Self::on_tick`] is due, if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.lease.deadline()).min()
    }

    /// The lease.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The function versions.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What environments take that were launched and are not gone.
    #[must_use]
    pub fn used(&self) -> Capacity {
        self.launched
    }

    /// What a grant would come to; it is to be kept before it is [applied](Self::apply_lease).
    ///
    /// # Errors
    /// [`LeaseError`]
    pub fn plan_lease(
        &self,
        duration: Duration,
        longest_invocation: Duration,
        now: BootTime,
    ) -> Result<Term, LeaseError> {
        self.lease.plan(duration, longest_invocation, now)
    }

    /// Makes a planned or restored grant count; `draining` if the worker drained under it already.
    pub fn apply_lease(&mut self, term: Term, draining: bool, now: BootTime) {
        self.lease.apply(term);
        if draining {
            self.lease.drain();
        }
        self.unsettled.extend(self.targets.keys());
        self.effects.push(Effect::LeaseChanged(self.lease.state()));
        self.on_tick(now);
    }

    /// Begins the drain.
    pub fn drain(&mut self, now: BootTime) {
        self.begin_drain(EndReason::WorkerDraining, now);
        self.settle(now);
    }

    /// Makes a function version known.
    ///
    /// # Errors
    /// [`RegisterError`]
    pub fn register(
        &mut self,
        version: Version,
        now: BootTime,
    ) -> Result<Registered, RegisterError> {
        let registered = self.registry.register(version)?;
        if let Some(retired) = registered.retired {
            self.retire(retired, now);
        }
        self.settle(now);
        Ok(registered)
    }

    /// Forgets a function version; gives the number of environments that end for it.
    ///
    /// # Errors
    /// [`UnknownFunctionVersion`]
    pub fn remove(
        &mut self,
        id: FunctionVersionId,
        now: BootTime,
    ) -> Result<u32, UnknownFunctionVersion> {
        self.registry.remove(id).ok_or(UnknownFunctionVersion)?;
        let ending = self.retire(id, now);
        self.settle(now);
        Ok(ending)
    }

    /// Ends an environment at once.
    ///
    /// # Errors
    /// [`UnknownEnvironment`]
    pub fn destroy(
        &mut self,
        id: EnvironmentId,
        now: BootTime,
    ) -> Result<EnvironmentInfo, UnknownEnvironment> {
        if !self.environments.contains_key(&id) {
            return Err(UnknownEnvironment);
        }
        let before = self.environment(id, now)?;
        self.end(id, EndReason::OperatorRequest, true, now);
        self.settle(now);
        Ok(self.environment(id, now).unwrap_or(EnvironmentInfo {
            state: EnvironmentState::Gone,
            ending_for: Some(EndReason::OperatorRequest),
            ..before
        }))
    }

    /// One environment.
    ///
    /// # Errors
    /// [`UnknownEnvironment`]
    pub fn environment(
        &self,
        id: EnvironmentId,
        now: BootTime,
    ) -> Result<EnvironmentInfo, UnknownEnvironment> {
        self.environments.get(&id).map(|entry| entry.info(id, now)).ok_or(UnknownEnvironment)
    }

    /// All environments, or those of one version.
    #[must_use]
    pub fn environments(
        &self,
        version: Option<FunctionVersionId>,
        now: BootTime,
    ) -> Vec<EnvironmentInfo> {
        let all = self.environments.iter();
        let wanted = all.filter(|(_, entry)| version.is_none_or(|it| it == entry.version));
        wanted.map(|(id, entry)| entry.info(*id, now)).collect()
    }

    /// How many environments of a version there are.
    #[must_use]
    pub fn count(&self, version: FunctionVersionId) -> u32 {
        self.versions.get(&version).map_or(0, |pool| pool.launched.max(pool.admitted))
    }

    /// How many invocations are under way or wait for an environment's start.
    #[must_use]
    pub fn invocations(&self) -> usize {
        self.live.len()
    }

    /// Whether an invocation is under way or waits for an environment's start.
    #[must_use]
    pub fn is_live(&self, invocation: InvocationId) -> bool {
        self.live.contains_key(&invocation)
    }

    /// Time passed.
    pub fn on_tick(&mut self, now: BootTime) {
        let before = self.lease.state();
        self.lease.on_tick(now);
        match (before, self.lease.state()) {
            (WorkerState::Active, WorkerState::Draining) => {
                self.effects.push(Effect::LeaseChanged(WorkerState::Draining));
                self.end_free(EndReason::LeaseEnding, now);
            }
            (before, after) if before != after => {
                self.effects.push(Effect::LeaseChanged(after));
                if after == WorkerState::Terminating {
                    self.end_all(EndReason::LeaseEnding, now);
                }
            }
            _ => {}
        }
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Environment(id) => self.on_environment_timer(id, now),
                Timer::Reservation(hash) => self.on_reservation_timer(hash, now),
                Timer::Target(id) => {
                    self.unsettled.insert(id);
                }
            }
        }
        self.settle(now);
    }

    fn begin_drain(&mut self, reason: EndReason, now: BootTime) {
        if !matches!(self.lease.state(), WorkerState::Unleased | WorkerState::Active) {
            return;
        }
        self.lease.drain();
        self.effects.push(Effect::LeaseChanged(WorkerState::Draining));
        self.end_free(reason, now);
    }

    /// The version's environments end as soon as each is free.
    fn retire(&mut self, version: FunctionVersionId, now: BootTime) -> u32 {
        self.targets.remove(&version);
        let mut ending = 0;
        for id in self.ids_of(version) {
            let Some(entry) = self.environments.get(&id) else { continue };
            if entry.is_ending() {
                continue;
            }
            if entry.is_launched() {
                self.retire_environment(id, EndReason::VersionRetired, now);
            } else {
                // Nobody will know what to launch.
                self.end(id, EndReason::VersionRetired, false, now);
            }
            ending += 1;
        }
        ending
    }

    /// Everything that follows from a change: launches, replacements, and the worker's own end.
    fn settle(&mut self, now: BootTime) {
        self.settle_targets(now);
        self.launch_planned(now);
        if self.lease.state() == WorkerState::Draining && self.is_finished() {
            self.lease.terminate();
            self.effects.push(Effect::LeaseChanged(WorkerState::Terminating));
            self.end_all(EndReason::WorkerDraining, now);
        }
        if self.lease.state() == WorkerState::Terminating && self.environments.is_empty() {
            self.lease.terminated();
            self.effects.push(Effect::LeaseChanged(WorkerState::Terminated));
            self.effects.push(Effect::Terminated);
        }
    }

    /// Whether no invocation is under way and none can come.
    fn is_finished(&self) -> bool {
        self.live.is_empty()
            && self.reserved.is_empty()
            && !self.environments.values().any(|entry| entry.claim != Claim::None)
    }

    fn ids_of(&self, version: FunctionVersionId) -> Vec<EnvironmentId> {
        let all = self.environments.iter();
        all.filter(|(_, entry)| entry.version == version).map(|(id, _)| *id).collect()
    }

    fn current_schedule(&self) -> Option<Schedule> {
        self.lease.schedule()
    }
}
