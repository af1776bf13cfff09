//! What can happen to an environment, and what it wants done: the closed sets between the state machines and the loop.

use votive_protocol::{
    Done, ExitStatus, ExtensionEvents, ExtensionFault, FaultCode, GuestFrame, Hello, InvocationId,
    LogStream, Phase, ResetReason, ResponseMode, ResponseOutcome, RuntimeErrorScope, RuntimeExited,
    ShutdownReason, TelemetryTypes,
};

use crate::invocation::{Answered, Outcome};
use crate::link::LinkError;
use crate::microvm::MicrovmEnd;

/// Everything that can happen to one environment.
#[derive(Debug)]
pub enum Event {
    /// The guest sent a frame.
    Guest(GuestEvent),
    /// The link to the guest is over; `Some` if it broke a rule.
    LinkClosed(Option<LinkError>),
    /// The microVM's process was reaped.
    MicrovmEnded(MicrovmEnd),
    /// The VMM answered one of the questions that are [`Action::Pause`] and [`Action::Resume`].
    VmmAnswered,
    /// Time passed: [`crate::environment::Environment::deadline`] may be due.
    Tick,
}

/// A [`GuestFrame`] that owns its bytes, at most 64 KiB of them.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each is the frame of that name, with its fields")]
pub enum GuestEvent {
    Hello(Hello),
    Phase(Phase),
    Ready(Phase),
    ResponseStart {
        id: InvocationId,
        mode: ResponseMode,
        content_type: String,
    },
    ResponsePayload(Vec<u8>),
    /// The error's body is base64, as the runtime sent it.
    ResponseEnd {
        id: InvocationId,
        outcome: ResponseOutcome,
        error_type: String,
        error_body: Vec<u8>,
    },
    RuntimeError {
        scope: RuntimeErrorScope,
        error_type: String,
        body: Vec<u8>,
    },
    Done(Done),
    RuntimeExited(RuntimeExited),
    Log(LogStream, Vec<u8>),
    Fault {
        code: FaultCode,
        errno: u16,
        detail: String,
    },
    Extension(ExtensionState),
    ExtensionExited(ExtensionEnd),
    Subscription(TelemetrySubscription),
    Down,
}

/// How an extension came out of the init phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionState {
    /// Its full name.
    pub name: String,
    /// `Started`, `Registered`, `Ready`, `InitError`, `ExitError` or `LaunchError`.
    pub state: String,
    /// What it registered for.
    pub events: ExtensionEvents,
    /// What it reported as its error; may be empty.
    pub error_type: String,
}

/// The failure of an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionEnd {
    /// Its full name.
    pub name: String,
    /// What the failure counts as.
    pub fault: ExtensionFault,
    /// How its process ended; nothing if it never ran.
    pub status: Option<ExitStatus>,
    /// The invocation that was under way.
    pub id: Option<InvocationId>,
}

/// A subscription to telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySubscription {
    /// The extension's full name.
    pub name: String,
    /// Whether it came by the Logs API.
    pub legacy: bool,
    /// What it subscribed to.
    pub types: TelemetryTypes,
}

impl From<GuestFrame<'_>> for GuestEvent {
    fn from(frame: GuestFrame<'_>) -> Self {
        match frame {
            GuestFrame::Hello(body) => Self::Hello(body),
            GuestFrame::Phase(body) => Self::Phase(body),
            GuestFrame::Ready(body) => Self::Ready(body),
            GuestFrame::ResponseStart(body) => Self::ResponseStart {
                id: body.id,
                mode: body.mode,
                content_type: body.content_type.to_owned(),
            },
            GuestFrame::ResponsePayload(bytes) => Self::ResponsePayload(bytes.to_vec()),
            GuestFrame::ResponseEnd(body) => Self::ResponseEnd {
                id: body.id,
                outcome: body.outcome,
                error_type: body.error_type.to_owned(),
                error_body: body.error_body.to_vec(),
            },
            GuestFrame::RuntimeError(body) => Self::RuntimeError {
                scope: body.scope,
                error_type: body.error_type.to_owned(),
                body: body.body.to_vec(),
            },
            GuestFrame::Done(body) => Self::Done(body),
            GuestFrame::RuntimeExited(body) => Self::RuntimeExited(body),
            GuestFrame::Log(stream, bytes) => Self::Log(stream, bytes.to_vec()),
            GuestFrame::Fault(body) => {
                Self::Fault { code: body.code, errno: body.errno, detail: body.detail.to_owned() }
            }
            GuestFrame::Extension(body) => Self::Extension(ExtensionState {
                name: body.name.to_owned(),
                state: body.state.to_owned(),
                events: body.events,
                error_type: body.error_type.to_owned(),
            }),
            GuestFrame::ExtensionExited(body) => Self::ExtensionExited(ExtensionEnd {
                name: body.name.to_owned(),
                fault: body.fault,
                status: body.status,
                id: body.id,
            }),
            GuestFrame::Subscription(body) => Self::Subscription(TelemetrySubscription {
                name: body.name.to_owned(),
                legacy: body.legacy,
                types: body.types,
            }),
            GuestFrame::Down(_) => Self::Down,
        }
    }
}

