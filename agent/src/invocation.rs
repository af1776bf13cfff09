//! One invocation: a state machine without input or output.
//!
//! ```text
//!            ResponseStart             ResponseEnd
//!  Waiting ----------------> Answering ------------> Answered
//!     |                                                 ^
//!     +-------------- RuntimeError ---------------------+
//! ```
//! It is over when PID 1 says `Done`, when time is up, or when the runtime or the microVM is gone: [`Invocation::end`] makes
//! the [`Outcome`] of what was known by then. An answer that was given stands, whatever happens after it.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use votive_protocol::limits::{RESPONSE_PAYLOAD_MAX, STREAMED_RESPONSE_MAX};
use votive_protocol::{
    ExitStatus, InvocationId, ResponseMode, ResponseOutcome, RuntimeErrorScope, RuntimeExited,
};

use crate::clock::Moment;
use crate::event::{ExtensionEnd, GoneReason, GuestEvent};
use crate::report::{Report, Status};

#[cfg(test)]
mod tests;

/// What an invocation is begun with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvocationSpec {
    /// Its id.
    pub id: InvocationId,
    /// How long it may take.
    pub timeout: Duration,
    /// The function's memory in MB, for the report.
    pub memory_mb: u32,
}

/// An invocation under way.
#[derive(Debug)]
pub struct Invocation {
    spec: InvocationSpec,
    started: Moment,
    answer: Answer,
    memory_peak_bytes: u64,
    extensions: Duration,
}

#[derive(Debug)]
enum Answer {
    Waiting,
    Answering { mode: ResponseMode, content_type: String, bytes: u64 },
    Answered(Answered),
}

/// The caller's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// The handler's own; its bytes were passed on as they came.
    Response {
        /// How it came.
        mode: ResponseMode,
        /// Its `Content-Type`; may be empty.
        content_type: String,
    },
    /// The function failed.
    Error(FunctionError),
}

/// What a caller gets who is told `X-Amz-Function-Error: Unhandled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// The type as logs and metrics tell it: `Runtime.ExitError`, `Function.Unknown`, ...
    pub error_type: String,
    /// The error's JSON; from the runtime as it was sent, or made here in the form of CONTRACT 4.6.
    pub payload: Vec<u8>,
}

/// What an environment is good for after an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It can take the next invocation.
    Clean,
    /// Its runtime was killed: the next invocation starts a new one.
    Suspect,
    /// It is gone.
    Dead,
}

/// The end of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which invocation.
    pub id: InvocationId,
    /// What its caller gets.
    pub answer: Answered,
    /// The figures of its `REPORT` line.
    pub report: Report,
    /// What is left of the environment.
    pub condition: Condition,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The runtime asked for the next one.
    Released,
    /// Its time was up.
    TimedOut,
    /// The runtime's process ended.
    Exited(RuntimeExited),
    /// An extension failed, which took the runtime with it.
    ExtensionFailed(ExtensionEnd),
    /// The runtime, started again inside the invocation, reported that it could not start.
    InitFailed(FunctionError),
    /// The environment is gone.
    Lost(GoneReason),
}

/// What became of a frame.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing to do.
    Nothing,
    /// The head of a streamed answer is to be passed on: its `Content-Type`.
    Head(String),
    /// A piece of the answer is to be passed on.
    Respond(ResponseMode, Vec<u8>),
    /// The caller's answer is complete.
    Answered,
    /// The runtime is done.
    Released,
}

/// A frame that no PID 1 sends: the guest is not to be trusted with anything any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An id that is not this invocation's.
    #[error("a frame names an invocation that is not under way")]
    WrongInvocation,
    /// A frame that does not fit what came before.
    #[error("a frame came out of order")]
    OutOfOrder,
    /// More bytes than the answer's mode allows.
    #[error("the answer is longer than its limit")]
    TooLong,
}

impl Invocation {
    /// Begins an invocation at `now`, the moment at which its request is sent.
    #[must_use]
    pub fn new(spec: InvocationSpec, now: Moment) -> Self {
        Self {
            spec,
            started: now,
            answer: Answer::Waiting,
            memory_peak_bytes: 0,
            extensions: Duration::ZERO,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> InvocationId {
        self.spec.id
    }

    /// When its time is up.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        self.started + self.spec.timeout
    }

    /// When it began.
    #[must_use]
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The caller's answer, once it is complete.
    #[must_use]
    pub fn answered(&self) -> Option<&Answered> {
        match &self.answer {
            Answer::Answered(answered) => Some(answered),
            Answer::Waiting | Answer::Answering { .. } => None,
        }
    }

    /// Its time is up: gives the caller's answer, unless there is one.
    pub fn time_out(&mut self) -> Option<&Answered> {
        if self.is_answered() {
            return None;
        }
        self.answer = Answer::Answered(Answered::Error(self.timed_out()));
        self.answered()
    }

    /// Whether its caller's answer is complete.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.answer, Answer::Answered(_))
    }

