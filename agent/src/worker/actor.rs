//! One environment's task: it owns the state machine, the link, the process and the answer under way, and does what the state
//! machine wants done.
//!
//! A caller who reads slowly stops the guest's link and nothing else: orders, time, the VMM's answers and its end are heard all
//! the same.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{InitializationType, InvocationId, Mount, ShutdownReason};

use crate::clock::wall_clock;
use crate::cold_start::Timeline;
use crate::environment::{Environment, EnvironmentSpec};
use crate::event::{Action, Event, GoneReason, GuestEvent};
use crate::function::{Container, Function};
use crate::invocation::{Condition, InvocationSpec, Outcome, never_begun};
use crate::limits::{EVENTS_WAITING_MAX, MESSAGES_WAITING_MAX, SHUTDOWN_GRACE_MS};
use crate::link::{Configuration, HostMessage, Request};
use crate::microvm::{ControlReceiver, ControlRequest, ControlSender, MicrovmEnd};
use crate::report::{end_line, extension_line, init_report_line, start_line, subscription_line};
use crate::worker::api::{AnswerPart, EnvironmentId, Initialization, Release, ReleaseOutcome};
use crate::worker::journal::Journal;
use crate::worker::launcher::{CpuShare, FirstRelease, LaunchError, Launched};
use crate::worker::outbox::Outbox;
use crate::worker::time::{Alarm, Clock};
use crate::worker::wires::{read_guest, watch, write_guest};

/// What an actor is set up with.
#[derive(Debug)]
pub(crate) struct ActorSpec {
    pub(crate) id: EnvironmentId,
    pub(crate) function: Arc<Function>,
    pub(crate) initialization: Initialization,
    /// How long the VMM may take to answer.
    pub(crate) hang_timeout: Duration,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
}

/// What an actor is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// To take an invocation, now or when it can.
    Invoke(Box<Job>),
    /// To end.
    Shutdown(ShutdownReason),
    /// To end at once.
    Kill,
}

/// An invocation with the way back to its caller.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Request,
    pub(crate) caller: mpsc::Sender<AnswerPart>,
    pub(crate) log_tail: bool,
}

/// What an actor reports; [`Notice::Gone`] last of all.
#[derive(Debug)]
pub(crate) enum Notice {
    Launched(Option<u32>),
    Initialising,
    InitFailed,
    Begun(InvocationId),
    /// The invocation is over: how, and what its caller is told of the environment.
    Finished(Box<Outcome>, Box<Release>),
    Idle,
    Gone(GoneReason, Box<Timeline>),
}

/// Where an actor reports to.
pub(crate) type Notices = mpsc::Sender<(EnvironmentId, Notice)>;

/// Launches an environment and serves until nothing is left of it.
pub(crate) async fn run(
    spec: ActorSpec,
    launch: impl Future<Output = Result<Launched, LaunchError>>,
    mut orders: mpsc::Receiver<Order>,
    notices: Notices,
) {
    let mut waiting = None;
    let launched = {
        let mut launch = std::pin::pin!(launch);
        loop {
            tokio::select! {
                launched = &mut launch => {
                    break launched.map_err(|LaunchError { code, text }| {
                        GoneReason::NotStarted { code, text }
                    });
                }
                order = orders.recv() => match order {
                    Some(Order::Invoke(job)) => waiting = Some(job),
                    Some(Order::Shutdown(_) | Order::Kill) => break Err(GoneReason::Shutdown),
                    None => break Err(GoneReason::Abandoned),
                },
            }
        }
    };
    match launched {
        Ok(launched) => {
            let process_id = launched.process_id;
            let mut actor = Actor::new(spec, launched, notices);
            actor.report(Notice::Launched(process_id)).await;
            if let Some(job) = waiting {
                let actions = actor.take_job(job);
                actor.carry_out(actions).await;
            }
            actor.serve(orders).await;
        }
        Err(reason) => never_launched(spec, reason, waiting, &mut orders, &notices).await,
    }
}

