//! The world: its clock, what is to happen, and the loop that a worker's service is to the core.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use votive_agent::clock::{BootTime, Moment};
use votive_agent::environment::{Environment, EnvironmentSpec};
use votive_agent::event::{Action, Event, GoneReason};
use votive_agent::invocation::InvocationSpec;
use votive_agent::worker::api::{
    Capacity, EndReason, EnvironmentId, EnvironmentState, FunctionVersionId, WorkerState,
};
use votive_agent::worker::config::WorkerLimits;
use votive_agent::worker::core::{Core, CoreConfig, Creation, Effect};
use votive_agent::worker::lease_file::LeaseRecord;
use votive_agent::worker::registry::Version;
use votive_protocol::{InvocationId, ShutdownReason};

use crate::guests::{Guest, Happening};
use crate::random::Random;
use crate::versions;

/// How long a VMM may leave a question unanswered.
const HANG_TIMEOUT: Duration = Duration::from_millis(500);

/// A world in which something happened that must not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the world was made of.
    pub seed: u64,
    /// At which step.
    pub step: u64,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.what)
    }
}

/// What happened in worlds, to see that all of it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Environments that were launched.
    pub environments: u64,
    /// Invocations that were begun by a caller.
    pub invocations: u64,
    /// Reservations and invocations that were refused.
    pub refused: u64,
    /// Faults of guests and VMMs.
    pub faults: u64,
    /// Starts of the agent anew.
    pub restarts: u64,
    /// Workers that came to their end.
    pub terminated: u64,
    /// Provisioned environments that were restored after the last fault.
    pub restored: u64,
}

impl Counts {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.environments += other.environments;
        self.invocations += other.invocations;
        self.refused += other.refused;
        self.faults += other.faults;
        self.restarts += other.restarts;
        self.terminated += other.terminated;
        self.restored += other.restored;
    }
}

/// An environment with the guest that is played in it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) environment: Environment,
    pub(crate) version: FunctionVersionId,
    pub(crate) cost: Capacity,
    pub(crate) guest: Guest,
    /// When its VMM ends itself.
    pub(crate) deadline: u64,
    /// The invocation that it was given and has not finished.
    pub(crate) invocation: Option<InvocationId>,
}

/// What the world knows of a reservation.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) token: String,
    pub(crate) invocation: InvocationId,
    pub(crate) version: FunctionVersionId,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: u64,
    /// How far the time of day is from the clock that nobody can set.
    pub(crate) wall_offset: u64,
    pub(crate) boot: u32,
    pub(crate) core: Core,
    pub(crate) config: CoreConfig,
    pub(crate) versions: Vec<Version>,
    pub(crate) known: BTreeSet<FunctionVersionId>,
    pub(crate) places: BTreeMap<EnvironmentId, Place>,
    pub(crate) agenda: BinaryHeap<Reverse<(u64, u64, EnvironmentId, Happening)>>,
    pub(crate) sequence: u64,
    pub(crate) held: Vec<Held>,
    /// Invocations that were taken, and whether each was answered.
    pub(crate) taken: HashMap<InvocationId, bool>,
    pub(crate) next_invocation: u64,
    pub(crate) record: Option<LeaseRecord>,
    /// When nothing may be left, by all that was ever granted.
    pub(crate) expires: Option<u64>,
    pub(crate) life_ends: Option<u64>,
    pub(crate) terminated: bool,
    /// Whether things still go wrong.
    pub(crate) faulty: bool,
    pub(crate) counts: Counts,
    pub(crate) broken: Option<String>,
}