    /// Takes a frame about this invocation. Frames that are about something else do nothing.
    ///
    /// # Errors
    /// A [`Violation`] ends the environment.
    pub fn on(&mut self, event: GuestEvent) -> Result<Step, Violation> {
        match event {
            GuestEvent::ResponseStart { id, mode, content_type } => {
                self.check(id)?;
                self.on_response_start(mode, content_type)
            }
            GuestEvent::ResponsePayload(bytes) => self.on_response_payload(bytes),
            GuestEvent::ResponseEnd { id, outcome, error_type, error_body } => {
                self.check(id)?;
                self.on_response_end(outcome, error_type, &error_body)
            }
            GuestEvent::RuntimeError { scope, error_type, body } => {
                if let RuntimeErrorScope::Invocation(id) = scope {
                    self.check(id)?;
                    return self.on_error(FunctionError { error_type, payload: body });
                }
                Ok(Step::Nothing)
            }
            GuestEvent::Done(done) => {
                self.check(done.id)?;
                self.note_memory(done.memory_peak_bytes);
                self.extensions = Duration::from_nanos(done.extensions_ns);
                if self.is_answered() { Ok(Step::Released) } else { Err(Violation::OutOfOrder) }
            }
            GuestEvent::Hello(_)
            | GuestEvent::Phase(_)
            | GuestEvent::Ready(_)
            | GuestEvent::RuntimeExited(_)
            | GuestEvent::Log(..)
            | GuestEvent::Extension(_)
            | GuestEvent::ExtensionExited(_)
            | GuestEvent::Subscription(_)
            | GuestEvent::Down
            | GuestEvent::Fault { .. } => Ok(Step::Nothing),
        }
    }

    /// Keeps the highest figure of memory that the guest told.
    pub fn note_memory(&mut self, bytes: u64) {
        self.memory_peak_bytes = self.memory_peak_bytes.max(bytes);
    }

    /// Ends the invocation. `now` is the end of its duration; `init` is the init phase that it waited for, if any.
    #[must_use]
    pub fn end(mut self, ending: Ending, init: Option<Duration>, now: Moment) -> Outcome {
        if let Ending::Exited(exited) = &ending {
            self.note_memory(exited.memory_peak_bytes);
        }
        let duration = match ending {
            Ending::TimedOut => self.spec.timeout,
            _ => now.since(self.started),
        };
        let condition = match ending {
            Ending::Released => Condition::Clean,
            Ending::TimedOut
            | Ending::Exited(_)
            | Ending::ExtensionFailed(_)
            | Ending::InitFailed(_) => Condition::Suspect,
            Ending::Lost(_) => Condition::Dead,
        };
        let (status, cause) = self.judge(&ending);
        let answer = match (self.answer, cause) {
            (Answer::Answered(answered), _) => answered,
            (_, Some(error)) => Answered::Error(error),
            // `judge` gives a cause for every ending but `Released`, which needs an answer.
            (_, None) => Answered::Error(FunctionError {
                error_type: String::from("Runtime.Unknown"),
                payload: error_json("Runtime.Unknown", self.spec.id, "Unknown application error"),
            }),
        };
        let report = Report {
            id: self.spec.id,
            duration,
            memory_size_mb: self.spec.memory_mb,
            memory_used_bytes: self.memory_peak_bytes,
            init,
            // The guest's word for it cannot exceed what the host measured.
            extensions: self.extensions.min(duration),
            status,
        };
        Outcome { id: self.spec.id, answer, report, condition }
    }

