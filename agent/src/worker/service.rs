//! The loop that owns the core: it takes questions and reports, hands them over with the time, and carries out what follows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use votive_protocol::{InvocationId, ShutdownReason};

use crate::clock::{BootTime, wall_clock};
use crate::event::GoneReason;
use crate::limits::{NOTICES_WAITING_MAX, ORDERS_WAITING_MAX, OUTBOX_GRACE};
use crate::metrics::worker::WorkerMetrics;
use crate::worker::actor::{self, ActorSpec, Job, Notice, Order};
use crate::worker::api::{
    EndReason, EnvironmentId, FunctionVersion, FunctionVersionId, InvokeError, LeaseError,
    LeaseStatus, LeaseTimes, RegisterError, Release, UnknownInvocation, WorkerEventKind,
    WorkerState, WorkerStatus,
};
use crate::worker::config::WorkerConfig;
use crate::worker::core::{Core, Creation, Effect};
use crate::worker::journal::{Journal, Sink};
use crate::worker::launcher::{LaunchOrder, Launcher};
use crate::worker::lease::Term;
use crate::worker::lease_file::{Clocks, LeaseFile, LeaseFileError, LeaseRecord};
use crate::worker::registry::Version;
use crate::worker::time::{Alarm, Clock};
use crate::worker::watch::Broadcast;
use crate::worker::{Command, WorkerEnd};

mod answers;

pub(crate) use answers::made_up_trace;

/// A registration whose images are ready, or not to be had.
type Prepared =
    (Result<Version, RegisterError>, oneshot::Sender<Result<FunctionVersion, RegisterError>>);

/// The loop's own.
pub(super) struct Service<L> {
    pub(super) config: WorkerConfig,
    pub(super) core: Core,
    pub(super) launcher: Arc<L>,
    pub(super) clock: Clock,
    pub(super) broadcast: Arc<Broadcast>,
    pub(super) lease_file: LeaseFile,
    pub(super) lease_record: Option<LeaseRecord>,
    pub(super) boot_id: String,
    pub(super) started: BootTime,
    environments: HashMap<EnvironmentId, mpsc::Sender<Order>>,
    actors: JoinSet<()>,
    /// Invocations whose environment is still to be launched.
    jobs: HashMap<InvocationId, Box<Job>>,
    releases: Releases,
    notices: (actor::Notices, mpsc::Receiver<(EnvironmentId, Notice)>),
    prepared: (mpsc::Sender<Prepared>, mpsc::Receiver<Prepared>),
    metrics: WorkerMetrics,
    terminated: bool,
}

/// Releases that callers may still ask for, and callers who wait.
#[derive(Default)]
struct Releases {
    kept: HashMap<InvocationId, Release>,
    order: VecDeque<InvocationId>,
    waiting: HashMap<InvocationId, Vec<oneshot::Sender<Result<Release, UnknownInvocation>>>>,
}

/// What the service is started with.
pub(super) struct Start<L> {
    pub(super) config: WorkerConfig,
    pub(super) core: Core,
    pub(super) launcher: Arc<L>,
    pub(super) clock: Clock,
    pub(super) broadcast: Arc<Broadcast>,
    pub(super) lease_file: LeaseFile,
    pub(super) lease_record: Option<LeaseRecord>,
    pub(super) boot_id: String,
}

impl<L: Launcher> Service<L> {
    pub(super) fn new(start: Start<L>) -> Self {
        let Start { config, core, launcher, clock, broadcast, lease_file, lease_record, boot_id } =
            start;
        Self {
            config,
            core,
            launcher,
            clock,
            broadcast,
            lease_file,
            lease_record,
            boot_id,
            started: clock.boot_time(),
            environments: HashMap::new(),
            actors: JoinSet::new(),
            jobs: HashMap::new(),
            releases: Releases::default(),
            notices: mpsc::channel(NOTICES_WAITING_MAX),
            prepared: mpsc::channel(NOTICES_WAITING_MAX),
            metrics: WorkerMetrics::default(),
            terminated: false,
        }
    }

