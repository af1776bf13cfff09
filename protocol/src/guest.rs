//! What PID 1 says to the agent. All of it may come from a guest that its tenant has taken over.

use serde::{Deserialize, Serialize};

use crate::frame::{check_len, decode_postcard, encode_postcard, encode_raw};
use crate::limits::{
    ERROR_BODY_MAX, EXTENSION_ERROR_MAX, EXTENSION_NAME_MAX, STRING_MAX, XRAY_CAUSE_MAX,
};
use crate::{FrameError, InvocationId, Kind};

/// A frame from PID 1. Times are nanoseconds of the guest's `CLOCK_MONOTONIC`, which starts with its kernel: they are for
/// telling where time went, and prove nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GuestFrame<'a> {
    /// The first frame.
    Hello(Hello),
    /// A phase of the start began.
    Phase(Phase),
    /// The runtime asked for its first invocation and every extension for its first event: the init phase is over.
    Ready(Phase),
    /// The runtime began to answer.
    ResponseStart(ResponseStart<'a>),
    /// A piece of the answer.
    ResponsePayload(&'a [u8]),
    /// The answer is over.
    ResponseEnd(ResponseEnd<'a>),
    /// The runtime reported an error instead of an answer, or of its init phase.
    RuntimeError(RuntimeError<'a>),
    /// Runtime and extensions are done with the invocation: each asked for what comes next. Nothing has to run until then.
    Done(Done),
    /// The runtime's process is gone.
    RuntimeExited(RuntimeExited),
    /// What the runtime or an extension wrote.
    Log(LogStream, &'a [u8]),
    /// PID 1 cannot go on; the microVM powers off after this frame.
    Fault(Fault<'a>),
    /// How an extension came out of the init phase (`platform.extension`).
    Extension(Extension<'a>),
    /// An extension failed, and with it everything else: runtime and extensions are being ended.
    ExtensionExited(ExtensionExited<'a>),
    /// An extension subscribed to telemetry (`platform.telemetrySubscription`, `platform.logsSubscription`).
    Subscription(Subscription<'a>),
    /// No process of the function's is left; the next `Invoke` starts them again. The end of every `Reset`, and of what
    /// followed a `RuntimeExited` or an `ExtensionExited`.
    Down(Down),
}

/// The first frame of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`]
    pub version: u16,
    /// When PID 1 was entered.
    pub started_ns: u64,
}

/// A phase of the start and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which one.
    pub name: PhaseName,
    /// When it began.
    pub at_ns: u64,
}

/// What PID 1 does before the first invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PhaseName {
    /// The configuration was read; file systems are being mounted.
    Configured,
    /// The runtime's process was started.
    RuntimeStarted,
    /// The runtime asked for its first invocation; told when extensions are still to follow.
    RuntimeReady,
    /// External extensions were started; the runtime waits until all have registered.
    ExtensionsStarted,
    /// Runtime and extensions are ready: the name of [`GuestFrame::Ready`].
    InitOver,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseStart<'a> {
    /// Whose answer it is.
    pub id: InvocationId,
    /// How the answer comes.
    pub mode: ResponseMode,
    /// `Content-Type`; may be empty.
    pub content_type: &'a str,
}

/// `Lambda-Runtime-Function-Response-Mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseMode {
    /// All at once; at most [`crate::limits::RESPONSE_PAYLOAD_MAX`].
    Buffered,
    /// As it is made; at most [`crate::limits::STREAMED_RESPONSE_MAX`].
    Streaming,
}

/// The end of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseEnd<'a> {
    /// Whose answer it is.
    pub id: InvocationId,
    /// How it ended.
    pub outcome: ResponseOutcome,
    /// `Lambda-Runtime-Function-Error-Type` of the trailers; may be empty.
    pub error_type: &'a str,
    /// `Lambda-Runtime-Function-Error-Body` of the trailers, base64 as it came; may be empty.
    pub error_body: &'a [u8],
}

/// How an answer ended (`End-Of-Response`, CONTRACT 4.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResponseOutcome {
    /// Whole.
    Complete,
    /// The runtime's connection ended too early.
    Truncated,
    /// Larger than its limit.
    Oversized,
}

/// An error that the runtime reported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuntimeError<'a> {
    /// What failed.
    pub scope: RuntimeErrorScope,
    /// The error's type as CONTRACT 4.1 normalises it: `(Runtime|Function)\.[A-Z][a-zA-Z]+`.
    pub error_type: &'a str,
    /// The body, `{errorMessage,errorType,stackTrace}` as the runtime sent it; empty if it was over its limit.
    pub body: &'a [u8],
    /// `Lambda-Runtime-Function-XRay-Error-Cause`; may be empty.
    pub xray_cause: &'a [u8],
}

/// What an error of the runtime's is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuntimeErrorScope {
    /// `POST /runtime/init/error`
    Init,
    /// `POST /runtime/invocation/{id}/error`
    Invocation(InvocationId),
}

