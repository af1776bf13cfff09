//! `votive run`: one function, one microVM, one invocation, and nothing left behind.
//!
//! [`run`] prepares the disks, starts the microVM, and gives it to a task as a worker does with each of its environments, with
//! the invocation waiting in it from the beginning. What is left to do is to read the answer, and to have it end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use votive_protocol::{FaultCode, ShutdownReason};

use crate::clock::Moment;
use crate::cold_start::Timeline;
use crate::environment::new_invocation_id;
use crate::event::GoneReason;
use crate::function::Function;
use crate::images::{Images, ImagesError};
use crate::invocation::{Condition, InvocationSpec, Outcome, never_begun};
use crate::jail::{Jail, Jails};
use crate::limits::{ORDERS_WAITING_MAX, PARTS_WAITING_MAX};
use crate::link::Request;
use crate::log::LogWriter;
use crate::microvm::{Disk, Microvm, MicrovmControl, MicrovmError, MicrovmSpec};
use crate::report::LogFormat;
use crate::scratch::{self, ScratchError};
use crate::worker::Clock;
use crate::worker::actor::{self, ActorSpec, Job, Notice, Order};
use crate::worker::api::{AnswerPart, EnvironmentId, Initialization};
use crate::worker::journal::{Journal, Sink};
use crate::worker::microvms::{disks, launched, mounts};
use crate::worker::service::made_up_trace;

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
    /// What makes the VMM's jail, if it is to have one.
    pub jails: Option<Jails>,
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
    /// The microVM came without what holds it.
    #[error("the microVM cannot be held")]
    NoControl,
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
    let begun = Moment::now();
    let (spec, microvm_spec) = prepare(spec, interrupts).await?;
    let started = Session::start(spec, microvm_spec, begun).await?;
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
    let disks = disks(runtime, Disk::new(code, true), None, scratch);
    // Without a control group: one that it may write is not every operator's.
    let jail = spec.jails.clone().map(|jails| Jail::new(jails, None));
    Ok(MicrovmSpec { console, jail, ..MicrovmSpec::new(images, function, disks) })
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

/// A run with its microVM.
struct Session {
    spec: RunSpec,
    begun: Moment,
    orders: mpsc::Sender<Order>,
    notices: mpsc::Receiver<(EnvironmentId, Notice)>,
    parts: mpsc::Receiver<AnswerPart>,
    invocation: InvocationSpec,
    response: Vec<u8>,
    outcome: Option<Outcome>,
    gone: Option<(GoneReason, Timeline)>,
    /// The microVM ends when this is dropped.
    _control: MicrovmControl,
}

/// The only environment there is.
const ENVIRONMENT: EnvironmentId = EnvironmentId(1);
/// How long a VMM may leave a question unanswered: none is asked.
const NEVER_ASKED: Duration = Duration::from_secs(1);

impl Session {
    async fn start(
        spec: RunSpec,
        microvm_spec: MicrovmSpec,
        begun: Moment,
    ) -> Result<Self, RunError> {
        let mut launched = launched(Microvm::spawn(microvm_spec).await?, mounts(false));
        // A guest with one invocation has nothing to be paused for.
        let control = launched.control.take().ok_or(RunError::NoControl)?;
        let function = Arc::new(spec.function.clone());
        let id = new_invocation_id();
        let sink = match spec.log {
            Some(_) => Sink::Stderr(LogWriter::to_stderr()),
            None => Sink::Nowhere,
        };
        let format = spec.log.unwrap_or(LogFormat::Text);
        let actor = ActorSpec {
            id: ENVIRONMENT,
            function: Arc::clone(&function),
            initialization: Initialization::OnDemand,
            hang_timeout: NEVER_ASKED,
            clock: Clock::host(),
            journal: Journal::new(ENVIRONMENT, format, sink),
        };
        let (orders, order_receiver) = mpsc::channel(ORDERS_WAITING_MAX);
        let (notice_sender, notices) = mpsc::channel(ORDERS_WAITING_MAX);
        let (caller, parts) = mpsc::channel(PARTS_WAITING_MAX);
        let launch = std::future::ready(Ok(launched));
        tokio::spawn(actor::run(actor, launch, order_receiver, notice_sender));
        let invocation =
            InvocationSpec { id, timeout: function.timeout(), memory_mb: function.memory_mb() };
        let mut session = Self {
            spec,
            begun,
            orders,
            notices,
            parts,
            invocation,
            response: Vec::new(),
            outcome: None,
            gone: None,
            _control: control,
        };
        session.invoke(caller);
        Ok(session)
    }