/// Answers the invocation that waited for what never came.
async fn never_launched(
    spec: ActorSpec,
    reason: GoneReason,
    waiting: Option<Box<Job>>,
    orders: &mut mpsc::Receiver<Order>,
    notices: &Notices,
) {
    let place = (spec.id, spec.clock);
    if let Some(job) = waiting {
        answer_lost(job, &spec.function, &reason, place, notices).await;
    }
    answer_late(orders, &spec.function, &reason, place, notices).await;
    spec.journal.finish();
    // Nobody listens when the worker itself is gone.
    let _ = notices.send((spec.id, Notice::Gone(reason, Box::default()))).await;
}

/// Answers invocations that crossed the news of the environment's end; none comes after this.
async fn answer_late(
    orders: &mut mpsc::Receiver<Order>,
    function: &Function,
    reason: &GoneReason,
    place: (EnvironmentId, Clock),
    notices: &Notices,
) {
    orders.close();
    while let Ok(order) = orders.try_recv() {
        if let Order::Invoke(job) = order {
            answer_lost(job, function, reason, place, notices).await;
        }
    }
}

/// Answers an invocation that was never begun.
async fn answer_lost(
    job: Box<Job>,
    function: &Function,
    reason: &GoneReason,
    (id, clock): (EnvironmentId, Clock),
    notices: &Notices,
) {
    let outcome = never_begun(&invocation_of(&job, function), reason);
    let mut outbox = Outbox::new(job.caller, clock);
    let release = release_of(id, &outcome, Vec::new());
    outbox.answer(outcome.answer.clone());
    outbox.release(release.clone());
    // An error and its release find room without a reader.
    while !outbox.is_empty() {
        outbox.hand_on().await;
    }
    let finished = Notice::Finished(Box::new(outcome), Box::new(release));
    // Nobody listens when the worker itself is gone.
    let _ = notices.send((id, finished)).await;
}

fn invocation_of(job: &Job, function: &Function) -> InvocationSpec {
    InvocationSpec {
        id: job.request.id,
        timeout: function.timeout(),
        memory_mb: function.memory_mb(),
    }
}

fn release_of(environment: EnvironmentId, outcome: &Outcome, log_tail: Vec<u8>) -> Release {
    Release {
        invocation: outcome.id,
        environment,
        outcome: match outcome.condition {
            Condition::Clean => ReleaseOutcome::Reused,
            Condition::Suspect => ReleaseOutcome::Reset,
            Condition::Dead => ReleaseOutcome::Destroyed,
        },
        report: outcome.report.clone(),
        log_tail,
    }
}

struct Actor {
    id: EnvironmentId,
    function: Arc<Function>,
    initialization: Initialization,
    clock: Clock,
    alarm: Alarm,
    journal: Journal,
    notices: Notices,
    environment: Environment,
    timeline: Timeline,
    mounts: [Option<Mount>; MOUNTS_MAX],
    network: Option<votive_protocol::Network>,
    container: Option<Arc<Container>>,
    first_release: Option<FirstRelease>,
    guest: mpsc::Receiver<Event>,
    guest_over: bool,
    messages: mpsc::Sender<HostMessage>,
    vmm: Option<ControlSender>,
    answers: Option<ControlReceiver>,
    share: Option<Box<dyn CpuShare>>,
    end: oneshot::Receiver<MicrovmEnd>,
    ended: bool,
    kill: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
    /// The request until the state machine has it sent.
    job: Option<Box<Job>>,
    outbox: Option<Outbox>,
    /// The environment is idle, but its last caller has not taken all of the answer.
    idle_later: bool,
    gone: Option<GoneReason>,
}

/// What the loop waits for.
enum Heard {
    Order(Option<Order>),
    Guest(Option<Event>),
    VmmAnswered(bool),
    Ended(MicrovmEnd),
    HandedOn,
    Time,
}

