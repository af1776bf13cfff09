//! The invocation under way: its head as an HTTP answer, its payload, and its times.

use votive_protocol::{InvocationId, Invoke};

use crate::http::Writer;
use crate::limits::REQUEST_KEEP;

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
    HandedOut { at_ns: u64 },
    /// The runtime has answered.
    Answered { duration_ns: u64 },
}

/// The invocation under way, if one is.
#[derive(Debug)]
pub(super) struct Event<'m> {
    head: &'m mut [u8],
    payload: &'m mut [u8],
    head_len: usize,
    /// Bytes of the payload that are there and that there will be.
    payload_len: usize,
    payload_total: usize,
    /// Bytes that are still to come of a payload, also of an invocation that is over.
    due: usize,
    /// How far payloads have touched their memory since it was last given back.
    touched: usize,
    current: Option<(InvocationId, Stage)>,
}

impl<'m> Event<'m> {
    pub(super) fn new(head: &'m mut [u8], payload: &'m mut [u8]) -> Self {
        let current = None;
        Self {
            head,
            payload,
            head_len: 0,
            payload_len: 0,
            payload_total: 0,
            due: 0,
            touched: 0,
            current,
        }
    }

    pub(super) fn id(&self) -> Option<InvocationId> {
        self.current.map(|(id, _)| id)
    }

    /// The invocation, if the runtime has it.
    pub(super) fn handed_out(&self) -> Option<InvocationId> {
        self.current.and_then(|(id, stage)| (stage != Stage::Waiting).then_some(id))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.current, Some((_, Stage::Waiting)))
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
        self.payload_len = 0;
        self.payload_total = total;
        self.due = total;
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
        if let Some((_, stage)) = &mut self.current {
            *stage = Stage::HandedOut { at_ns: now_ns };
        }
    }

    pub(super) fn answered(&mut self, now_ns: u64) {
        if let Some((_, stage)) = &mut self.current
            && let Stage::HandedOut { at_ns } = *stage
        {
            *stage = Stage::Answered { duration_ns: now_ns.saturating_sub(at_ns) };
        }
    }

    /// Ends the invocation if it was answered; gives how long that took.
    pub(super) fn done(&mut self) -> Option<(InvocationId, u64)> {
        let (id, Stage::Answered { duration_ns }) = self.current? else { return None };
        self.current = None;
        Some((id, duration_ns))
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