/// The end of an invocation in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which invocation.
    pub id: InvocationId,
    /// From handing out the request to the end of the answer, in nanoseconds.
    pub duration_ns: u64,
    /// From handing out the request to the runtime's asking for the next one, in nanoseconds.
    pub runtime_ns: u64,
    /// From then until the last extension was done too, in nanoseconds (`PostRuntimeExtensionsDuration`); 0 without any.
    pub extensions_ns: u64,
    /// The most memory that the runtime's cgroup held so far, in bytes.
    pub memory_peak_bytes: u64,
}

/// The end of the runtime's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeExited {
    /// How it ended.
    pub status: ExitStatus,
    /// Whether the kernel killed a process of the runtime's cgroup for want of memory.
    pub out_of_memory: bool,
    /// The most memory that the runtime's cgroup held, in bytes.
    pub memory_peak_bytes: u64,
    /// The invocation that was under way.
    pub id: Option<InvocationId>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// `exit(code)`
    Code(u8),
    /// Killed by a signal.
    Signal(u8),
}

/// Where a piece of a log came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogStream {
    /// The runtime's standard output.
    Stdout = 1,
    /// The runtime's standard error.
    Stderr = 2,
    /// PID 1 itself.
    Init = 3,
    /// An external extension's standard output or error.
    Extension = 4,
}

/// An extension at the end of the init phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension<'a> {
    /// Its full name.
    pub name: &'a str,
    /// `Started`, `Registered`, `Ready`, `InitError`, `ExitError` or `LaunchError`.
    pub state: &'a str,
    /// What it registered for.
    pub events: ExtensionEvents,
    /// What it reported as its error, or why it could not be started; may be empty.
    pub error_type: &'a str,
}

/// The events that an extension registered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionEvents {
    /// `INVOKE`
    pub invoke: bool,
    /// `SHUTDOWN`
    pub shutdown: bool,
}

/// The failure of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionExited<'a> {
    /// Its full name.
    pub name: &'a str,
    /// What the failure counts as.
    pub fault: ExtensionFault,
    /// How its process ended; nothing if it never ran.
    pub status: Option<ExitStatus>,
    /// The invocation that was under way.
    pub id: Option<InvocationId>,
}

/// What the failure of an extension counts as: the error type of the invocation that it took with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExtensionFault {
    /// It could not be started.
    LaunchError,
    /// It reported an error of its init phase, and ended.
    InitError,
    /// It reported an error, and ended.
    ExitError,
    /// It ended without a word.
    Crash,
}

impl ExtensionFault {
    /// The error type.
    #[must_use]
    pub fn error_type(self) -> &'static str {
        match self {
            Self::LaunchError => "Extension.LaunchError",
            Self::InitError => "Extension.InitError",
            Self::ExitError => "Extension.ExitError",
            Self::Crash => "Extension.Crash",
        }
    }
}

/// A subscription to telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription<'a> {
    /// The extension's full name.
    pub name: &'a str,
    /// Whether it came by the Logs API, which the Telemetry API supersedes.
    pub legacy: bool,
    /// What it subscribed to.
    pub types: TelemetryTypes,
}

/// The streams of the Telemetry API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryTypes {
    /// `platform`
    pub platform: bool,
    /// `function`
    pub function: bool,
    /// `extension`
    pub extension: bool,
}

/// The end of a function's last process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// When PID 1 saw it.
    pub at_ns: u64,
}

/// Why PID 1 cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault<'a> {
    /// What it was doing.
    pub code: FaultCode,
    /// The system's error number; 0 if there is none.
    pub errno: u16,
    /// Which path or field; may be empty.
    pub detail: &'a str,
}

/// What PID 1 was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultCode {
    /// The other side speaks another [`crate::VERSION`].
    ProtocolVersion,
    /// A frame could not be read.
    Frame,
    /// A file system could not be mounted.
    Mount,
    /// No `bootstrap` was found, or it cannot be executed: `Runtime.InvalidEntrypoint`.
    InvalidEntrypoint,
    /// The working directory cannot be entered: `Runtime.InvalidWorkingDir`.
    InvalidWorkingDirectory,
    /// The runtime's cgroup could not be made.
    Cgroup,
    /// The Runtime API's socket could not be opened.
    RuntimeApi,
    /// Anything else: the detail names the system call.
    System,
}