/// Plays the world of a seed to its end.
///
/// # Errors
/// [`Failure`]
pub fn run(seed: u64) -> Result<Counts, Failure> {
    let mut world = World::new(seed);
    if !world.random.chance(50) {
        world.begin();
    }
    let steps = world.random.between(20, 200);
    for _ in 0..steps {
        world.step();
        world.check(seed)?;
        if world.terminated {
            break;
        }
    }
    world.conclude(seed)?;
    Ok(world.counts)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let environments = u32::try_from(random.between(1, 8)).unwrap_or(1);
        let limits = WorkerLimits {
            capacity: Capacity {
                environments,
                memory_mb: random.between(1200, 4000),
                vcpus: u32::try_from(random.between(1, 9)).unwrap_or(1),
            },
            per_function_version: u32::try_from(random.between(1, 8)).unwrap_or(1),
        };
        let config = CoreConfig {
            limits,
            idle_timeout: Duration::from_secs(random.between(1, 600)),
            reservation_lifetime: Duration::from_secs(5),
            run: 1,
        };
        Self {
            random,
            now: 1_000_000_000_000,
            wall_offset: 1_000_000_000_000_000,
            boot: 1,
            core: Core::new(config),
            config,
            versions: versions::all(),
            known: BTreeSet::new(),
            places: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            sequence: 0,
            held: Vec::new(),
            taken: HashMap::new(),
            next_invocation: 0,
            record: None,
            expires: None,
            life_ends: None,
            terminated: false,
            faulty: true,
            counts: Counts::default(),
            broken: None,
        }
    }

    pub(crate) fn boot_time(&self) -> BootTime {
        BootTime::from_nanoseconds(self.now)
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment::from_nanoseconds(self.now)
    }

    pub(crate) fn break_rule(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// What most orchestrators do first.
    pub(crate) fn begin(&mut self) {
        let longest = Duration::from_secs(self.random.between(1, 900));
        let duration = Duration::from_secs(self.random.between(30, 6 * 3600)) + longest;
        self.grant_this(duration, longest);
        for _ in 0..self.random.between(2, 10) {
            self.register();
        }
        self.carry_out();
    }

    /// One step: somebody asks something, something breaks, or time goes on to what happens next.
    fn step(&mut self) {
        self.counts.steps += 1;
        match self.random.below(100) {
            0..45 => self.ask(),
            45..47 => self.fail(),
            _ => self.pass(),
        }
        self.carry_out();
    }

    /// Time passes: to the next thing that happens, or a little if that is far off.
    fn pass(&mut self) {
        let far = self.next().is_none_or(|at| at.saturating_sub(self.now) > 20_000_000_000);
        if far && !self.random.chance(30) {
            let little = self.random.between(1, 3_000_000_000);
            self.go_to(self.now + little);
        } else {
            self.go_on();
        }
    }

    /// Time goes on to the next thing that happens.
    pub(crate) fn go_on(&mut self) -> bool {
        let Some(at) = self.next() else { return false };
        self.go_to(at);
        true
    }

    pub(crate) fn next(&self) -> Option<u64> {
        let agenda = self.agenda.peek().map(|Reverse((at, ..))| *at);
        let core = self.core.deadline().map(BootTime::nanoseconds);
        let places = self.places.values().filter_map(|it| it.environment.deadline());
        let places = places.map(|at| at.since(Moment::default()).as_nanos());
        let places = places.min().map(|at| u64::try_from(at).unwrap_or(u64::MAX));
        agenda.into_iter().chain(core).chain(places).min()
    }

    /// Everything that is due at `at`.
    pub(crate) fn go_to(&mut self, at: u64) {
        self.now = self.now.max(at);
        while let Some(Reverse((due, _, id, happening))) = self.agenda.peek().copied() {
            if due > self.now {
                break;
            }
            self.agenda.pop();
            self.happen(id, happening);
            self.carry_out();
        }
        let now = self.moment();
        let due: Vec<_> = self
            .places
            .iter()
            .filter(|(_, it)| it.environment.deadline().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.event(id, Event::Tick);
        }
        self.core.on_tick(self.boot_time());
        self.carry_out();
    }

    /// Something happens to an environment.
    pub(crate) fn event(&mut self, id: EnvironmentId, event: Event) {
        let now = self.moment();
        let Some(place) = self.places.get_mut(&id) else { return };
        let actions = place.environment.on(event, now);
        self.act(id, actions);
    }

    /// Does what the core wants done, as the service does.
    pub(crate) fn carry_out(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry(effect);
            }
        }
    }

    fn carry(&mut self, effect: Effect) {
        let now = self.moment();
        match effect {
            Effect::Create(creation) => self.create(creation),
            Effect::Invoke { environment, invocation } => self.invoke(environment, invocation),
            Effect::Abandon(invocation) => self.answered(invocation),
            Effect::Shutdown(id, _) => {
                if let Some(place) = self.places.get_mut(&id) {
                    let actions = place.environment.shutdown(ShutdownReason::Spindown, now);
                    self.act(id, actions);
                }
            }
            Effect::Kill(id, _) => {
                if let Some(place) = self.places.get_mut(&id) {
                    let actions = place.environment.kill(GoneReason::Shutdown, now);
                    self.act(id, actions);
                }
            }
            Effect::Changed(info) => {
                if info.state == EnvironmentState::Gone && info.ending_for.is_none() {
                    self.break_rule(format!("{} ended without a reason", info.id));
                }
                if let Some(place) = self.places.get(&info.id)
                    && place.version != info.version
                {
                    self.break_rule(format!("{} is for another version now", info.id));
                }
            }
            Effect::LeaseChanged(state) => {
                if state == WorkerState::Draining
                    && let Some(record) = &mut self.record
                {
                    record.draining = true;
                }
            }
            Effect::Terminated => {
                self.terminated = true;
                self.counts.terminated += 1;
            }
        }
    }

    fn create(&mut self, creation: Creation) {
        let id = creation.environment;
        let Some(version) = self.core.registry().get(creation.version) else {
            return self.break_rule(format!("{id} is of a version that nobody knows"));
        };
        let function = &version.function;
        let spec = EnvironmentSpec {
            init_timeout: function.init_timeout(),
            initialization: creation.initialization,
            hang_timeout: Some(HANG_TIMEOUT),
        };
        let place = Place {
            environment: Environment::new(spec, self.moment()),
            version: creation.version,
            cost: Capacity {
                environments: 1,
                memory_mb: u64::from(function.microvm_memory_mib()),
                vcpus: function.vcpus(),
            },
            guest: Guest::new(),
            deadline: creation.deadline.nanoseconds(),
            invocation: None,
        };
        if self.places.insert(id, place).is_some() {
            self.break_rule(format!("{id} was launched twice"));
        }
        self.counts.environments += 1;
        self.boot(id, creation.deadline.nanoseconds());
    }

    fn invoke(&mut self, id: EnvironmentId, invocation: InvocationId) {
        let now = self.moment();
        let Some(place) = self.places.get_mut(&id) else {
            return self.break_rule(format!("an invocation for {id}, which is gone"));
        };
        if let Some(before) = place.invocation {
            return self.break_rule(format!("{id} has {before} and is given {invocation}"));
        }
        let timeout = self.core.registry().get(place.version).map(|it| it.function.timeout());
        let timeout = timeout.unwrap_or(Duration::from_secs(3));
        let spec = InvocationSpec { id: invocation, timeout, memory_mb: 128 };
        match place.environment.invoke(spec, now) {
            Ok(actions) => {
                place.invocation = Some(invocation);
                self.act(id, actions);
            }
            // It came to its end by itself, and the core has not heard of it yet. Its task answers.
            Err(_) => {
                self.answered(invocation);
                self.core.finished(id, invocation, self.boot_time());
            }
        }
    }

    /// A caller has its answer.
    pub(crate) fn answered(&mut self, invocation: InvocationId) {
        match self.taken.get_mut(&invocation) {
            Some(answered) if !*answered => *answered = true,
            Some(_) => self.break_rule(format!("{invocation} was answered twice")),
            None => self.break_rule(format!("{invocation} was answered and never taken")),
        }
    }

    /// Does what an environment wants done, as its task does.
    pub(crate) fn act(&mut self, id: EnvironmentId, actions: Vec<Action>) {
        let now = self.boot_time();
        for action in actions {
            match action {
                Action::Configure => {
                    self.core.initialising(id, now);
                    self.on_configure(id);
                }
                Action::Invoke(invocation) => {
                    self.core.begun(id, now);
                    self.on_invoke(id, invocation);
                }
                Action::Reset(_) => self.on_reset(id),
                Action::Shutdown(_) => self.on_shutdown(id),
                Action::Pause => self.on_pause(id),
                Action::Resume => self.on_resume(id),
                Action::Kill => self.on_kill(id),
                Action::InitFailed(report) if !report.inside_invocation => {
                    self.core.init_failed(id, now);
                }
                Action::Finished(outcome) => {
                    if let Some(place) = self.places.get_mut(&id)
                        && place.invocation.take() != Some(outcome.id)
                    {
                        self.break_rule(format!(
                            "{id} finished {}, which it never had",
                            outcome.id
                        ));
                    }
                    self.answered(outcome.id);
                    self.core.finished(id, outcome.id, now);
                }
                Action::Idle => self.core.idle(id, now),
                Action::Gone(reason) => {
                    if let Some(place) = self.places.remove(&id)
                        && let Some(invocation) = place.invocation
                    {
                        self.break_rule(format!("{id} took {invocation} with it ({reason})"));
                    }
                    self.core.gone(id, EndReason::VmmLost, now);
                }
                Action::Throttle
                | Action::Unthrottle
                | Action::Head(_)
                | Action::Respond(..)
                | Action::Answered(_)
                | Action::Log(..)
                | Action::Extension(_)
                | Action::Subscription(_)
                | Action::InitFailed(_) => {}
            }
        }
    }

    pub(crate) fn plan(&mut self, id: EnvironmentId, delay: u64, happening: Happening) {
        self.sequence += 1;
        let at = self.now.saturating_add(delay);
        self.agenda.push(Reverse((at, self.sequence, id, happening)));
    }
}
