//! The Runtime API and the Extensions API without their sockets: connections are handed bytes, frames are handed in, and out come bytes and frames.
//!
//! The caller does the I/O: it reads into [`Server::space`], says so with [`Server::received`], writes what
//! [`Server::output`] gives, says so with [`Server::written`], and closes what [`Server::is_done`] names. Between reads it
//! makes sure that [`Outbox::room`] is at least [`STEP_ROOM`](crate::limits::STEP_ROOM): one read adds no more than that.

mod connection;
mod event;
mod exchange;
mod extension_api;
mod life;
mod record;
#[cfg(test)]
mod tests;

use votive_protocol::limits::ERROR_BODY_MAX;
use votive_protocol::{
    BODY_MAX, Configure, GuestFrame, HostFrame, InvocationId, Invoke, Kind, ResponseOutcome,
    ShutdownReason,
};

use crate::arena::{Arena, LINES};
use crate::extensions::Extensions;
use crate::http::{
    BodyError, CONTINUE, Decoder, Framing, Head, HeadError, Reply, find_head_end,
    leading_blank_lines,
};
use crate::limits::{CONNECTIONS_MAX, DRAIN_MAX, HEAD_MAX};
use crate::link::Outbox;
use crate::route::Route;
use crate::runtime::State;
use crate::telemetry::Telemetry;
use connection::{Body, Connection, Output, Phase, Purpose, Then};
use event::Event;
pub use event::EventError;
use exchange::error_purpose;
pub use record::Failure;
use record::Init;

/// What the server asks of the world: the time, the runtime's memory, and chance.
pub trait Facts {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The time of day in nanoseconds since the Unix epoch.
    fn realtime_ns(&self) -> u64;
    /// The most memory that the runtime's cgroup held so far, in bytes; 0 if nobody counts it.
    fn memory_peak_bytes(&self) -> u64;
    /// Bytes that nobody can foresee.
    fn random(&self) -> [u8; 16];
}

/// Where a new connection can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here.
    Free(usize),
    /// Here, once the connection that is there is closed; it has nothing to lose.
    Evict(usize),
    /// Nowhere for now.
    None,
}

/// What came of the bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyStep {
    /// It is whole.
    Over,
    /// The rest is still to come.
    More,
    /// More is to be thrown away than is worth reading.
    TooLong,
}

/// The Runtime API and what is beside it: connections, the states of runtime and extensions, the invocation that is under
/// way, and what telemetry is told of it.
#[derive(Debug)]
pub struct Server<'m> {
    connections: [Connection<'m>; CONNECTIONS_MAX],
    /// Frames to the agent.
    pub outbox: Outbox<'m>,
    /// Telemetry's subscribers, whose sockets the caller looks after.
    pub telemetry: Telemetry<'m>,
    event: Event<'m>,
    state: State,
    extensions: Extensions,
    init: Init,
    /// Runtime and extensions have asked for their first event.
    init_over: bool,
    /// The life ends: nobody is given anything more, and nothing counts as done.
    ending: bool,
    /// Why and until when extensions have time to end, once they have to.
    shutdown: Option<(ShutdownReason, u64)>,
    /// One bit an extension: it was told.
    told_shutdown: u16,
    /// When runtime and extensions were through with the invocation.
    over_ns: u64,
    /// How long telemetry may still hold up the end of the invocation.
    flush_until_ns: Option<u64>,
    /// The body of the `Configure` frame.
    configure: &'m mut [u8],
    configure_len: usize,
    turns: u64,
    /// One bit a connection: its output changed by something other than its own input.
    stirred: u32,
}

const _: () = assert!(CONNECTIONS_MAX <= 32);

/// The configuration as it was kept; it was checked when it came.
fn decode(bytes: &[u8], len: usize) -> Option<Configure<'_>> {
    match HostFrame::decode(Kind::Configure, bytes.get(..len)?) {
        Ok(HostFrame::Configure(configure)) => Some(configure),
        _ => None,
    }
}