impl<'a> GuestFrame<'a> {
    /// Writes this frame to the start of `buffer` and gives its length in bytes, at most `HEADER_LEN + BODY_MAX`.
    ///
    /// # Errors
    /// A field over its limit, or a `buffer` that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        self.check()?;
        match self {
            Self::Hello(body) => encode_postcard(Kind::Hello, body, buffer),
            Self::Phase(body) => encode_postcard(Kind::Phase, body, buffer),
            Self::Ready(body) => encode_postcard(Kind::Ready, body, buffer),
            Self::ResponseStart(body) => encode_postcard(Kind::ResponseStart, body, buffer),
            Self::ResponsePayload(bytes) => encode_raw(Kind::ResponsePayload, [bytes, &[]], buffer),
            Self::ResponseEnd(body) => encode_postcard(Kind::ResponseEnd, body, buffer),
            Self::RuntimeError(body) => encode_postcard(Kind::RuntimeError, body, buffer),
            Self::Done(body) => encode_postcard(Kind::Done, body, buffer),
            Self::RuntimeExited(body) => encode_postcard(Kind::RuntimeExited, body, buffer),
            Self::Log(stream, bytes) => encode_raw(Kind::Log, [&[*stream as u8], bytes], buffer),
            Self::Fault(body) => encode_postcard(Kind::Fault, body, buffer),
            Self::Extension(body) => encode_postcard(Kind::Extension, body, buffer),
            Self::ExtensionExited(body) => encode_postcard(Kind::ExtensionExited, body, buffer),
            Self::Subscription(body) => encode_postcard(Kind::Subscription, body, buffer),
            Self::Down(body) => encode_postcard(Kind::Down, body, buffer),
        }
    }

    /// Reads the body of a frame whose header said `kind`.
    ///
    /// # Errors
    /// A frame of the host's, a malformed body, or a field over its limit.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Self, FrameError> {
        let frame = match kind {
            Kind::Hello => Self::Hello(decode_postcard(kind, body)?),
            Kind::Phase => Self::Phase(decode_postcard(kind, body)?),
            Kind::Ready => Self::Ready(decode_postcard(kind, body)?),
            Kind::ResponseStart => Self::ResponseStart(decode_postcard(kind, body)?),
            Kind::ResponsePayload => Self::ResponsePayload(body),
            Kind::ResponseEnd => Self::ResponseEnd(decode_postcard(kind, body)?),
            Kind::RuntimeError => Self::RuntimeError(decode_postcard(kind, body)?),
            Kind::Done => Self::Done(decode_postcard(kind, body)?),
            Kind::RuntimeExited => Self::RuntimeExited(decode_postcard(kind, body)?),
            Kind::Log => Self::decode_log(body)?,
            Kind::Fault => Self::Fault(decode_postcard(kind, body)?),
            Kind::Extension => Self::Extension(decode_postcard(kind, body)?),
            Kind::ExtensionExited => Self::ExtensionExited(decode_postcard(kind, body)?),
            Kind::Subscription => Self::Subscription(decode_postcard(kind, body)?),
            Kind::Down => Self::Down(decode_postcard(kind, body)?),
            Kind::Configure | Kind::Invoke | Kind::Payload | Kind::Reset | Kind::Shutdown => {
                return Err(FrameError::WrongSide { kind });
            }
        };
        frame.check()?;
        Ok(frame)
    }

    fn decode_log(body: &'a [u8]) -> Result<Self, FrameError> {
        match body {
            [1, bytes @ ..] => Ok(Self::Log(LogStream::Stdout, bytes)),
            [2, bytes @ ..] => Ok(Self::Log(LogStream::Stderr, bytes)),
            [3, bytes @ ..] => Ok(Self::Log(LogStream::Init, bytes)),
            [4, bytes @ ..] => Ok(Self::Log(LogStream::Extension, bytes)),
            _ => Err(FrameError::Malformed { kind: Kind::Log }),
        }
    }

    fn check(&self) -> Result<(), FrameError> {
        match self {
            Self::ResponseStart(body) => check_len(body.content_type.len(), STRING_MAX),
            Self::ResponseEnd(body) => {
                check_len(body.error_type.len(), STRING_MAX)?;
                check_len(body.error_body.len(), ERROR_BODY_MAX)
            }
            Self::RuntimeError(body) => {
                check_len(body.error_type.len(), STRING_MAX)?;
                check_len(body.body.len(), ERROR_BODY_MAX)?;
                check_len(body.xray_cause.len(), XRAY_CAUSE_MAX)
            }
            Self::Fault(body) => check_len(body.detail.len(), STRING_MAX),
            Self::Extension(body) => {
                check_len(body.name.len(), EXTENSION_NAME_MAX)?;
                check_len(body.state.len(), EXTENSION_ERROR_MAX)?;
                check_len(body.error_type.len(), EXTENSION_ERROR_MAX)
            }
            Self::ExtensionExited(body) => check_len(body.name.len(), EXTENSION_NAME_MAX),
            Self::Subscription(body) => check_len(body.name.len(), EXTENSION_NAME_MAX),
            Self::Hello(_)
            | Self::Phase(_)
            | Self::Ready(_)
            | Self::ResponsePayload(_)
            | Self::Done(_)
            | Self::RuntimeExited(_)
            | Self::Log(..)
            | Self::Down(_) => Ok(()),
        }
    }
}
