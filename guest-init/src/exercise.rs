//! The Runtime API under arbitrary input: for fuzzing and for tests, on a host that has the standard library.
//!
//! The input is a list of operations: bytes on a connection, frames of the agent's, progress of writes. What must hold
//! whatever happens is asserted: no frame is lost, every frame can be read, and the frames of an invocation come in the only
//! order that makes sense.

use std::cell::{Cell, RefCell};

use votive_protocol::{
    GuestFrame, HEADER_LEN, Header, InvocationId, Invoke, ResponseMode, RuntimeErrorScope, limits,
};

use crate::arena::{ARENA_LEN, Arena};
use crate::http::{Decoder, Head, find_head_end};
use crate::limits::{CONNECTIONS_MAX, STEP_ROOM};
use crate::runtime::State;
use crate::server::{Facts, Place, Server};

/// A clock that goes on by itself.
#[derive(Debug, Default)]
struct Ticks(Cell<u64>);

impl Facts for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn memory_peak_bytes(&self) -> u64 {
        1
    }
}

/// How far the answer to the invocation under way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Begun { payload: u64, max: u64 },
    Over,
}

/// Checks the order of frames.
#[derive(Debug)]
struct Watcher {
    current: Option<(InvocationId, Answer)>,
    ready: bool,
}

impl Watcher {
    fn see(&mut self, frame: &GuestFrame<'_>) {
        match frame {
            GuestFrame::Ready(_) => {
                assert!(!self.ready, "ready twice");
                self.ready = true;
            }
            GuestFrame::ResponseStart(start) => {
                let max = match start.mode {
                    ResponseMode::Buffered => limits::RESPONSE_PAYLOAD_MAX,
                    ResponseMode::Streaming => limits::STREAMED_RESPONSE_MAX,
                };
                let begun = Answer::Begun { payload: 0, max };
                assert_eq!(
                    self.current.replace((start.id, begun)),
                    Some((start.id, Answer::Nothing))
                );
            }
            GuestFrame::ResponsePayload(bytes) => {
                assert!(!bytes.is_empty(), "an empty piece");
                let Some((_, Answer::Begun { payload, max })) = &mut self.current else {
                    unreachable!("a piece of no answer")
                };
                *payload += bytes.len() as u64;
                assert!(payload <= max, "more than the limit");
            }
            GuestFrame::ResponseEnd(end) => {
                let before = self.current.replace((end.id, Answer::Over));
                assert!(matches!(before, Some((id, Answer::Begun { .. })) if id == end.id));
            }
            GuestFrame::RuntimeError(error) => {
                if let RuntimeErrorScope::Invocation(id) = error.scope {
                    let before = self.current.replace((id, Answer::Over));
                    assert_eq!(before, Some((id, Answer::Nothing)));
                } else {
                    assert!(!self.ready, "an init error after the init phase");
                }
            }
            GuestFrame::Done(done) => {
                assert_eq!(self.current.take(), Some((done.id, Answer::Over)));
            }
            GuestFrame::Hello(_)
            | GuestFrame::Phase(_)
            | GuestFrame::RuntimeExited(_)
            | GuestFrame::Extension(_)
            | GuestFrame::ExtensionExited(_)
            | GuestFrame::Subscription(_)
            | GuestFrame::Down(_)
            | GuestFrame::Log(..)
            | GuestFrame::Fault(_) => unreachable!("not a frame of the Runtime API: {frame:?}"),
        }
    }
}

/// A server with sockets and an agent that are played.
#[derive(Debug)]
pub struct Play<'m> {
    server: Server<'m>,
    facts: Ticks,
    watcher: Watcher,
    invocations: u8,
    due: u64,
    /// What each connection was sent since it was last asked for.
    sent: [Vec<u8>; CONNECTIONS_MAX],
    open: [bool; CONNECTIONS_MAX],
    /// How many bytes a write takes at most.
    write_max: usize,
}

