//! The invocation under way: its head as an HTTP answer, its payload, its event for extensions, and its times.

use votive_protocol::limits::STRING_MAX;
use votive_protocol::{Done, InvocationId, Invoke};

use crate::http::Writer;
use crate::limits::REQUEST_KEEP;
use crate::telemetry::events::{push_member, push_text};

/// Why an invocation was refused. The agent would not send it, so that PID 1 cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Another one is under way.
    #[error("an invocation begins while another is under way")]
    Busy,
    /// A field cannot stand in a header.
    #[error("a field of the invocation holds a control character")]
    ControlCharacter,
    /// More payload than was announced.
    #[error("more payload than was announced")]
    PayloadTooLong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The runtime has not asked for it yet.
    Waiting,
    /// The runtime has it.
    HandedOut,
    /// The runtime has answered.
    Answered,
    /// The runtime has asked for the next one.
    RuntimeDone,
}

/// When things happened to an invocation, in `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Course {
    /// It was handed out.
    pub(super) handed_out_ns: u64,
    /// The runtime began to send an answer, and was over with it; an error is none.
    pub(super) response_ns: Option<(u64, u64)>,
    /// The answer or the error was over.
    pub(super) answered_ns: u64,
    /// The runtime asked for the next invocation.
    pub(super) runtime_done_ns: u64,
    /// Bytes of the answer.
    pub(super) produced: u64,
}

/// The invocation under way, if one is.
#[derive(Debug)]
pub(super) struct Event<'m> {
    head: &'m mut [u8],
    payload: &'m mut [u8],
    head_len: usize,
    /// What extensions are told, in JSON.
    invoke: &'m mut [u8],
    invoke_len: usize,
    /// Bytes of the payload that are there and that there will be.
    payload_len: usize,
    payload_total: usize,
    /// Bytes that are still to come of a payload, also of an invocation that is over.
    due: usize,
    /// How far payloads have touched their memory since it was last given back.
    touched: usize,
    current: Option<(InvocationId, Stage)>,
    course: Course,
    trace: [u8; STRING_MAX],
    trace_len: usize,
}

impl<'m> Event<'m> {
    pub(super) fn new(head: &'m mut [u8], payload: &'m mut [u8], invoke: &'m mut [u8]) -> Self {
        Self {
            head,
            payload,
            head_len: 0,
            invoke,
            invoke_len: 0,
            payload_len: 0,
            payload_total: 0,
            due: 0,
            touched: 0,
            current: None,
            course: Course::default(),
            trace: [0; STRING_MAX],
            trace_len: 0,
        }
    }

    pub(super) fn id(&self) -> Option<InvocationId> {
        self.current.map(|(id, _)| id)
    }

