//! `votive run`: one function, one microVM, one invocation, and nothing left behind.
//!
//! [`run`] prepares the disks, starts the microVM and enters the loop that owns the [`Environment`]: every event there is comes
//! through one queue, is handed to the state machine with the time, and what that wants done is done.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{
    FaultCode, FileSystem, InitializationType, InvocationId, LogStream, Mount, MountTarget,
    ResponseMode, ShutdownReason,
};

use crate::clock::{Moment, wall_clock};
use crate::cold_start::Timeline;
use crate::environment::{Environment, EnvironmentSpec, new_invocation_id};
use crate::event::{Action, Event, GoneReason, GuestEvent};
use crate::function::Function;
use crate::images::{Images, ImagesError};
use crate::invocation::{Condition, InvocationSpec, Outcome, never_begun};
use crate::limits::{EVENTS_WAITING_MAX, MESSAGES_WAITING_MAX, PIPE_GRACE, SHUTDOWN_GRACE_MS};
use crate::link::{Configuration, FrameReader, FrameWriter, HostMessage, Request};
use crate::log::{LineCutter, LogWriter, function_line};
use crate::microvm::{
    Disk, KernelMemory, Microvm, MicrovmControl, MicrovmError, MicrovmSpec, Spawned,
};
use crate::report::{
    LogFormat, end_line, extension_line, init_report_line, start_line, subscription_line,
};
use crate::scratch::{self, ScratchError};
use crate::worker::api::Initialization;

/// What to run.
#[derive(Debug)]
pub struct RunSpec {
    /// The function.
    pub function: Function,
    /// Where its code is.
    pub code: Code,
    /// Kernel, initramfs, runtimes, VMM.
    pub images: Images,
    /// The event.
    pub payload: Vec<u8>,
    /// How the log is written; not at all without.
    pub log: Option<LogFormat>,
    /// The folder for the guest's console.
    pub keep_logs: Option<PathBuf>,
}

/// A function's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// As its owner packed it.
    Zip(PathBuf),
    /// As an image that was made of it before.
    Image(PathBuf),
}

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// The invocation's end.
    pub outcome: Outcome,
    /// The answer's bytes, complete or, if streamed, up to where it failed.
    pub response: Vec<u8>,
    /// Where the time went.
    pub timeline: Timeline,
    /// Why the environment is gone, if it was not told to.
    pub lost: Option<GoneReason>,
}