impl<'m> Play<'m> {
    /// A server in `memory`, which must be [`ARENA_LEN`] bytes.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn new(memory: &'m mut [u8]) -> Self {
        let arena = Arena::cut(memory).expect("enough memory");
        let (server, _, _) = Server::new(arena);
        Self {
            server,
            facts: Ticks::default(),
            watcher: Watcher { current: None, ready: false },
            invocations: 0,
            due: 0,
            sent: Default::default(),
            open: [false; CONNECTIONS_MAX],
            write_max: usize::MAX,
        }
    }

    /// Lets writes take at most so many bytes from now on.
    pub fn limit_writes(&mut self, max: usize) {
        self.write_max = max.max(1);
    }

    /// The runtime's state.
    #[must_use]
    pub fn state(&self) -> State {
        self.server.state()
    }

    /// Begins an invocation unless one is under way.
    pub fn invoke(&mut self, payload_len: u64) {
        if self.server.invocation().is_some() {
            return;
        }
        self.invocations = self.invocations.wrapping_add(1);
        let id = InvocationId([self.invocations; 16]);
        let invoke = Invoke {
            id,
            deadline_ms: 1,
            payload_len: payload_len.min(limits::REQUEST_PAYLOAD_MAX),
            realtime_ns: 0,
            function_arn: "arn",
            trace_id: "",
            client_context: "{}",
            cognito_identity: "",
            tenant_id: "",
            content_type: "",
        };
        self.watcher.current = Some((id, Answer::Nothing));
        self.server.invoke(&invoke, &self.facts).expect("none is under way");
        self.due = invoke.payload_len;
        self.settle();
    }

    /// The text of the id of the last invocation.
    #[must_use]
    pub fn id(&self) -> String {
        InvocationId([self.invocations; 16]).to_string()
    }

    /// Sends as much of the payload as is due and in `bytes`.
    pub fn payload(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(usize::try_from(self.due).unwrap_or(usize::MAX));
        self.due -= len as u64;
        self.server.payload(&bytes[..len]).expect("no more than is due");
        self.settle();
    }

    /// Gives bytes to a connection, which is opened if it is not; as many at a time as it has space for, and none if it has
    /// to wait.
    pub fn feed(&mut self, index: usize, bytes: &[u8]) {
        if !self.open[index] {
            if self.server.place() == Place::None {
                return;
            }
            self.server.open(index);
            self.open[index] = true;
        }
        let mut rest = bytes;
        while !rest.is_empty() && self.open[index] {
            let space = self.server.space(index);
            let len = rest.len().min(space.len());
            if len == 0 {
                return;
            }
            space[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            let room = self.server.outbox.room();
            assert!(room >= STEP_ROOM);
            self.server.received(index, len, &self.facts);
            self.settle();
        }
    }

    /// The client hangs up.
    pub fn end(&mut self, index: usize) {
        if self.open[index] {
            self.server.ended(index, &self.facts);
            self.settle();
            self.close(index);
            self.settle();
        }
    }

    /// The runtime's process ends and another one begins.
    pub fn restart(&mut self) {
        for index in 0..CONNECTIONS_MAX {
            self.end(index);
        }
        assert_eq!(
            self.server.abandon().is_some(),
            self.watcher.current.take().is_some(),
            "what was under way is abandoned"
        );
        self.watcher.ready = false;
        self.server.runtime_started();
    }

    /// What a connection was sent since it was last asked for.
    pub fn sent(&mut self, index: usize) -> Vec<u8> {
        std::mem::take(&mut self.sent[index])
    }

    fn close(&mut self, index: usize) {
        self.server.closed(index);
        self.open[index] = false;
    }

    /// Writes and closes until nothing moves any more, as the loop does.
    fn settle(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            self.take_frames();
            let _ = self.server.take_stirred();
            for index in 0..CONNECTIONS_MAX {
                while let Some([first, second]) = self.server.output(index) {
                    let all = [first, second].concat();
                    let len = all.len().min(self.write_max);
                    self.sent[index].extend_from_slice(&all[..len]);
                    self.server.written(index, len, &self.facts);
                    self.take_frames();
                    moved = true;
                }
                let _ = self.server.take_half_close(index);
                if self.open[index] && self.server.is_done(index) {
                    self.close(index);
                    moved = true;
                }
            }
        }
        if self.server.take_excess().is_some() {
            assert_eq!(self.server.invocation(), None);
        }
    }

    fn take_frames(&mut self) {
        assert_eq!(self.server.outbox.lost(), 0, "a frame was lost");
        loop {
            let pending = self.server.outbox.pending();
            let Some(header) = pending.first_chunk::<HEADER_LEN>() else { return };
            let header = Header::parse(*header).expect("a header");
            let len = HEADER_LEN + header.body_len;
            let frame = GuestFrame::decode(header.kind, &pending[HEADER_LEN..len]);
            self.watcher.see(&frame.expect("a frame"));
            self.server.outbox.written(len);
        }
    }
}