impl Actor {
    fn new(spec: ActorSpec, launched: Launched, notices: Notices) -> Self {
        let (reader, writer) = launched.link.into_split();
        let (event_sender, guest) = mpsc::channel(EVENTS_WAITING_MAX);
        let (messages, message_receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let (end_sender, end) = oneshot::channel();
        let reading = tokio::spawn(read_guest(reader, event_sender));
        let watching = tokio::spawn(watch(launched.end, reading, end_sender));
        let writing = tokio::spawn(write_guest(writer, message_receiver));
        let (vmm, answers) = launched.control.map(|control| control.into_split()).unzip();
        let environment = EnvironmentSpec {
            init_timeout: spec.function.init_timeout(),
            initialization: spec.initialization,
            hang_timeout: vmm.is_some().then_some(spec.hang_timeout),
        };
        Self {
            id: spec.id,
            function: spec.function,
            initialization: spec.initialization,
            clock: spec.clock,
            alarm: Alarm::new(spec.clock),
            journal: spec.journal,
            notices,
            environment: Environment::new(environment, spec.clock.now()),
            timeline: Timeline { spawned: Some(launched.at), ..Timeline::default() },
            mounts: launched.mounts,
            network: launched.network,
            container: launched.container,
            first_release: launched.first_release,
            guest,
            guest_over: false,
            messages,
            vmm,
            answers,
            share: launched.share,
            end,
            ended: false,
            kill: launched.kill,
            tasks: [watching, writing],
            job: None,
            outbox: None,
            idle_later: false,
            gone: None,
        }
    }

    async fn report(&self, notice: Notice) {
        // Nobody listens when the worker itself is gone; the order to end is on its way then.
        let _ = self.notices.send((self.id, notice)).await;
    }

    async fn serve(mut self, mut orders: mpsc::Receiver<Order>) {
        while self.gone.is_none() {
            let heard = self.hear(&mut orders).await;
            let actions = match heard {
                Heard::Order(order) => self.obey(order),
                Heard::Guest(Some(event)) => self.on(event),
                Heard::Guest(None) => {
                    self.guest_over = true;
                    Vec::new()
                }
                Heard::VmmAnswered(true) => self.on(Event::VmmAnswered),
                Heard::VmmAnswered(false) => {
                    // Its process's end is on its way, or it is about to be found hung.
                    self.answers = None;
                    Vec::new()
                }
                Heard::Ended(end) => self.on_end(end).await,
                Heard::HandedOn => Vec::new(),
                Heard::Time => self.on_time(),
            };
            self.carry_out(actions).await;
            self.look_after_caller().await;
        }
        self.finish(orders).await;
    }

    async fn hear(&mut self, orders: &mut mpsc::Receiver<Order>) -> Heard {
        let handing_on = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        let stopped = handing_on && self.environment.is_answering();
        let outbox_deadline = self.outbox.as_ref().and_then(Outbox::deadline);
        let deadline = self.environment.deadline().into_iter().chain(outbox_deadline).min();
        let outbox = &mut self.outbox;
        let answers = &mut self.answers;
        tokio::select! {
            order = orders.recv() => Heard::Order(order),
            end = &mut self.end, if !self.ended => Heard::Ended(end.unwrap_or_else(|_| unknown_end())),
            event = self.guest.recv(), if !stopped && !self.guest_over => Heard::Guest(event),
            answer = next_answer(answers) => Heard::VmmAnswered(answer),
            () = hand_on(outbox), if handing_on => Heard::HandedOn,
            () = self.alarm.wait(deadline) => Heard::Time,
        }
    }

    fn obey(&mut self, order: Option<Order>) -> Vec<Action> {
        let now = self.clock.now();
        match order {
            Some(Order::Invoke(job)) => self.take_job(job),
            Some(Order::Shutdown(reason)) => self.environment.shutdown(reason, now),
            Some(Order::Kill) => self.environment.kill(GoneReason::Shutdown, now),
            None => self.environment.kill(GoneReason::Abandoned, now),
        }
    }

    fn take_job(&mut self, job: Box<Job>) -> Vec<Action> {
        let now = self.clock.now();
        let spec = invocation_of(&job, &self.function);
        self.outbox = Some(Outbox::new(job.caller.clone(), self.clock));
        self.job = Some(job);
        match self.environment.invoke(spec.clone(), now) {
            Ok(actions) => actions,
            // It ends: the invocation crossed the news.
            Err(_) => {
                let outcome = never_begun(&spec, &GoneReason::Shutdown);
                vec![Action::Finished(Box::new(outcome))]
            }
        }
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        if let Event::Guest(GuestEvent::Phase(phase) | GuestEvent::Ready(phase)) = &event {
            self.timeline.note_phase(phase.name, self.clock.now());
        }
        if let Event::LinkClosed(Some(error)) = &event {
            tracing::debug!(environment = %self.id, %error, "the guest link is over");
        }
        self.environment.on(event, self.clock.now())
    }

    /// The process is gone. What the guest said before is heard first: it may be the reason.
    async fn on_end(&mut self, end: MicrovmEnd) -> Vec<Action> {
        self.ended = true;
        while let Ok(event) = self.guest.try_recv() {
            let actions = self.on(event);
            self.carry_out(actions).await;
        }
        self.timeline.marks.clone_from(&end.marks);
        self.on(Event::MicrovmEnded(end))
    }

    fn on_time(&mut self) -> Vec<Action> {
        let now = self.clock.now();
        if let Some(outbox) = &mut self.outbox {
            outbox.on_tick(now);
        }
        self.environment.on(Event::Tick, now)
    }

    /// The environment is idle for others once its caller has all of the answer, or was given up.
    async fn look_after_caller(&mut self) {
        if self.idle_later && self.outbox.as_ref().is_none_or(Outbox::is_empty) {
            self.idle_later = false;
            self.outbox = None;
            self.report(Notice::Idle).await;
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            queue.extend(self.act(action).await);
        }
    }

    /// Does one thing; gives what follows from it.
    async fn act(&mut self, action: Action) -> Vec<Action> {
        match action {
            Action::Configure => {
                self.report(Notice::Initialising).await;
                return self.send(HostMessage::Configure(Box::new(self.configuration())));
            }
            Action::Invoke(id) => return self.invoke(id).await,
            Action::Reset(reason) => return self.send(HostMessage::Reset(reason)),
            Action::Shutdown(reason) => {
                return self.send(HostMessage::Shutdown { reason, grace_ms: SHUTDOWN_GRACE_MS });
            }
            Action::Pause => return self.ask(ControlRequest::Pause),
            Action::Resume => return self.ask(ControlRequest::Resume),
            Action::Throttle => {
                if let Some(share) = &mut self.share {
                    share.throttle();
                }
            }
            Action::Unthrottle => {
                if let Some(share) = &mut self.share {
                    share.unthrottle();
                }
            }
            Action::Kill => self.kill.notify_one(),
            Action::Head(content_type) => {
                if let Some(outbox) = &mut self.outbox {
                    outbox.head(content_type);
                }
            }
            Action::Respond(mode, bytes) => {
                if let Some(outbox) = &mut self.outbox {
                    outbox.piece(mode, bytes);
                }
            }
            Action::Answered(answered) => {
                if let Some(outbox) = &mut self.outbox {
                    outbox.answer(answered);
                }
            }
            Action::Finished(outcome) => self.on_finished(*outcome).await,
            Action::Idle => self.idle_later = true,
            Action::Gone(reason) => self.gone = Some(reason),
            Action::InitFailed(report) => {
                self.journal.flush();
                self.journal.platform(|format, time| init_report_line(&report, format, time));
                if !report.inside_invocation {
                    self.report(Notice::InitFailed).await;
                }
            }
            Action::Log(stream, bytes) => self.journal.function(stream, &bytes),
            Action::Extension(extension) => {
                self.journal.platform(|format, time| extension_line(&extension, format, time));
            }
            Action::Subscription(subscription) => {
                self.journal
                    .platform(|format, time| subscription_line(&subscription, format, time));
            }
        }
        Vec::new()
    }

    async fn invoke(&mut self, id: InvocationId) -> Vec<Action> {
        self.timeline.invoked = Some(self.clock.now());
        let Some(mut job) = self.job.take() else { return Vec::new() };
        self.journal.begin(id, job.log_tail);
        let version = self.function.version();
        self.journal.platform(|format, time| start_line(id, version, format, time));
        let now = wall_clock();
        let deadline = now + self.function.timeout();
        job.request.deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        job.request.realtime_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.report(Notice::Begun(id)).await;
        self.send(HostMessage::Invoke(Box::new(job.request)))
    }

    async fn on_finished(&mut self, outcome: Outcome) {
        self.timeline.finished = Some(self.clock.now());
        // Dropped here if it was never sent.
        self.job = None;
        // One that failed may have read but a part of what others will.
        if outcome.condition == Condition::Clean
            && let Some(first_release) = self.first_release.take()
        {
            first_release();
        }
        self.journal.flush();
        self.journal.platform(|format, time| end_line(&outcome.report, format, time));
        self.journal.platform(|format, time| outcome.report.line(format, time));
        let release = release_of(self.id, &outcome, self.journal.end());
        if let Some(outbox) = &mut self.outbox {
            outbox.answer(outcome.answer.clone());
            outbox.release(release.clone());
        }
        self.report(Notice::Finished(Box::new(outcome), Box::new(release))).await;
    }

    fn ask(&mut self, request: ControlRequest) -> Vec<Action> {
        if let Some(vmm) = &self.vmm
            && let Err(error) = vmm.send(request)
        {
            // It owes an answer now, and will be found hung if its end does not come first.
            tracing::debug!(environment = %self.id, %error, "the VMM was not asked");
        }
        Vec::new()
    }

    fn send(&mut self, message: HostMessage) -> Vec<Action> {
        match self.messages.try_send(message) {
            Ok(()) => Vec::new(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.environment.kill(GoneReason::Stuck, self.clock.now())
            }
            // The writer is gone because the link is: the reader tells.
            Err(mpsc::error::TrySendError::Closed(_)) => Vec::new(),
        }
    }

    fn configuration(&self) -> Configuration {
        let now = wall_clock();
        let date = crate::clock::rfc3339_milliseconds(now);
        let date = date.get(..10).unwrap_or_default().replace('-', "/");
        let instance = uuid::Uuid::new_v4().simple();
        Configuration {
            function: Function::clone(&self.function),
            realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            mounts: self.mounts,
            network: self.network,
            container: self.container.clone(),
            log_stream: format!("{date}/[{}]{instance}", self.function.version()),
            initialization: match self.initialization {
                Initialization::OnDemand => InitializationType::OnDemand,
                Initialization::Provisioned => InitializationType::ProvisionedConcurrency,
            },
        }
    }

    /// The last of the environment: its caller gets what is left of the answer, in bounded time.
    async fn finish(mut self, mut orders: mpsc::Receiver<Order>) {
        for task in &self.tasks {
            task.abort();
        }
        self.journal.finish();
        let reason = self.gone.take().unwrap_or(GoneReason::Shutdown);
        let place = (self.id, self.clock);
        answer_late(&mut orders, &self.function, &reason, place, &self.notices).await;
        let gone = Notice::Gone(reason, Box::new(self.timeline));
        let _ = self.notices.send((self.id, gone)).await;
        while let Some(outbox) = &mut self.outbox
            && !outbox.is_empty()
        {
            let deadline = outbox.deadline();
            tokio::select! {
                () = outbox.hand_on() => {}
                () = self.clock.sleep_until(deadline) => outbox.on_tick(self.clock.now()),
            }
        }
    }
}

/// The end of a process whose watcher is gone.
fn unknown_end() -> MicrovmEnd {
    MicrovmEnd { code: None, signal: None, reason: String::new(), marks: Vec::new() }
}

async fn next_answer(answers: &mut Option<ControlReceiver>) -> bool {
    match answers {
        Some(answers) => match answers.answer().await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "the VMM answers no more");
                false
            }
        },
        None => std::future::pending().await,
    }
}

async fn hand_on(outbox: &mut Option<Outbox>) {
    match outbox {
        Some(outbox) => outbox.hand_on().await,
        None => std::future::pending().await,
    }
}