    /// The status of the report, and the error for a caller who has no answer yet.
    fn judge(&self, ending: &Ending) -> (Status, Option<FunctionError>) {
        let id = self.spec.id;
        match ending {
            Ending::Released => match &self.answer {
                Answer::Answered(Answered::Error(error)) => {
                    (Status::Error(error.error_type.clone()), None)
                }
                _ => (Status::Success, None),
            },
            Ending::TimedOut => (Status::Timeout, Some(self.timed_out())),
            Ending::Exited(exited) => {
                let error = made("Runtime.ExitError", id, &exit_text(exited.status));
                let logged =
                    if exited.out_of_memory { "Runtime.OutOfMemory" } else { "Runtime.ExitError" };
                (Status::Error(logged.to_owned()), Some(error))
            }
            Ending::ExtensionFailed(end) => {
                let error_type = end.fault.error_type();
                let error = made(error_type, id, &extension_text(end));
                (Status::Error(error_type.to_owned()), Some(error))
            }
            Ending::InitFailed(error) => {
                (Status::Error(error.error_type.clone()), Some(error.clone()))
            }
            Ending::Lost(reason) => {
                let error = lost(id, reason);
                (Status::Error(error.error_type.clone()), Some(error))
            }
        }
    }

    fn timed_out(&self) -> FunctionError {
        let seconds = self.spec.timeout.as_secs_f64();
        let text = format!("Task timed out after {seconds:.2} seconds");
        made("Sandbox.Timedout", self.spec.id, &text)
    }

    fn check(&self, id: InvocationId) -> Result<(), Violation> {
        if id == self.spec.id { Ok(()) } else { Err(Violation::WrongInvocation) }
    }

    fn on_response_start(
        &mut self,
        mode: ResponseMode,
        content_type: String,
    ) -> Result<Step, Violation> {
        match self.answer {
            Answer::Waiting => {
                let head = match mode {
                    // Whether there is an answer at all is known once it is whole.
                    ResponseMode::Buffered => Step::Nothing,
                    ResponseMode::Streaming => Step::Head(content_type.clone()),
                };
                self.answer = Answer::Answering { mode, content_type, bytes: 0 };
                Ok(head)
            }
            Answer::Answering { .. } | Answer::Answered(_) => Err(Violation::OutOfOrder),
        }
    }

    fn on_response_payload(&mut self, piece: Vec<u8>) -> Result<Step, Violation> {
        let Answer::Answering { mode, bytes, .. } = &mut self.answer else {
            return Err(Violation::OutOfOrder);
        };
        let mode = *mode;
        let max = match mode {
            ResponseMode::Buffered => RESPONSE_PAYLOAD_MAX,
            ResponseMode::Streaming => STREAMED_RESPONSE_MAX,
        };
        *bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if *bytes > max { Err(Violation::TooLong) } else { Ok(Step::Respond(mode, piece)) }
    }

    fn on_response_end(
        &mut self,
        outcome: ResponseOutcome,
        error_type: String,
        error_body: &[u8],
    ) -> Result<Step, Violation> {
        let id = self.spec.id;
        let answer = std::mem::replace(&mut self.answer, Answer::Waiting);
        let answered = match (answer, outcome) {
            (Answer::Answered(_), _) | (Answer::Waiting, ResponseOutcome::Complete) => {
                return Err(Violation::OutOfOrder);
            }
            (Answer::Answering { mode, content_type, .. }, ResponseOutcome::Complete) => {
                if error_type.is_empty() && error_body.is_empty() {
                    Answered::Response { mode, content_type }
                } else {
                    Answered::Error(streamed_error(id, error_type, error_body))
                }
            }
            (_, ResponseOutcome::Truncated) => Answered::Error(made(
                "Runtime.TruncatedResponse",
                id,
                "the runtime's response was cut short",
            )),
            (answering, ResponseOutcome::Oversized) => {
                let max = match answering {
                    Answer::Answering { mode: ResponseMode::Streaming, .. } => {
                        STREAMED_RESPONSE_MAX
                    }
                    _ => RESPONSE_PAYLOAD_MAX,
                };
                Answered::Error(too_large(max))
            }
        };
        self.answer = Answer::Answered(answered);
        Ok(Step::Answered)
    }

    fn on_error(&mut self, error: FunctionError) -> Result<Step, Violation> {
        match &self.answer {
            Answer::Waiting => {
                self.answer = Answer::Answered(Answered::Error(self.complete(error)));
                Ok(Step::Answered)
            }
            // A runtime whose response was refused as too large says so with an error of its own: the refusal stands.
            Answer::Answered(Answered::Error(_)) => Ok(Step::Nothing),
            Answer::Answering { .. } | Answer::Answered(Answered::Response { .. }) => {
                Err(Violation::OutOfOrder)
            }
        }
    }