/// [`run`] for a fuzzer: the memory is made once, and holds what earlier inputs left in it.
pub fn runtime_api(data: &[u8]) {
    thread_local! {
        static MEMORY: RefCell<Vec<u8>> = RefCell::new(memory());
    }
    MEMORY.with_borrow_mut(|memory| run(memory, data));
}

/// The parsers of requests on their own: a head, then its body in pieces whose lengths the input names.
pub fn http(data: &[u8]) {
    let Some(end) = find_head_end(data, 0) else { return };
    let (head, body) = data.split_at(end);
    let Ok(head) = Head::parse(head) else { return };
    let mut decoder = Decoder::new(head.framing);
    let mut pending = Vec::new();
    for piece in body.chunks(1 + usize::from(body.first().copied().unwrap_or(0))) {
        pending.extend_from_slice(piece);
        let Ok(decoded) = decoder.decode(&mut pending) else { return };
        assert!(decoded.produced <= decoded.consumed && decoded.consumed <= pending.len());
        pending.drain(..decoded.consumed);
        if decoder.is_over() {
            return;
        }
        if decoder.at_trailers()
            && let Ok(Some((len, trailers))) = decoder.trailers(&pending)
        {
            assert!(len <= pending.len() && decoder.is_over());
            assert!(trailers.error_body.get(&pending).len() == trailers.error_body.len());
            return;
        }
    }
}

/// Memory for a [`Play`].
#[must_use]
pub fn memory() -> Vec<u8> {
    vec![0; ARENA_LEN]
}

/// Pieces of requests that a fuzzer would need long to come up with.
const PHRASES: [&str; 16] = [
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n",
    "POST /2018-06-01/runtime/invocation/{id}/error HTTP/1.1\r\nHost: h\r\n",
    "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: h\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "Lambda-Runtime-Function-Response-Mode: streaming\r\n",
    "Lambda-Runtime-Function-Error-Type: Function.Ab\r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n",
    "hello",
    "Content-Length: 7000000\r\n\r\n",
];

/// Runs a list of operations: two bytes each, the second one often a length of bytes that follow.
pub fn run(memory: &mut [u8], data: &[u8]) {
    let mut play = Play::new(memory);
    let mut rest = data;
    while let [operation, argument, behind @ ..] = rest {
        rest = behind;
        let index = usize::from(operation >> 4) % CONNECTIONS_MAX;
        let (now, later) = rest.split_at(rest.len().min(usize::from(*argument)));
        match operation & 0xf {
            0..=7 => {
                let phrase = PHRASES[usize::from(*argument) % PHRASES.len()];
                let phrase = phrase.replace("{id}", &play.id());
                play.feed(index, phrase.as_bytes());
            }
            8 | 9 => {
                play.feed(index, now);
                rest = later;
            }
            10 => play.invoke(u64::from(*argument)),
            11 => {
                play.payload(now);
                rest = later;
            }
            12 => play.end(index),
            13 => play.limit_writes(usize::from(*argument)),
            14 => play.feed(index, &vec![b'x'; usize::from(*argument) * 64]),
            _ => play.restart(),
        }
    }
}