    /// The invocation, if the runtime has it and has not asked for the next one.
    pub(super) fn handed_out(&self) -> Option<InvocationId> {
        let with_runtime = |stage| matches!(stage, Stage::HandedOut | Stage::Answered);
        self.current.and_then(|(id, stage)| with_runtime(stage).then_some(id))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.current, Some((_, Stage::Waiting)))
    }

    /// Whether only extensions are still at work.
    pub(super) fn is_runtime_done(&self) -> bool {
        matches!(self.current, Some((_, Stage::RuntimeDone)))
    }

    pub(super) fn course(&self) -> Course {
        self.course
    }

    /// `Lambda-Runtime-Trace-Id`
    pub(super) fn trace(&self) -> &str {
        core::str::from_utf8(self.trace.get(..self.trace_len).unwrap_or(&[])).unwrap_or("")
    }

    /// The JSON that extensions are told.
    pub(super) fn invoke_event(&self) -> &[u8] {
        self.invoke.get(..self.invoke_len).unwrap_or(&[])
    }

    pub(super) fn begin(&mut self, invoke: &Invoke<'_>) -> Result<(), EventError> {
        if self.current.is_some() {
            return Err(EventError::Busy);
        }
        let texts = [
            invoke.function_arn,
            invoke.trace_id,
            invoke.client_context,
            invoke.cognito_identity,
            invoke.tenant_id,
            invoke.content_type,
        ];
        if texts.iter().any(|text| text.bytes().any(|byte| byte < b' ' || byte == 0x7f)) {
            return Err(EventError::ControlCharacter);
        }
        let total = usize::try_from(invoke.payload_len).unwrap_or(usize::MAX);
        if total > self.payload.len() {
            return Err(EventError::PayloadTooLong);
        }
        self.head_len = write_head(invoke, self.head).ok_or(EventError::PayloadTooLong)?;
        self.invoke_len = write_event(invoke, self.invoke).ok_or(EventError::PayloadTooLong)?;
        let trace = invoke.trace_id.as_bytes();
        if let Some(place) = self.trace.get_mut(..trace.len()) {
            place.copy_from_slice(trace);
            self.trace_len = trace.len();
        }
        self.payload_len = 0;
        self.payload_total = total;
        self.due = total;
        self.course = Course::default();
        self.current = Some((invoke.id, Stage::Waiting));
        Ok(())
    }

    pub(super) fn add_payload(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        self.due = self.due.checked_sub(bytes.len()).ok_or(EventError::PayloadTooLong)?;
        if self.current.is_some()
            && let Some(place) =
                self.payload.get_mut(self.payload_len..self.payload_len + bytes.len())
        {
            place.copy_from_slice(bytes);
            self.payload_len += bytes.len();
            self.touched = self.touched.max(self.payload_len);
        }
        Ok(())
    }

    pub(super) fn hand_out(&mut self, now_ns: u64) {
        self.step(Stage::HandedOut);
        self.course.handed_out_ns = now_ns;
    }

    /// The runtime begins to answer.
    pub(super) fn begin_response(&mut self, now_ns: u64) {
        self.course.response_ns = Some((now_ns, now_ns));
    }

    /// A piece of the answer.
    pub(super) fn produce(&mut self, len: usize) {
        self.course.produced = self.course.produced.saturating_add(len as u64);
    }

    /// The answer or the error is over.
    pub(super) fn answered(&mut self, now_ns: u64) {
        if matches!(self.current, Some((_, Stage::HandedOut))) {
            self.step(Stage::Answered);
            self.course.answered_ns = now_ns;
            if let Some((_, over_ns)) = &mut self.course.response_ns {
                *over_ns = now_ns;
            }
        }
    }

    /// The runtime asks for the next invocation.
    pub(super) fn runtime_done(&mut self, now_ns: u64) {
        self.step(Stage::RuntimeDone);
        self.course.runtime_done_ns = now_ns;
    }

    fn step(&mut self, to: Stage) {
        if let Some((_, stage)) = &mut self.current {
            *stage = to;
        }
    }

    /// Ends the invocation; gives what the agent is told of it.
    pub(super) fn done(&mut self, now_ns: u64, memory_peak_bytes: u64) -> Option<Done> {
        let id = self.end()?;
        let Course { handed_out_ns, answered_ns, runtime_done_ns, .. } = self.course;
        Some(Done {
            id,
            duration_ns: answered_ns.saturating_sub(handed_out_ns),
            runtime_ns: runtime_done_ns.saturating_sub(handed_out_ns),
            extensions_ns: now_ns.saturating_sub(runtime_done_ns),
            memory_peak_bytes,
        })
    }

    /// Ends the invocation whatever became of it.
    pub(super) fn end(&mut self) -> Option<InvocationId> {
        self.current.take().map(|(id, _)| id)
    }

    /// Memory that a large payload touched and that nobody needs any more; names it once.
    pub(super) fn take_excess(&mut self) -> Option<&mut [u8]> {
        if self.current.is_some() || self.touched <= REQUEST_KEEP {
            return None;
        }
        let touched = core::mem::take(&mut self.touched);
        self.payload.get_mut(REQUEST_KEEP..touched)
    }

    /// Bytes of head and payload together.
    pub(super) fn len(&self) -> u64 {
        self.head_len as u64 + self.payload_total as u64
    }

    /// What is there behind the first `sent` bytes of head and payload. The head waits for the first of the payload, which
    /// is on its way, so that one write takes both.
    pub(super) fn from(&self, sent: u64) -> [&[u8]; 2] {
        if sent == 0 && self.payload_len == 0 && self.payload_total > 0 {
            return [&[], &[]];
        }
        let sent = usize::try_from(sent).unwrap_or(usize::MAX);
        let head = self.head.get(sent.min(self.head_len)..self.head_len).unwrap_or(&[]);
        let from = sent.saturating_sub(self.head_len).min(self.payload_len);
        [head, self.payload.get(from..self.payload_len).unwrap_or(&[])]
    }
}

/// The head of the answer to `next`. Fields that are empty are left out.
fn write_head(invoke: &Invoke<'_>, buffer: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(buffer);
    let content_type =
        if invoke.content_type.is_empty() { "application/json" } else { invoke.content_type };
    writer.push(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    writer.push(content_type.as_bytes());
    writer.push(b"\r\nLambda-Runtime-Aws-Request-Id: ");
    writer.push(&invoke.id.to_text());
    writer.push(b"\r\nLambda-Runtime-Deadline-Ms: ");
    writer.push_decimal(invoke.deadline_ms);
    for (name, value) in [
        ("\r\nLambda-Runtime-Invoked-Function-Arn: ", invoke.function_arn),
        ("\r\nLambda-Runtime-Trace-Id: ", invoke.trace_id),
        ("\r\nLambda-Runtime-Client-Context: ", invoke.client_context),
        ("\r\nLambda-Runtime-Cognito-Identity: ", invoke.cognito_identity),
        ("\r\nLambda-Runtime-Aws-Tenant-Id: ", invoke.tenant_id),
    ] {
        if !value.is_empty() {
            writer.push(name.as_bytes());
            writer.push(value.as_bytes());
        }
    }
    writer.push(b"\r\nContent-Length: ");
    writer.push_decimal(invoke.payload_len);
    writer.push(b"\r\n\r\n");
    writer.finish()
}

/// The `INVOKE` event.
fn write_event(invoke: &Invoke<'_>, buffer: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(buffer);
    writer.push(b"{\"eventType\":\"INVOKE\",\"deadlineMs\":");
    writer.push_decimal(invoke.deadline_ms);
    writer.push(b",\"requestId\":");
    push_text(&mut writer, &invoke.id.to_text());
    push_member(&mut writer, ",\"invokedFunctionArn\":", invoke.function_arn);
    if !invoke.trace_id.is_empty() {
        writer.push(b",\"tracing\":{\"type\":\"X-Amzn-Trace-Id\"");
        push_member(&mut writer, ",\"value\":", invoke.trace_id);
        writer.push(b"}");
    }
    writer.push(b"}");
    writer.finish()
}
