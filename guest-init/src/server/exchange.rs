//! What requests mean: the runtime's state, the invocation, and the frames that tell the agent of both.

use votive_protocol::limits::{
    ERROR_BODY_MAX, RESPONSE_PAYLOAD_MAX, STREAMED_RESPONSE_MAX, STRING_MAX, XRAY_CAUSE_MAX,
};
use votive_protocol::{
    GuestFrame, InvocationId, Phase as StartPhase, PhaseName, ResponseEnd, ResponseMode,
    ResponseOutcome, ResponseStart, RuntimeError, RuntimeErrorScope,
};

use super::connection::{Body, Output, Phase, Purpose, Then};
use super::{BodyStep, Facts, Server};
use crate::http::{BodyError, Framing, Head, ModeHeader, Reply, Span, Trailers};
use crate::runtime::{Next, NotAllowed, valid_error_type};

/// What the body of an error report is read for.
pub(super) fn error_purpose(head: &Head, init: bool) -> Purpose {
    Purpose::Error {
        init,
        error_type: head.error_type,
        xray_cause: head.xray_cause,
        overflowed: false,
    }
}

fn forbidden(refused: NotAllowed) -> Reply {
    Reply::Forbidden { from: refused.from, to: refused.to }
}

/// `bytes` as text, or nothing if it is none or longer than `max`.
fn text(bytes: &[u8], max: usize) -> &str {
    if bytes.len() > max { "" } else { core::str::from_utf8(bytes).unwrap_or("") }
}