/// Why there was no invocation.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An image is missing.
    #[error(transparent)]
    Images(#[from] ImagesError),
    /// The code could not be made an image.
    #[error("the code in {path} cannot be made an image")]
    Code {
        /// The ZIP.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A temporary file.
    #[error("no temporary file can be made")]
    Temporary(#[source] std::io::Error),
    /// The folder for logs.
    #[error("no console log can be made in {folder}")]
    Logs {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The scratch disk.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The microVM.
    #[error(transparent)]
    Microvm(#[from] MicrovmError),
    /// The operator ended it.
    #[error("ended by {0}")]
    Interrupted(&'static str),
}

/// What an operator ends a run with.
#[derive(Debug)]
pub struct Interrupts {
    /// `SIGINT`
    pub interrupt: tokio::signal::unix::Signal,
    /// `SIGTERM`
    pub terminate: tokio::signal::unix::Signal,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate })
    }

    /// Waits for one; gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Runs one invocation.
///
/// # Errors
/// [`RunError`] if it came to no invocation. Whatever is returned, no process, file or socket is left.
pub async fn run(spec: RunSpec, interrupts: &mut Interrupts) -> Result<RunEnd, RunError> {
    let timeline = Timeline { command: Some(Moment::now()), ..Timeline::default() };
    let (spec, microvm_spec) = prepare(spec, interrupts).await?;
    let started = Session::start(spec, microvm_spec, timeline)?;
    started.serve(interrupts).await
}

/// Makes the disks, which blocks: it is done beside the loop, so that a signal finds someone to hear it.
async fn prepare(
    spec: RunSpec,
    interrupts: &mut Interrupts,
) -> Result<(RunSpec, MicrovmSpec), RunError> {
    let mut work = tokio::task::spawn_blocking(move || {
        let microvm_spec = open_everything(&spec)?;
        Ok::<_, RunError>((spec, microvm_spec))
    });
    let joined = tokio::select! {
        joined = &mut work => joined,
        signal = interrupts.next() => {
            // The work cannot be stopped half-way, but it is bounded, and cleans up after itself.
            let _ = work.await;
            return Err(RunError::Interrupted(signal));
        }
    };
    joined.map_err(|error| RunError::Temporary(std::io::Error::other(error)))?
}

fn open_everything(spec: &RunSpec) -> Result<MicrovmSpec, RunError> {
    let function = &spec.function;
    let images = &spec.images;
    Images::open("the guest kernel", images.kernel())?;
    Images::open("the initramfs", images.initrd())?;
    Images::open("votive-vmm", images.vmm().to_owned())?;
    let runtime = Images::open("the runtime image", images.runtime(function))?;
    let console = spec.keep_logs.as_deref().map(create_console).transpose()?;
    let code = match &spec.code {
        Code::Image(path) => Images::open("the code image", path.clone())?,
        Code::Zip(path) => pack(path)?,
    };
    let scratch = scratch::create(function.scratch_bytes())?;
    let disk = |file, read_only| Disk { file, read_only };
    Ok(MicrovmSpec {
        vmm: images.vmm().to_owned(),
        kernel: images.kernel(),
        initrd: images.initrd(),
        vcpus: function.vcpus(),
        memory_mib: function.microvm_memory_mib(),
        disks: vec![disk(runtime, true), disk(code, true), disk(scratch, false)],
        console,
        kernel_memory: KernelMemory::default(),
        deadline: None,
        cgroup: None,
    })
}

fn create_console(folder: &Path) -> Result<File, RunError> {
    let create = || {
        std::fs::create_dir_all(folder)?;
        File::create(folder.join("console.log"))
    };
    create().map_err(|source| RunError::Logs { folder: folder.to_owned(), source })
}

/// Makes an image of a ZIP, which has no name any more. What a process leaves that is killed half-way, the next one removes.
fn pack(zip: &Path) -> Result<File, RunError> {
    let limits = votive_artifact::Limits::default();
    let folder = std::env::temp_dir();
    let (image, summary) = votive_artifact::optimise_zip_unnamed(zip, &folder, &limits)
        .map_err(|source| RunError::Code { path: zip.to_owned(), source: Box::new(source) })?;
    tracing::debug!(?summary, "the code's image is made");
    Ok(image)
}

/// The disks of [`open_everything`], as PID 1 mounts them.
fn mounts() -> [Option<Mount>; MOUNTS_MAX] {
    let mount = |device, target, file_system| Some(Mount { device, target, file_system });
    let mut mounts = [None; MOUNTS_MAX];
    mounts[0] = mount(0, MountTarget::Root, FileSystem::Erofs);
    mounts[1] = mount(1, MountTarget::Task, FileSystem::Erofs);
    mounts[2] = mount(2, MountTarget::Tmp, FileSystem::Ext4);
    mounts
}

/// A run with its microVM.
struct Session {
    spec: RunSpec,
    id: InvocationId,
    environment: Environment,
    timeline: Timeline,
    events: mpsc::Receiver<Event>,
    messages: mpsc::Sender<HostMessage>,
    kill: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
    log: Option<Log>,
    invoked: bool,
    response: Vec<u8>,
    outcome: Option<Outcome>,
    gone: Option<GoneReason>,
}

struct Log {
    writer: LogWriter,
    format: LogFormat,
    cutter: LineCutter,
}

impl Session {
    fn start(
        spec: RunSpec,
        microvm_spec: MicrovmSpec,
        mut timeline: Timeline,
    ) -> Result<Self, RunError> {
        let Spawned { microvm, link, control, at } = Microvm::spawn(microvm_spec)?;
        timeline.spawned = Some(at);
        let (reader, writer) = link.into_split();
        let (event_sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
        let (messages, mut message_receiver) = mpsc::channel::<HostMessage>(MESSAGES_WAITING_MAX);
        let kill = Arc::new(Notify::new());
        let watch = tokio::spawn(watch(microvm, control, Arc::clone(&kill), reader, event_sender));
        let write = tokio::spawn(async move {
            let mut writer = FrameWriter::new(writer);
            while let Some(message) = message_receiver.recv().await {
                if let Err(error) = writer.send(&message).await {
                    // The reader notices the same, and tells.
                    tracing::debug!(%error, "the guest was not told");
                    return;
                }
            }
        });
        let environment = EnvironmentSpec {
            init_timeout: spec.function.init_timeout(),
            initialization: Initialization::OnDemand,
            hang_timeout: None,
        };
        let environment = Environment::new(environment, at);
        let log = spec.log.map(|format| Log {
            writer: LogWriter::to_stderr(),
            format,
            cutter: LineCutter::default(),
        });
        Ok(Self {
            spec,
            id: new_invocation_id(),
            environment,
            timeline,
            events,
            messages,
            kill,
            tasks: [watch, write],
            log,
            invoked: false,
            response: Vec::new(),
            outcome: None,
            gone: None,
        })
    }

    /// The loop: until nothing is left of the environment.
    async fn serve(mut self, interrupts: &mut Interrupts) -> Result<RunEnd, RunError> {
        let mut interrupted = None;
        while self.gone.is_none() {
            let wait = self.environment.deadline().map(|deadline| deadline.since(Moment::now()));
            let actions = tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.on(event),
                    // The watcher's last event makes the environment `Gone`: it cannot be missing.
                    None => self.environment.kill(GoneReason::LinkClosed, Moment::now()),
                },
                () = sleep(wait) => self.on(Event::Tick),
                signal = interrupts.next(), if interrupted.is_none() => {
                    interrupted = Some(signal);
                    self.environment.kill(GoneReason::Shutdown, Moment::now())
                }
            };
            self.carry_out(actions);
        }
        self.finish(interrupted)
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let now = Moment::now();
        match &event {
            Event::Guest(GuestEvent::Phase(phase) | GuestEvent::Ready(phase)) => {
                self.timeline.note_phase(phase.name, now);
            }
            Event::MicrovmEnded(end) => self.timeline.marks.clone_from(&end.marks),
            Event::Guest(_) | Event::LinkClosed(_) | Event::VmmAnswered | Event::Tick => {}
        }
        if let Event::LinkClosed(Some(error)) = &event {
            tracing::debug!(%error, "the guest link is over");
        }
        self.environment.on(event, now)
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            queue.extend(self.act(action));
        }
    }

    /// Does one thing; gives what follows from it.
    fn act(&mut self, action: Action) -> Vec<Action> {
        match action {
            Action::Configure => self.send(HostMessage::Configure(Box::new(self.configuration()))),
            Action::Invoke(id) => {
                self.timeline.invoked = Some(Moment::now());
                let version = self.spec.function.version().to_owned();
                self.log_line(|format, time| start_line(id, &version, format, time));
                let request = self.request(id);
                self.send(HostMessage::Invoke(Box::new(request)))
            }
            Action::Reset(reason) => self.send(HostMessage::Reset(reason)),
            Action::Shutdown(reason) => {
                self.send(HostMessage::Shutdown { reason, grace_ms: SHUTDOWN_GRACE_MS })
            }
            Action::Pause
            | Action::Resume
            | Action::Throttle
            | Action::Unthrottle
            | Action::Answered(_) => Vec::new(),
            Action::Extension(extension) => {
                self.log_line(|format, time| extension_line(&extension, format, time));
                Vec::new()
            }
            Action::Subscription(subscription) => {
                self.log_line(|format, time| subscription_line(&subscription, format, time));
                Vec::new()
            }
            Action::Kill => {
                self.kill.notify_one();
                Vec::new()
            }
            Action::Respond(ResponseMode::Buffered | ResponseMode::Streaming, mut bytes) => {
                self.response.append(&mut bytes);
                Vec::new()
            }
            Action::Log(stream, bytes) => {
                self.log_function(stream, &bytes);
                Vec::new()
            }
            Action::InitFailed(report) => {
                self.flush_log();
                self.log_line(|format, time| init_report_line(&report, format, time));
                Vec::new()
            }
            Action::Idle => self.on_idle(),
            Action::Finished(outcome) => {
                self.on_finished(*outcome);
                Vec::new()
            }
            Action::Gone(reason) => {
                self.gone = Some(reason);
                Vec::new()
            }
        }
    }

    fn on_idle(&mut self) -> Vec<Action> {
        let now = Moment::now();
        if self.invoked {
            return self.environment.shutdown(ShutdownReason::Spindown, now);
        }
        self.invoked = true;
        // `Idle` was just said: it can be taken.
        self.environment.invoke(self.invocation(), now).unwrap_or_default()
    }

    fn invocation(&self) -> InvocationSpec {
        InvocationSpec {
            id: self.id,
            timeout: self.spec.function.timeout(),
            memory_mb: self.spec.function.memory_mb(),
        }
    }

    fn on_finished(&mut self, outcome: Outcome) {
        self.timeline.finished = Some(Moment::now());
        self.flush_log();
        self.log_line(|format, time| end_line(&outcome.report, format, time));
        self.log_line(|format, time| outcome.report.line(format, time));
        self.outcome = Some(outcome);
    }

    fn send(&mut self, message: HostMessage) -> Vec<Action> {
        match self.messages.try_send(message) {
            Ok(()) => Vec::new(),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.environment.kill(GoneReason::Stuck, Moment::now())
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
            function: self.spec.function.clone(),
            realtime_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            mounts: mounts(),
            log_stream: format!("{date}/[{}]{instance}", self.spec.function.version()),
            initialization: InitializationType::OnDemand,
        }
    }

    fn request(&mut self, id: InvocationId) -> Request {
        let now = wall_clock();
        let deadline = now + self.spec.function.timeout();
        let random = uuid::Uuid::new_v4().simple().to_string();
        let trace = random.get(..24).unwrap_or_default();
        Request {
            id,
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            function_arn: self.spec.function.arn(),
            trace_id: format!("Root=1-{:08x}-{trace};Sampled=0", now.as_secs()),
            client_context: String::new(),
            cognito_identity: String::new(),
            content_type: String::new(),
            realtime_ns: 0,
            payload: std::mem::take(&mut self.spec.payload),
        }
    }

    fn log_line(&self, line: impl Fn(LogFormat, Duration) -> String) {
        if let Some(log) = &self.log {
            log.writer.line(line(log.format, wall_clock()).into_bytes());
        }
    }

    fn log_function(&mut self, stream: LogStream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            for line in log.cutter.push(stream, bytes) {
                log.writer.line(function_line(stream, &line, log.format, wall_clock()));
            }
        }
    }

    fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            for (stream, line) in log.cutter.flush() {
                log.writer.line(function_line(stream, &line, log.format, wall_clock()));
            }
        }
    }

    fn finish(mut self, interrupted: Option<&'static str>) -> Result<RunEnd, RunError> {
        for task in &self.tasks {
            task.abort();
        }
        self.flush_log();
        if let Some(log) = self.log.take() {
            log.writer.finish();
        }
        if let Some(signal) = interrupted {
            return Err(RunError::Interrupted(signal));
        }
        let reason = self.gone.take().unwrap_or(GoneReason::Shutdown);
        let outcome = match self.outcome.take() {
            Some(outcome) => outcome,
            None => never_begun(&self.invocation(), &reason),
        };
        let lost = (outcome.condition == Condition::Dead || reason != GoneReason::Shutdown)
            .then_some(reason);
        Ok(RunEnd { outcome, response: self.response, timeline: self.timeline, lost })
    }
}