    /// Serves until nothing is left of the worker.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> WorkerEnd {
        self.carry_out();
        let mut handles_left = true;
        let mut alarm = Alarm::new(self.clock);
        while !self.terminated {
            let deadline = self.core.deadline();
            tokio::select! {
                command = commands.recv(), if handles_left => match command {
                    Some(command) => self.on_command(command),
                    None => {
                        // Nobody can ask for anything any more.
                        handles_left = false;
                        self.core.drain(self.clock.boot_time());
                    }
                },
                notice = self.notices.1.recv() => {
                    if let Some((id, notice)) = notice {
                        self.on_notice(id, notice);
                    }
                }
                prepared = self.prepared.1.recv() => {
                    if let Some((version, reply)) = prepared {
                        self.on_prepared(version, reply);
                    }
                }
                () = alarm.wait_towards(deadline) => {}
                Some(_) = self.actors.join_next(), if !self.actors.is_empty() => {}
            }
            self.core.on_tick(self.clock.boot_time());
            self.carry_out();
        }
        // Callers may still have to take the end of their answers.
        let rest = async { while self.actors.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(OUTBOX_GRACE, rest).await;
        WorkerEnd { lease: self.lease_status() }
    }

    fn on_command(&mut self, command: Command) {
        let now = self.clock.boot_time();
        // A caller who has left does not mind that nobody answers.
        match command {
            Command::GrantLease { duration, longest_invocation, reply } => {
                let _ = reply.send(self.grant(duration, longest_invocation, now));
            }
            Command::Drain(reply) => {
                self.core.drain(now);
                self.carry_out();
                let _ = reply.send(self.lease_status());
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status(now));
            }
            Command::Register(spec, reply) => {
                let (launcher, done) = (Arc::clone(&self.launcher), self.prepared.0.clone());
                self.actors.spawn(async move {
                    let version = launcher.prepare(*spec).await;
                    let _ = done.send((version, reply)).await;
                });
            }
            Command::Remove(id, reply) => {
                let images = self.core.registry().get(id).map(|it| Arc::clone(&it.images));
                let removed = self.core.remove(id, now);
                self.metrics.removed(id);
                if let Some(images) = images {
                    self.forget_images(&images);
                }
                self.carry_out();
                let _ = reply.send(removed);
            }
            Command::FunctionVersions(reply) => {
                let all = self.core.registry().iter();
                let all = all.map(|(id, version)| self.function_version(id, version)).collect();
                let _ = reply.send(all);
            }
            Command::Reserve { version, invocation, reply } => {
                let reserved = self.reserve(version, invocation, now);
                self.count_refusal(version, &reserved);
                let _ = reply.send(reserved);
            }
            Command::Invoke(request, reply) => {
                let version = request.version;
                let begun = self.invoke(*request, now);
                self.count_refusal(version, &begun);
                let _ = reply.send(begun);
            }
            Command::AwaitRelease(invocation, reply) => self.await_release(invocation, reply),
            Command::SetProvisioned { version, environments, reply } => {
                let set = self.core.set_provisioned(version, environments, now);
                if let Ok(set) = &set {
                    self.metrics.provisioned(set);
                }
                self.carry_out();
                let _ = reply.send(set);
            }
            Command::Provisioned(version, reply) => {
                let _ = reply.send(self.core.provisioned(version));
            }
            Command::Environments(version, reply) => {
                let _ = reply.send(self.core.environments(version, now));
            }
            Command::Environment(id, reply) => {
                let _ = reply.send(self.core.environment(id, now));
            }
            Command::Destroy(id, reply) => {
                let destroyed = self.core.destroy(id, now);
                self.carry_out();
                let _ = reply.send(destroyed);
            }
        }
    }

    /// Counts an event and tells it to whoever watches.
    fn tell(&mut self, event: WorkerEventKind) {
        self.metrics.event(&event);
        if let WorkerEventKind::Environment(info) = &event
            && let Ok(provisioned) = self.core.provisioned(info.version)
            && provisioned.requested > 0
        {
            self.metrics.provisioned(&provisioned);
        }
        self.broadcast.tell(event);
    }

    fn count_refusal<T>(&self, version: FunctionVersionId, result: &Result<T, InvokeError>) {
        if let Err(error) = result {
            self.metrics.refused(version, error);
        }
    }

    fn on_notice(&mut self, id: EnvironmentId, notice: Notice) {
        let now = self.clock.boot_time();
        match notice {
            Notice::Launched(process_id) => self.core.launched(id, process_id, now),
            Notice::Initialising => self.core.initialising(id, now),
            Notice::InitFailed => self.core.init_failed(id, now),
            Notice::Begun(invocation) => {
                self.core.begun(id, now);
                self.tell_invocation(id, invocation, None);
            }
            Notice::Finished(outcome, release) => {
                self.core.finished(id, outcome.id, now);
                self.tell_invocation(id, outcome.id, Some(&outcome));
                self.releases.keep(*release);
            }
            Notice::Idle => self.core.idle(id, now),
            Notice::Gone(reason, _) => {
                tracing::info!(environment = %id, %reason, "an environment is gone");
                self.environments.remove(&id);
                self.core.gone(id, end_reason(&reason), now);
            }
        }
    }

    fn on_prepared(
        &mut self,
        version: Result<Version, RegisterError>,
        reply: oneshot::Sender<Result<FunctionVersion, RegisterError>>,
    ) {
        let now = self.clock.boot_time();
        let registered = version.and_then(|version| {
            let registered = self.core.register(version.clone(), now)?;
            Ok(self.function_version(registered.id, &version))
        });
        if let Ok(version) = &registered {
            self.metrics.registered(version);
        }
        self.carry_out();
        let _ = reply.send(registered);
    }

    fn grant(
        &mut self,
        duration: Duration,
        longest_invocation: Duration,
        now: BootTime,
    ) -> Result<LeaseStatus, LeaseError> {
        let term = self.core.plan_lease(duration, longest_invocation, now)?;
        let record = self.record_of(term, duration);
        if let Err(error) = self.lease_file.store(&record) {
            tracing::error!(%error, "the lease cannot be kept");
            return Err(LeaseError::NotKept);
        }
        self.lease_record = Some(record);
        self.core.apply_lease(term, false, now);
        self.carry_out();
        Ok(self.lease_status())
    }

    fn record_of(&self, term: Term, duration: Duration) -> LeaseRecord {
        let issued =
            Clocks { boot_id: self.boot_id.clone(), boot_time: term.issued, wall: wall_clock() };
        let first = self.lease_record.as_ref().map_or(&issued, |record| &record.first).clone();
        let longest_invocation = term.longest_invocation;
        LeaseRecord { first, issued, duration, longest_invocation, draining: false }
    }

    /// Writes down that the worker drains, once.
    fn note_drain(&mut self) {
        if let Some(record) = &mut self.lease_record
            && !std::mem::replace(&mut record.draining, true)
            && let Err(error) = self.lease_file.store(record)
        {
            // The lease itself is kept: a worker that is started again serves for what is left of it at most.
            log_file_error(&error);
        }
    }

    /// Does what the core wants done.
    fn carry_out(&mut self) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Create(creation) => self.create(creation),
                Effect::Invoke { environment, invocation } => {
                    if let Some(job) = self.jobs.remove(&invocation) {
                        self.order(environment, Order::Invoke(job));
                    }
                }
                Effect::Abandon(invocation) => self.abandon(invocation),
                Effect::Shutdown(id, reason) => {
                    tracing::info!(environment = %id, reason = reason.name(), "an environment ends");
                    self.order(id, Order::Shutdown(ShutdownReason::Spindown));
                }
                Effect::Kill(id, reason) => {
                    tracing::info!(environment = %id, reason = reason.name(), "an environment is killed");
                    self.order(id, Order::Kill);
                }
                Effect::Changed(info) => {
                    self.tell(WorkerEventKind::Environment(info));
                }
                Effect::LeaseChanged(state) => {
                    tracing::info!(?state, "the worker's lease");
                    if !matches!(state, WorkerState::Unleased | WorkerState::Active) {
                        self.note_drain();
                    }
                    self.broadcast.tell(WorkerEventKind::Lease(self.lease_status()));
                }
                Effect::Terminated => self.terminated = true,
            }
        }
    }

    fn create(&mut self, creation: Creation) {
        let id = creation.environment;
        let Some(version) = self.core.registry().get(creation.version) else { return };
        tracing::info!(environment = %id, version = %creation.version, reason = creation.reason.name(), "an environment is made");
        let order = LaunchOrder {
            environment: id,
            initialization: creation.initialization,
            function: Arc::clone(&version.function),
            images: Arc::clone(&version.images),
            deadline: Some(creation.deadline),
        };
        let sink = Sink::Watchers(Arc::clone(&self.broadcast));
        let spec = ActorSpec {
            id,
            function: Arc::clone(&version.function),
            initialization: creation.initialization,
            hang_timeout: self.config.hang_timeout,
            clock: self.clock,
            journal: Journal::new(id, version.log_format, sink),
        };
        let (orders, receiver) = mpsc::channel(ORDERS_WAITING_MAX);
        self.environments.insert(id, orders);
        let (launcher, notices) = (Arc::clone(&self.launcher), self.notices.0.clone());
        let launch = async move { launcher.launch(order).await };
        self.actors.spawn(actor::run(spec, launch, receiver, notices));
    }

    fn order(&mut self, id: EnvironmentId, order: Order) {
        // One that is gone is on its way to tell so, and answers what it was given.
        let Some(orders) = self.environments.get(&id) else { return };
        if let Err(error) = orders.try_send(order) {
            tracing::debug!(environment = %id, %error, "an environment was not told");
            if let mpsc::error::TrySendError::Closed(Order::Invoke(job))
            | mpsc::error::TrySendError::Full(Order::Invoke(job)) = error
            {
                self.answer_lost(*job, id);
            }
        }
    }

    fn forget_images(&self, images: &crate::worker::registry::VersionImages) {
        let shared = self.core.registry().iter().any(|(_, version)| {
            version.images.code == images.code
                || (images.layers.is_some() && version.images.layers == images.layers)
        });
        if !shared {
            self.launcher.forget(images);
        }
    }

    fn function_version(&self, id: FunctionVersionId, version: &Version) -> FunctionVersion {
        let function = &version.function;
        FunctionVersion {
            id,
            account: function.account().to_owned(),
            function_name: function.name().to_owned(),
            version: function.version().to_owned(),
            runtime: function.runtime().to_owned(),
            handler: function.handler().to_owned(),
            memory_mb: function.memory_mb(),
            timeout: function.timeout(),
            code_sha256: version.code_sha256,
            arn: function.arn(),
            environments: self.core.count(id),
        }
    }

    fn status(&self, now: BootTime) -> WorkerStatus {
        use crate::worker::api::EnvironmentState;
        let mut status = WorkerStatus {
            worker_id: self.config.id.clone(),
            lease: self.lease_status(),
            function_versions: u32::try_from(self.core.registry().len()).unwrap_or(u32::MAX),
            capacity: self.config.limits.capacity,
            used: self.core.used(),
            uptime: now.since(self.started),
            ..WorkerStatus::default()
        };
        for environment in self.core.environments(None, now) {
            *match environment.state {
                EnvironmentState::Creating => &mut status.creating,
                EnvironmentState::Initialising => &mut status.initialising,
                EnvironmentState::Idle => &mut status.idle,
                EnvironmentState::Busy => &mut status.busy,
                EnvironmentState::Ending | EnvironmentState::Gone => &mut status.ending,
            } += 1;
        }
        status
    }

    fn lease_status(&self) -> LeaseStatus {
        let (now, wall) = (self.clock.boot_time(), wall_clock());
        let lease = self.core.lease();
        let times = lease.term().zip(lease.schedule()).map(|(term, schedule)| LeaseTimes {
            issued: wall.saturating_sub(now.since(term.issued)),
            drain_at: wall + schedule.drain_at.since(now),
            expires: wall + term.expires.since(now),
            remaining: term.expires.since(now),
        });
        LeaseStatus { state: lease.state(), times }
    }
}

pub(super) fn log_file_error(error: &LeaseFileError) {
    tracing::error!(%error, "the lease's state cannot be kept");
}

/// Why an environment ended, as the outside is told.
fn end_reason(reason: &GoneReason) -> EndReason {
    match reason {
        // The core gave the order, and knows why.
        GoneReason::Shutdown | GoneReason::Abandoned => EndReason::WorkerDraining,
        GoneReason::MicrovmEnded(end) => match end.code {
            Some(0 | 3) => EndReason::GuestEnded,
            Some(1 | 2) => EndReason::LaunchFailed,
            Some(6) => EndReason::LeaseEnding,
            _ => EndReason::VmmLost,
        },
        GoneReason::LinkClosed | GoneReason::Fault { .. } => EndReason::GuestEnded,
        GoneReason::Violation(_)
        | GoneReason::BootTimeout(_)
        | GoneReason::ResetTimeout(_)
        | GoneReason::Stuck => EndReason::GuestViolation,
        GoneReason::Hung(_) => EndReason::VmmLost,
        GoneReason::NotStarted { .. } => EndReason::LaunchFailed,
    }
}