impl<'m> Server<'m> {
    /// A server in the memory of `arena`; gives back what it does not use: the piece for frames from the agent, and those
    /// for lines.
    #[must_use]
    pub fn new(arena: Arena<'m>) -> (Self, &'m mut [u8], [&'m mut [u8]; LINES]) {
        let mut replies = arena.replies.into_iter();
        let connection = |input| Connection::new(input, replies.next().unwrap_or_default());
        let server = Self {
            connections: arena.inputs.map(connection),
            outbox: Outbox::new(arena.outbox),
            telemetry: Telemetry::new(arena.journal),
            event: Event::new(arena.event_head, arena.request, arena.extension_event),
            state: State::Started,
            extensions: Extensions::new(),
            init: Init::default(),
            init_over: false,
            ending: false,
            shutdown: None,
            told_shutdown: 0,
            over_ns: 0,
            flush_until_ns: None,
            configure: arena.configure,
            configure_len: 0,
            turns: 0,
            stirred: 0,
        };
        (server, arena.inbox, arena.lines)
    }

    /// Keeps the body of the `Configure` frame; says whether it has room.
    pub fn configure(&mut self, body: &[u8]) -> bool {
        let Some(place) = self.configure.get_mut(..body.len()) else { return false };
        place.copy_from_slice(body);
        self.configure_len = body.len();
        true
    }

    /// What the microVM is for, once the agent has said so.
    #[must_use]
    pub fn configuration(&self) -> Option<Configure<'_>> {
        decode(self.configure, self.configure_len)
    }

    /// The extensions.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The extensions, for what becomes of their processes.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// Whether runtime and extensions have asked for their first event.
    #[must_use]
    pub fn is_init_over(&self) -> bool {
        self.init_over
    }

    /// Until when telemetry may hold up the end of the invocation, if it does.
    #[must_use]
    pub fn flush_until_ns(&self) -> Option<u64> {
        self.flush_until_ns
    }

    /// The runtime's state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The invocation that has begun and is not over.
    #[must_use]
    pub fn invocation(&self) -> Option<InvocationId> {
        self.event.id()
    }

    /// An invocation begins.
    ///
    /// # Errors
    /// [`EventError`] if another one is under way, or a field cannot stand in a header.
    pub fn invoke(&mut self, invoke: &Invoke<'_>, facts: &dyn Facts) -> Result<(), EventError> {
        self.event.begin(invoke)?;
        self.hand_out(facts);
        Ok(())
    }

    /// A piece of its payload.
    ///
    /// # Errors
    /// [`EventError`] if it is longer than was announced.
    pub fn payload(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        self.event.add_payload(bytes)?;
        for (index, connection) in self.connections.iter().enumerate() {
            if matches!(connection.output, Output::Event { .. }) {
                self.stirred |= 1 << index;
            }
        }
        Ok(())
    }

    /// Gives up the invocation under way, since its runtime is gone; names it.
    pub fn abandon(&mut self) -> Option<InvocationId> {
        let id = self.event.end();
        self.drop_event_readers();
        id
    }

    /// Memory that a large payload touched and that nobody needs any more: what it holds is of no use. Names it once.
    pub fn take_excess(&mut self) -> Option<&mut [u8]> {
        self.event.take_excess()
    }

    /// The connections whose output changed by something other than their own input, one bit each, once.
    pub fn take_stirred(&mut self) -> u32 {
        core::mem::take(&mut self.stirred)
    }