impl Server<'_> {
    /// Checks an invocation's id, in text.
    pub(super) fn check_id(&self, index: usize, id: Span) -> Result<InvocationId, Reply> {
        let current = self.event.handed_out().ok_or(Reply::InvalidRequestId)?;
        let input = self.connections.get(index).map_or(&[][..], |one| &*one.input);
        if id.get(input) == current.to_text() { Ok(current) } else { Err(Reply::InvalidRequestId) }
    }

    /// The head of a response: gives the most bytes that it may have.
    pub(super) fn begin_response(
        &mut self,
        index: usize,
        id: Span,
        head: &Head,
        facts: &dyn Facts,
    ) -> Result<u64, Reply> {
        let id = self.check_id(index, id)?;
        self.state.response().map_err(forbidden)?;
        self.event.begin_response(facts.now_ns());
        let input = self.connections.get(index).map_or(&[][..], |one| &*one.input);
        let (mode, max) = match head.mode {
            ModeHeader::Absent => (ResponseMode::Buffered, RESPONSE_PAYLOAD_MAX),
            ModeHeader::Streaming => (ResponseMode::Streaming, STREAMED_RESPONSE_MAX),
            ModeHeader::Invalid => {
                self.outbox.push(&GuestFrame::RuntimeError(RuntimeError {
                    scope: RuntimeErrorScope::Invocation(id),
                    error_type: "Runtime.InvalidResponseModeHeader",
                    body: &[],
                    xray_cause: &[],
                }));
                return Err(Reply::InvalidResponseMode);
            }
        };
        let content_type = text(head.content_type.get(input), STRING_MAX);
        let start = GuestFrame::ResponseStart(ResponseStart { id, mode, content_type });
        match mode {
            ResponseMode::Buffered => self.outbox.push_held(&start),
            ResponseMode::Streaming => self.outbox.push(&start),
        }
        if matches!(head.framing, Framing::Length(length) if length > max) {
            self.end_response(ResponseOutcome::Oversized, facts);
            return Err(Reply::TooLarge);
        }
        Ok(max)
    }

    /// The head of an invocation's error.
    pub(super) fn begin_error(&mut self, index: usize, id: Span) -> Result<(), Reply> {
        self.check_id(index, id)?;
        self.state.invocation_error().map_err(forbidden)
    }

    /// Tells the agent that the answer is over.
    pub(super) fn end_response(&mut self, outcome: ResponseOutcome, facts: &dyn Facts) {
        if let Some(id) = self.event.handed_out() {
            self.outbox.push(&response_end(id, outcome, Trailers::default(), &[]));
        }
        self.answered(facts);
    }

    /// The answer or the error is over.
    pub(super) fn answered(&mut self, facts: &dyn Facts) {
        // Both ways here begin an answer first, so that the state allows it; an error would change nothing.
        let _ = self.state.response_sent();
        self.event.answered(facts.now_ns());
    }

    /// Takes the trailer section, once all of it is there.
    pub(super) fn decode_trailers(
        &mut self,
        index: usize,
        body: &mut Body,
        facts: &dyn Facts,
    ) -> Result<BodyStep, BodyError> {
        let Some(connection) = self.connections.get(index) else { return Err(BodyError) };
        let from = connection.raw;
        let Some((len, trailers)) = body.decoder.trailers(connection.rest())? else {
            return Ok(BodyStep::More);
        };
        if let Purpose::Response { .. } = body.purpose {
            // The spans lie in the connection's input, which the outbox does not touch: the frame is made before it moves.
            let id = self.event.handed_out();
            let bytes = connection.input.get(from..from + len).unwrap_or(&[]);
            if let Some(id) = id {
                self.outbox.push(&response_end(id, ResponseOutcome::Complete, trailers, bytes));
            }
            body.purpose = Purpose::Discard { left: 0 };
            self.answered(facts);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.raw = from + len;
        }
        Ok(BodyStep::Over)
    }

    /// A whole request is there.
    pub(super) fn finish(&mut self, index: usize, body: Body, facts: &dyn Facts) {
        let mut then = body.then;
        match body.purpose {
            Purpose::Response { .. } => self.end_response(ResponseOutcome::Complete, facts),
            Purpose::Error { init, error_type, xray_cause, .. } => {
                if let Err(reply) = self.report_error(index, init, error_type, xray_cause, facts) {
                    then = Then::Reply(reply);
                }
            }
            Purpose::Form { form, overflowed } => {
                then = Then::Reply(self.finish_form(index, form, overflowed, facts));
            }
            Purpose::Discard { .. } => {}
        }
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.phase = Phase::Head;
        connection.kept = 0;
        connection.compact();
        match then {
            Then::Reply(reply) => self.reply(index, reply),
            Then::Next => self.next(index, facts),
            Then::ExtensionNext(slot) => self.extension_next(index, slot, facts),
        }
    }

    /// Tells the agent of an error: head and body lie at the front of the connection's input.
    fn report_error(
        &mut self,
        index: usize,
        init: bool,
        error_type: Span,
        xray_cause: Span,
        facts: &dyn Facts,
    ) -> Result<(), Reply> {
        let scope = if init {
            self.state.init_error().map_err(forbidden)?;
            RuntimeErrorScope::Init
        } else {
            RuntimeErrorScope::Invocation(self.event.handed_out().ok_or(Reply::InvalidRequestId)?)
        };
        if let Some(connection) = self.connections.get(index) {
            let input = &*connection.input;
            let xray_cause = xray_cause.get(input);
            self.outbox.push(&GuestFrame::RuntimeError(RuntimeError {
                scope,
                error_type: valid_error_type(error_type.get(input), STRING_MAX),
                body: input.get(connection.head_len..connection.kept).unwrap_or(&[]),
                xray_cause: if xray_cause.len() > XRAY_CAUSE_MAX { &[] } else { xray_cause },
            }));
        }
        if !init {
            self.answered(facts);
        }
        Ok(())
    }

    /// A body is no body, or ended too early.
    pub(super) fn cut_short(&mut self, index: usize, body: Body, facts: &dyn Facts) {
        let reply = match body.purpose {
            Purpose::Response { .. } => {
                self.end_response(ResponseOutcome::Truncated, facts);
                Reply::Truncated
            }
            Purpose::Error { init: false, .. } => {
                // The runtime meant to report an error: it is reported without the body that did not come whole.
                if let Some(id) = self.event.handed_out() {
                    self.outbox.push(&GuestFrame::RuntimeError(RuntimeError {
                        scope: RuntimeErrorScope::Invocation(id),
                        error_type: "Runtime.Unknown",
                        body: &[],
                        xray_cause: &[],
                    }));
                }
                self.answered(facts);
                Reply::Truncated
            }
            Purpose::Error { init: true, .. } | Purpose::Form { .. } => Reply::Truncated,
            Purpose::Discard { .. } => match body.then {
                Then::Reply(reply) => reply,
                Then::Next | Then::ExtensionNext(_) => Reply::BadRequest,
            },
        };
        self.refuse(index, reply);
    }

    /// `GET /runtime/invocation/next`
    fn next(&mut self, index: usize, facts: &dyn Facts) {
        let next = match self.state.ask_next() {
            Ok(next) => next,
            Err(refused) => {
                self.reply(index, forbidden(refused));
                return;
            }
        };
        match next {
            Next::InitDone => {
                self.extensions.close();
                if !self.extensions.is_empty() {
                    let at_ns = facts.now_ns();
                    let name = PhaseName::RuntimeReady;
                    self.outbox.push(&GuestFrame::Phase(StartPhase { name, at_ns }));
                }
                self.advance_init(facts);
            }
            Next::InvocationDone => {
                self.event.runtime_done(facts.now_ns());
                if !self.ending {
                    self.record_runtime_done("success", "", facts);
                }
                self.check_done(facts);
            }
            Next::Again => {}
            Next::SameEvent => {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.output = Output::Event { sent: 0 };
                }
                return;
            }
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.phase = Phase::Next;
        }
        self.hand_out(facts);
    }

    /// Gives the invocation that waits, if one does, to the connection that has waited longest.
    pub(super) fn hand_out(&mut self, facts: &dyn Facts) {
        if !self.event.is_waiting() || !self.init_over || self.ending {
            return;
        }
        let waiting = self.connections.iter().enumerate();
        let waiting = waiting.filter(|(_, connection)| connection.phase == Phase::Next);
        let Some((index, _)) = waiting.min_by_key(|(_, connection)| connection.turn) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(index) else { return };
        if self.state.handed_out().is_err() {
            return;
        }
        self.event.hand_out(facts.now_ns());
        connection.phase = Phase::Head;
        connection.output = Output::Event { sent: 0 };
        self.stirred |= 1 << index;
        self.record_start(facts);
        self.give_invokes(facts);
    }

    /// Closes connections that still read an event which is gone: they cannot be given the rest of it.
    pub(super) fn drop_event_readers(&mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if matches!(connection.output, Output::Event { .. } | Output::Invoke { .. }) {
                connection.output = Output::Nothing;
                connection.phase = Phase::Close;
                self.stirred |= 1 << index;
            }
        }
    }

    /// Answers a request that was read whole.
    pub(super) fn reply(&mut self, index: usize, reply: Reply) {
        let Self { connections, extensions, configure, configure_len, .. } = self;
        let context = Self::context(extensions, configure, *configure_len);
        let Some(connection) = connections.get_mut(index) else { return };
        let len = reply.write(!connection.keep_alive, context, connection.reply);
        connection.output = Output::Reply { at: 0, len };
    }

    /// Answers, and then reads nothing more of this connection.
    pub(super) fn refuse(&mut self, index: usize, reply: Reply) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.keep_alive = false;
        connection.phase = Phase::Head;
        connection.raw = connection.end;
        connection.kept = 0;
        connection.compact();
        self.reply(index, reply);
    }
}

/// The frame that ends an answer. `trailers` has spans in `bytes`.
fn response_end(
    id: InvocationId,
    outcome: ResponseOutcome,
    trailers: Trailers,
    bytes: &[u8],
) -> GuestFrame<'_> {
    let error_type = trailers.error_type.get(bytes);
    let error_body = trailers.error_body.get(bytes);
    GuestFrame::ResponseEnd(ResponseEnd {
        id,
        outcome,
        error_type: if error_type.is_empty() {
            ""
        } else {
            valid_error_type(error_type, STRING_MAX)
        },
        error_body: if error_body.len() > ERROR_BODY_MAX { &[] } else { error_body },
    })
}