    /// PID 1 leaves out a body that is over its limit, and a runtime may send none.
    fn complete(&self, error: FunctionError) -> FunctionError {
        complete(self.spec.id, error)
    }
}

/// The error that the trailers of a streamed answer tell. A body that is no base64 counts as none.
fn streamed_error(id: InvocationId, error_type: String, body: &[u8]) -> FunctionError {
    let payload = BASE64_STANDARD.decode(body).unwrap_or_default();
    let error_type =
        if error_type.is_empty() { String::from("Function.Unknown") } else { error_type };
    if payload.is_empty() {
        return made(&error_type, id, "the response stream ended with an error");
    }
    FunctionError { error_type, payload }
}

/// Gives an error that came without a body the one of CONTRACT 4.6.
#[must_use]
pub fn complete(id: InvocationId, error: FunctionError) -> FunctionError {
    if error.payload.is_empty() {
        return made(&error.error_type, id, "the runtime reported an error without a body");
    }
    error
}

/// The error of an invocation whose environment is gone, or never came to be.
#[must_use]
pub fn lost(id: InvocationId, reason: &GoneReason) -> FunctionError {
    use votive_protocol::FaultCode;
    let (error_type, text) = match reason {
        GoneReason::Fault { code: FaultCode::InvalidEntrypoint, .. } => {
            ("Runtime.InvalidEntrypoint", "no bootstrap was found that can be executed")
        }
        GoneReason::Fault { code: FaultCode::InvalidWorkingDirectory, .. } => {
            ("Runtime.InvalidWorkingDir", "the working directory cannot be entered")
        }
        GoneReason::NotStarted { code: Some(code), .. } => (*code, of_key(code)),
        // The reason itself tells of the host: it is for the operator's log, not for a tenant.
        _ => ("Sandbox.Failure", "the execution environment was lost"),
    };
    made(error_type, id, text)
}

/// What a caller is told of the key that the function's code is sealed under.
fn of_key(code: &str) -> &'static str {
    match code {
        "KMSDisabledException" => "the key of the function's code is disabled",
        "KMSNotFoundException" => "the key of the function's code does not exist",
        "KMSAccessDeniedException" => "the key of the function's code may not be used",
        _ => "the key of the function's code cannot be used",
    }
}

fn too_large(max: u64) -> FunctionError {
    // The words of AWS's own emulator; it names no request.
    let message =
        format!("Response payload size exceeded maximum allowed payload size ({max} bytes).");
    let payload = serde_json::json!({
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": message,
    });
    FunctionError {
        error_type: String::from("Function.ResponseSizeTooLarge"),
        payload: payload.to_string().into_bytes(),
    }
}

fn made(error_type: &str, id: InvocationId, text: &str) -> FunctionError {
    FunctionError { error_type: error_type.to_owned(), payload: error_json(error_type, id, text) }
}

fn error_json(error_type: &str, id: InvocationId, text: &str) -> Vec<u8> {
    let message = format!("RequestId: {id} Error: {text}");
    serde_json::json!({ "errorType": error_type, "errorMessage": message }).to_string().into_bytes()
}

/// The end of a process in the words of CONTRACT 4.6, which are those of Go's `os.ProcessState`.
fn exit_text(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(0) => String::from("Runtime exited without providing a reason"),
        ExitStatus::Code(code) => format!("Runtime exited with error: exit status {code}"),
        ExitStatus::Signal(signal) => {
            format!("Runtime exited with error: signal: {}", signal_text(signal))
        }
    }
}

/// The end of an extension in the words of AWS's emulator.
fn extension_text(end: &ExtensionEnd) -> String {
    match end.status {
        None => String::from("extension could not be started"),
        Some(ExitStatus::Code(code)) => format!("exit status {code}"),
        Some(ExitStatus::Signal(signal)) => format!("signal: {}", signal_text(signal)),
    }
}

/// The outcome of an invocation whose environment was gone before it could be sent.
#[must_use]
pub fn never_begun(spec: &InvocationSpec, reason: &GoneReason) -> Outcome {
    let error = lost(spec.id, reason);
    let report = Report {
        id: spec.id,
        duration: Duration::ZERO,
        memory_size_mb: spec.memory_mb,
        memory_used_bytes: 0,
        init: None,
        extensions: Duration::ZERO,
        status: Status::Error(error.error_type.clone()),
    };
    Outcome { id: spec.id, answer: Answered::Error(error), report, condition: Condition::Dead }
}

fn signal_text(signal: u8) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