    /// A place for a new connection. Without a free one, an idle or a lingering connection is to be closed first, if there
    /// is one.
    #[must_use]
    pub fn place(&self) -> Place {
        if let Some(free) = self.connections.iter().position(|one| one.phase == Phase::Free) {
            return Place::Free(free);
        }
        let idle = |one: &Connection<'_>| match one.phase {
            Phase::Linger => true,
            Phase::Head => one.rest().is_empty() && one.output == Output::Nothing,
            _ => false,
        };
        let idle = self.connections.iter().enumerate().filter(|(_, one)| idle(one));
        match idle.min_by_key(|(_, one)| one.turn) {
            Some((index, _)) => Place::Evict(index),
            None => Place::None,
        }
    }

    /// A client connected.
    pub fn open(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.reset(Phase::Head);
            self.turns += 1;
            connection.turn = self.turns;
        }
    }

    /// The connection is closed; its place is free.
    pub fn closed(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.reset(Phase::Free);
        }
    }

    /// Where the connection's next bytes go; empty if it has to wait until its output is out.
    pub fn space(&mut self, index: usize) -> &mut [u8] {
        match self.connections.get_mut(index) {
            Some(connection) if connection.phase != Phase::Free => connection.space(),
            _ => &mut [],
        }
    }

    /// `len` bytes were read into [`Server::space`].
    pub fn received(&mut self, index: usize, len: usize, facts: &dyn Facts) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.end = connection.input.len().min(connection.end.saturating_add(len));
        self.advance(index, facts);
    }

    /// The client will send nothing more. An answer may have to be written before the connection is closed.
    pub fn ended(&mut self, index: usize, facts: &dyn Facts) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match connection.phase {
            Phase::Body(body) => self.cut_short(index, body, facts),
            Phase::Free => {}
            Phase::Head | Phase::Next | Phase::ExtensionNext(_) | Phase::Linger | Phase::Close => {
                connection.phase = Phase::Close;
            }
        }
    }

    /// What has to be written to the connection: two pieces, the second one after the first.
    #[must_use]
    pub fn output(&self, index: usize) -> Option<[&[u8]; 2]> {
        let connection = self.connections.get(index)?;
        let pieces = match connection.output {
            Output::Nothing => return None,
            Output::Reply { at, len } => [connection.reply.get(at..len).unwrap_or(&[]), &[]],
            Output::Event { sent } => self.event.from(sent),
            Output::Invoke { at, len, sent } => [
                connection.reply.get(at..len).unwrap_or(&[]),
                self.event.invoke_event().get(sent..).unwrap_or(&[]),
            ],
        };
        pieces.iter().any(|piece| !piece.is_empty()).then_some(pieces)
    }

    /// `len` bytes of [`Server::output`] were written.
    pub fn written(&mut self, index: usize, len: usize, facts: &dyn Facts) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match &mut connection.output {
            Output::Nothing => return,
            Output::Reply { at, len: end } => {
                *at += len;
                if at < end {
                    return;
                }
                let interim = matches!(connection.phase, Phase::Body(_));
                if !interim && !connection.keep_alive && connection.phase == Phase::Head {
                    connection.phase = Phase::Linger;
                    connection.half_close = true;
                }
            }
            Output::Event { sent } => {
                *sent = sent.saturating_add(len as u64);
                if *sent < self.event.len() {
                    return;
                }
                if !connection.keep_alive {
                    connection.phase = Phase::Linger;
                    connection.half_close = true;
                }
            }
            Output::Invoke { at, len: end, sent } => {
                let of_head = len.min(end.saturating_sub(*at));
                *at += of_head;
                *sent += len - of_head;
                if *sent < self.event.invoke_event().len() {
                    return;
                }
                if !connection.keep_alive {
                    connection.phase = Phase::Linger;
                    connection.half_close = true;
                }
            }
        }
        connection.output = Output::Nothing;
        self.advance(index, facts);
    }

    /// Whether the connection's writing side is to be shut down now; says so once.
    pub fn take_half_close(&mut self, index: usize) -> bool {
        self.connections
            .get_mut(index)
            .is_some_and(|connection| core::mem::take(&mut connection.half_close))
    }

    /// Whether the connection is to be closed.
    #[must_use]
    pub fn is_done(&self, index: usize) -> bool {
        self.connections.get(index).is_some_and(|connection| {
            connection.phase == Phase::Close && connection.output == Output::Nothing
        })
    }

    /// Goes on with a connection until it needs more input, has output to be written, or waits.
    fn advance(&mut self, index: usize, facts: &dyn Facts) {
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return };
            if connection.output != Output::Nothing {
                return;
            }
            let goes_on = match connection.phase {
                Phase::Head => self.advance_head(index, facts),
                Phase::Body(body) => self.advance_body(index, body, facts),
                Phase::Linger => {
                    connection.raw = connection.end;
                    connection.compact();
                    false
                }
                Phase::Free | Phase::Next | Phase::ExtensionNext(_) | Phase::Close => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Reads a head; says whether there is more to do.
    fn advance_head(&mut self, index: usize, facts: &dyn Facts) -> bool {
        let Some(connection) = self.connections.get_mut(index) else { return false };
        connection.kept = 0;
        if connection.searched == 0 {
            connection.raw += leading_blank_lines(connection.rest());
        }
        let Some(len) = find_head_end(connection.rest(), connection.searched) else {
            connection.searched = connection.rest().len().saturating_sub(3);
            connection.compact();
            if connection.rest().len() > HEAD_MAX {
                self.refuse(index, Reply::HeadTooLarge);
            }
            return false;
        };
        connection.searched = 0;
        if len > HEAD_MAX {
            self.refuse(index, Reply::HeadTooLarge);
            return false;
        }
        connection.move_to_front();
        match Head::parse(connection.input.get(..len).unwrap_or(&[])) {
            Ok(head) => {
                connection.raw = len;
                connection.head_len = len;
                connection.keep_alive = head.keep_alive;
                self.turns += 1;
                connection.turn = self.turns;
                self.take_request(index, &head, facts);
                true
            }
            Err(error) => {
                self.refuse(
                    index,
                    match error {
                        HeadError::Malformed => Reply::BadRequest,
                        HeadError::NoHost => Reply::NoHost,
                        HeadError::TooManyHeaders => Reply::HeadTooLarge,
                        HeadError::UnknownVersion => Reply::UnknownVersion,
                        HeadError::UnknownCoding => Reply::UnknownCoding,
                        HeadError::UnknownExpectation => Reply::ExpectationFailed,
                    },
                );
                false
            }
        }
    }

    /// Decides what a request's body is read for.
    fn take_request(&mut self, index: usize, head: &Head, facts: &dyn Facts) {
        let discard = Purpose::Discard { left: DRAIN_MAX };
        let (purpose, then) = match head.route {
            Route::Next => (discard, Then::Next),
            Route::Ping => (discard, Then::Reply(Reply::Pong)),
            Route::NotFound => (discard, Then::Reply(Reply::NotFound)),
            Route::MethodNotAllowed(allow) => {
                (discard, Then::Reply(Reply::MethodNotAllowed { allow }))
            }
            Route::InitError => (error_purpose(head, true), Then::Reply(Reply::Accepted)),
            Route::Response(id) => match self.begin_response(index, id, head, facts) {
                Ok(max) => (Purpose::Response { sent: 0, max }, Then::Reply(Reply::Accepted)),
                Err(reply) => (discard, Then::Reply(reply)),
            },
            Route::Register => self.plan_register(index, head),
            Route::ExtensionNext => self.plan_next(index, head),
            Route::ExtensionInitError => self.report_extension_error(index, head, true),
            Route::ExtensionExitError => self.report_extension_error(index, head, false),
            Route::Subscribe(api) => self.plan_subscribe(index, head, api),
            Route::InvocationError(id) => match self.begin_error(index, id) {
                Ok(()) => (error_purpose(head, false), Then::Reply(Reply::Accepted)),
                Err(reply) => (discard, Then::Reply(reply)),
            },
        };
        let Some(connection) = self.connections.get_mut(index) else { return };
        let keeps = matches!(purpose, Purpose::Error { .. } | Purpose::Form { .. });
        connection.kept = if keeps { connection.raw } else { 0 };
        let decoder = Decoder::new(head.framing);
        let refused = matches!(purpose, Purpose::Discard { .. });
        let too_long = matches!(head.framing, Framing::Length(length) if length > DRAIN_MAX);
        let unsent = head.expects_continue && !decoder.is_over() && connection.rest().is_empty();
        connection.phase = Phase::Body(Body { decoder, purpose, then });
        if unsent && !refused {
            if let Some(place) = connection.reply.get_mut(..CONTINUE.len()) {
                place.copy_from_slice(CONTINUE);
            }
            connection.output = Output::Reply { at: 0, len: CONTINUE.len() };
        }
        connection.compact();
        if refused
            && (too_long || unsent)
            && let Then::Reply(reply) = then
        {
            self.refuse(index, reply);
        }
    }

    /// Reads a body; says whether there is more to do.
    fn advance_body(&mut self, index: usize, mut body: Body, facts: &dyn Facts) -> bool {
        match self.decode_body(index, &mut body, facts) {
            Ok(BodyStep::Over) => {
                self.finish(index, body, facts);
                true
            }
            Ok(BodyStep::More) => {
                let Some(connection) = self.connections.get_mut(index) else { return false };
                connection.phase = Phase::Body(body);
                connection.compact();
                if connection.is_full() {
                    // A size line or a trailer section that fills the whole buffer.
                    self.cut_short(index, body, facts);
                }
                false
            }
            Ok(BodyStep::TooLong) => {
                if let Then::Reply(reply) = body.then {
                    self.refuse(index, reply);
                }
                false
            }
            Err(BodyError) => {
                self.cut_short(index, body, facts);
                false
            }
        }
    }

    /// Uses up what is there of a body.
    fn decode_body(
        &mut self,
        index: usize,
        body: &mut Body,
        facts: &dyn Facts,
    ) -> Result<BodyStep, BodyError> {
        let Some(connection) = self.connections.get_mut(index) else { return Err(BodyError) };
        let Some(rest) = connection.input.get_mut(connection.raw..connection.end) else {
            return Err(BodyError);
        };
        let decoded = body.decoder.decode(rest)?;
        let from = connection.raw;
        connection.raw += decoded.consumed;
        match &mut body.purpose {
            Purpose::Response { sent, max } => {
                *sent = sent.saturating_add(decoded.produced as u64);
                if *sent > *max {
                    body.purpose = Purpose::Discard { left: DRAIN_MAX };
                    body.then = Then::Reply(Reply::TooLarge);
                    self.end_response(ResponseOutcome::Oversized, facts);
                } else {
                    self.event.produce(decoded.produced);
                    let payload = connection.input.get(from..from + decoded.produced);
                    for piece in payload.unwrap_or(&[]).chunks(BODY_MAX) {
                        self.outbox.push(&GuestFrame::ResponsePayload(piece));
                    }
                }
            }
            Purpose::Error { overflowed, .. } | Purpose::Form { overflowed, .. } => {
                // The head is within HEAD_MAX, so that a body within its limit always finds room behind it.
                connection.input.copy_within(from..from + decoded.produced, connection.kept);
                connection.kept += decoded.produced;
                let head_len = connection.head_len;
                if *overflowed || connection.kept - head_len > ERROR_BODY_MAX {
                    *overflowed = true;
                    connection.kept = head_len;
                }
            }
            Purpose::Discard { left } => match left.checked_sub(decoded.consumed as u64) {
                Some(now) => *left = now,
                None => return Ok(BodyStep::TooLong),
            },
        }
        if body.decoder.is_over() {
            return Ok(BodyStep::Over);
        }
        if body.decoder.at_trailers() {
            return self.decode_trailers(index, body, facts);
        }
        Ok(BodyStep::More)
    }
}