/// Whether an environment was lost for a fault of the function's own, rather than of the host's.
#[must_use]
pub fn is_function_fault(reason: &GoneReason) -> bool {
    let own = [FaultCode::InvalidEntrypoint, FaultCode::InvalidWorkingDirectory];
    matches!(reason, GoneReason::Fault { code, .. } if own.contains(code))
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Brings a microVM's events into the queue, its end last of all.
async fn watch(
    microvm: Microvm,
    // Held for as long as the microVM may live, and not used: one invocation has no pause after it.
    _control: MicrovmControl,
    kill: Arc<Notify>,
    reader: OwnedReadHalf,
    events: mpsc::Sender<Event>,
) {
    let mut reading = tokio::spawn(read_frames(reader, events.clone()));
    let end = microvm.wait(kill).await;
    // What the guest said last is still to be read: it may be the reason of its end.
    if tokio::time::timeout(PIPE_GRACE, &mut reading).await.is_err() {
        reading.abort();
    }
    let _ = events.send(Event::MicrovmEnded(end)).await;
}

async fn read_frames(reader: OwnedReadHalf, events: mpsc::Sender<Event>) {
    let mut reader = FrameReader::new(reader);
    loop {
        let (event, last) = match reader.next().await {
            Ok(Some(frame)) => (Event::Guest(frame), false),
            Ok(None) => (Event::LinkClosed(None), true),
            Err(error) => (Event::LinkClosed(Some(error)), true),
        };
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}