/// What an environment wants done, in this order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Tell the guest what it is for.
    Configure,
    /// Send the invocation and its payload.
    Invoke(InvocationId),
    /// Have the runtime killed.
    Reset(ResetReason),
    /// Have the guest power off.
    Shutdown(ShutdownReason),
    /// Have no vCPU run. The VMM is to answer with [`Event::VmmAnswered`].
    Pause,
    /// Have the vCPUs run. The VMM is to answer with [`Event::VmmAnswered`], also if they run already.
    Resume,
    /// Hold the microVM to the CPU share that the function's memory buys.
    Throttle,
    /// Let it have what there is: an init phase begins.
    Unthrottle,
    /// Kill the microVM's process.
    Kill,
    /// Pass on the head of a streamed answer: its `Content-Type`.
    Head(String),
    /// Pass on a piece of the answer. If the answer is buffered, it counts only once [`Action::Finished`] says so.
    Respond(ResponseMode, Vec<u8>),
    /// The caller's answer is complete, the invocation may go on. An invocation that ends without this is answered by its
    /// outcome.
    Answered(Answered),
    /// Pass on what the function wrote.
    Log(LogStream, Vec<u8>),
    /// Tell of an extension.
    Extension(ExtensionState),
    /// Tell of a subscription to telemetry.
    Subscription(TelemetrySubscription),
    /// The init phase failed, and how; it runs again inside the next invocation.
    InitFailed(InitReport),
    /// An invocation can be taken.
    Idle,
    /// The invocation is over.
    Finished(Box<Outcome>),
    /// Nothing is left of the environment.
    Gone(GoneReason),
}

/// A failed init phase, as the `INIT_REPORT` line tells it (CONTRACT 4.11).
#[derive(Clone, Debug, PartialEq)]
pub struct InitReport {
    /// How long it took.
    pub duration: std::time::Duration,
    /// Whether it failed inside an invocation.
    pub inside_invocation: bool,
    /// Whether it ran out of time.
    pub timed_out: bool,
    /// `Runtime.ExitError`, `Function.Unknown`, ...; empty if it ran out of time.
    pub error_type: String,
}

/// Why an environment ended.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GoneReason {
    /// It was told to.
    #[error("the environment was shut down")]
    Shutdown,
    /// The microVM's process ended by itself.
    #[error("{0}")]
    MicrovmEnded(MicrovmEnd),
    /// The guest closed the link.
    #[error("the guest closed its link")]
    LinkClosed,
    /// The guest sent what no guest sends.
    #[error("the guest broke the protocol: {0}")]
    Violation(String),
    /// PID 1 could not go on.
    #[error("PID 1 failed: {}", describe_fault(*code, *errno, detail))]
    Fault {
        /// What it was doing.
        code: FaultCode,
        /// The system's error number, or 0.
        errno: u16,
        /// Which path or field.
        detail: String,
    },
    /// The guest did not say anything in time.
    #[error("the guest did not start within {} s", .0.as_secs())]
    BootTimeout(std::time::Duration),
    /// PID 1 did not kill the runtime in time.
    #[error("the guest did not reset within {} s", .0.as_secs())]
    ResetTimeout(std::time::Duration),
    /// The guest does not read what it is sent.
    #[error("the guest does not read its link")]
    Stuck,
    /// The VMM does not answer.
    #[error("the VMM did not answer within {} ms", .0.as_millis())]
    Hung(std::time::Duration),
    /// The microVM could not be started.
    #[error("the microVM could not be started: {text}")]
    NotStarted {
        /// What its caller may know of it: the name of an exception of Lambda's API, if there is one.
        code: Option<&'static str>,
        /// Why.
        text: String,
    },
    /// Nobody looks after it any more: the worker is gone.
    #[error("the worker is gone")]
    Abandoned,
}

fn describe_fault(code: FaultCode, errno: u16, detail: &str) -> String {
    // The detail is the guest's own text.
    let detail: String = detail.chars().filter(|c| !c.is_control()).collect();
    let what = match code {
        FaultCode::ProtocolVersion => "it speaks another version of the protocol",
        FaultCode::Frame => "it could not read a frame",
        FaultCode::Mount => "a file system could not be mounted",
        FaultCode::InvalidEntrypoint => "no bootstrap was found that can be executed",
        FaultCode::InvalidWorkingDirectory => "the working directory cannot be entered",
        FaultCode::Cgroup => "the cgroup could not be made",
        FaultCode::RuntimeApi => "the Runtime API could not be opened",
        FaultCode::System => "a system call failed",
    };
    let mut text = String::from(what);
    if !detail.is_empty() {
        text.push_str(&format!(" ({detail})"));
    }
    if errno != 0 {
        text.push_str(&format!(": {}", std::io::Error::from_raw_os_error(i32::from(errno))));
    }
    text
}