    fn invoke(&mut self, caller: mpsc::Sender<AnswerPart>) {
        let request = Request {
            id: self.invocation.id,
            // Both are known when it is sent.
            deadline_ms: 0,
            realtime_ns: 0,
            function_arn: self.spec.function.arn(),
            trace_id: made_up_trace(),
            client_context: String::new(),
            cognito_identity: String::new(),
            content_type: String::new(),
            payload: std::mem::take(&mut self.spec.payload),
        };
        let job = Job { request, caller, log_tail: false };
        self.order(Order::Invoke(Box::new(job)));
    }

    /// The loop: until nothing is left of the environment, and the answer is read.
    async fn serve(mut self, interrupts: &mut Interrupts) -> Result<RunEnd, RunError> {
        let mut interrupted = None;
        let mut answering = true;
        while self.gone.is_none() || answering {
            tokio::select! {
                notice = self.notices.recv() => match notice {
                    Some((_, notice)) => self.on_notice(notice),
                    // The last notice is that it is gone: it cannot be missing.
                    None => self.gone = self.gone.take().or(Some((GoneReason::Abandoned, Timeline::default()))),
                },
                part = self.parts.recv(), if answering => match part {
                    Some(part) => self.on_part(part),
                    None => answering = false,
                },
                signal = interrupts.next(), if interrupted.is_none() => {
                    interrupted = Some(signal);
                    self.order(Order::Kill);
                }
            }
            if self.gone.is_some() && interrupted.is_some() {
                break;
            }
        }
        self.finish(interrupted)
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Finished(outcome, _) => self.outcome = Some(*outcome),
            Notice::Idle => self.order(Order::Shutdown(ShutdownReason::Spindown)),
            Notice::Gone(reason, timeline) => self.gone = Some((reason, *timeline)),
            Notice::Launched(_) | Notice::Initialising | Notice::InitFailed | Notice::Begun(_) => {}
        }
    }

    fn on_part(&mut self, part: AnswerPart) {
        if let AnswerPart::Bytes(mut bytes) = part {
            self.response.append(&mut bytes);
        }
    }

    fn order(&self, order: Order) {
        // There is room for all the orders there are; an environment that is gone needs none.
        let _ = self.orders.try_send(order);
    }

    fn finish(self, interrupted: Option<&'static str>) -> Result<RunEnd, RunError> {
        if let Some(signal) = interrupted {
            return Err(RunError::Interrupted(signal));
        }
        let (reason, timeline) = self.gone.unwrap_or((GoneReason::Shutdown, Timeline::default()));
        let timeline = Timeline { command: Some(self.begun), ..timeline };
        let outcome = self.outcome.unwrap_or_else(|| never_begun(&self.invocation, &reason));
        let lost = (outcome.condition == Condition::Dead || reason != GoneReason::Shutdown)
            .then_some(reason);
        Ok(RunEnd { outcome, response: self.response, timeline, lost })
    }
}

/// Whether an environment was lost for a fault of the function's own, rather than of the host's.
#[must_use]
pub fn is_function_fault(reason: &GoneReason) -> bool {
    let own = [FaultCode::InvalidEntrypoint, FaultCode::InvalidWorkingDirectory];
    matches!(reason, GoneReason::Fault { code, .. } if own.contains(code))
}
