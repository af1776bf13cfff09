//! The Runtime API under arbitrary input: for fuzzing and for tests, on a host that has the standard library.
//!
//! The input is a list of operations: bytes on a connection, frames of the agent's, progress of writes. What must hold
//! whatever happens is asserted: no frame is lost, every frame can be read, and the frames of an invocation come in the only
//! order that makes sense.

use std::cell::{Cell, RefCell};

use votive_protocol::{
    BODY_MAX, ByteList, Configure, GuestFrame, HEADER_LEN, Header, HostFrame, InitializationType,
    InvocationId, Invoke, ResponseMode, RuntimeErrorScope, ShutdownReason, limits,
};

use crate::arena::{ARENA_LEN, Arena};
use crate::http::{Decoder, Head, find_head_end};
use crate::limits::{CONNECTIONS_MAX, EXTENSIONS_MAX, STEP_ROOM};
use crate::runtime::State;
use crate::server::{Facts, Place, Server};

/// A clock that goes on by itself.
#[derive(Debug, Default)]
struct Ticks(Cell<u64>, Cell<u64>);

impl Facts for Ticks {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn memory_peak_bytes(&self) -> u64 {
        1
    }

    fn realtime_ns(&self) -> u64 {
        1_700_000_000_000_000_000 + self.now_ns()
    }

    fn random(&self) -> [u8; 16] {
        // The first one drawn is always the same, so that an input can name it.
        let number = u8::try_from(self.1.get() & 0xff).unwrap_or(0);
        self.1.set(self.1.get() + 1);
        [number; 16]
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
            GuestFrame::Phase(_) => assert!(!self.ready, "a phase of the start after it"),
            GuestFrame::Extension(_) => assert!(!self.ready, "an extension is told of once"),
            GuestFrame::Subscription(_) => assert!(!self.ready, "a late subscription"),
            GuestFrame::Hello(_)
            | GuestFrame::RuntimeExited(_)
            | GuestFrame::ExtensionExited(_)
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
        let (mut server, _, _) = Server::new(arena);
        let facts = Ticks::default();
        let mut frame = vec![0; HEADER_LEN + BODY_MAX];
        let len = HostFrame::Configure(configuration()).encode(&mut frame).expect("room");
        assert!(server.configure(&frame[HEADER_LEN..len]));
        server.begin_life(&facts);
        Self {
            server,
            facts,
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
        self.server.end_life();
        self.server.begin_life(&self.facts);
    }

    /// Extensions are told that the environment ends.
    pub fn shut_down(&mut self) {
        self.server.begin_shutdown(ShutdownReason::Timeout, 2, &self.facts);
        self.settle();
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
            if self.server.flush_until_ns().is_some() {
                for slot in 0..EXTENSIONS_MAX {
                    self.server.telemetry.unreachable(slot, u64::MAX / 2);
                }
                self.server.check_flushed(&self.facts);
                assert_eq!(self.server.flush_until_ns(), None);
                moved = true;
            }
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
const PHRASES: [&str; 32] = [
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
    "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: h\r\nLambda-Extension-Name: a\r\n",
    "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: h\r\nLambda-Extension-Name: b\r\n",
    "Content-Length: 21\r\n\r\n{\"events\":[\"INVOKE\"]}",
    "Content-Length: 13\r\n\r\n{\"events\":[]}",
    "GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: h\r\n",
    "POST /2020-01-01/extension/init/error HTTP/1.1\r\nHost: h\r\n",
    "POST /2020-01-01/extension/exit/error HTTP/1.1\r\nHost: h\r\n",
    "PUT /2022-07-01/telemetry HTTP/1.1\r\nHost: h\r\n",
    "PUT /2020-08-15/logs HTTP/1.1\r\nHost: h\r\n",
    "Lambda-Extension-Identifier: 00000000-0000-4000-8000-000000000000\r\n",
    "Lambda-Extension-Identifier: 01010101-0101-4101-8101-010101010101\r\n",
    "Lambda-Extension-Function-Error-Type: Extension.X\r\n",
    "Lambda-Extension-Accept-Feature: accountId\r\n",
    "Content-Length: 102\r\n\r\n{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":4243}}      ",
    "Content-Length: 69\r\n\r\n{\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":4243}}  ",
    "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
];

/// A function with every field that is quoted somewhere.
fn configuration() -> Configure<'static> {
    Configure {
        realtime_ns: 1,
        memory_bytes: 128 << 20,
        uid: 993,
        gid: 990,
        mounts: [None; limits::MOUNTS_MAX],
        network: None,
        initialization: InitializationType::OnDemand,
        account_id: "012345678912",
        function_name: "test_function",
        function_version: "$LATEST",
        handler: "app.handler",
        runtime: "",
        region: "us-east-1",
        log_group: "/aws/lambda/test_function",
        log_stream: "stream",
        working_directory: "",
        arguments: ByteList::default(),
        environment: ByteList::default(),
        credentials: ByteList::default(),
    }
}

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
            12 if *argument == 0 => play.shut_down(),
            12 => play.end(index),
            13 => play.limit_writes(usize::from(*argument)),
            14 => play.feed(index, &vec![b'x'; usize::from(*argument) * 64]),
            _ => play.restart(),
        }
    }
}

/// JSON of any kind: a value is read to its end or refused, as another reader would.
pub fn json(data: &[u8]) {
    let mut reader = crate::json::Reader::new(data);
    let mut buffer = [0; 64];
    let outcome = loop {
        match reader.next_token() {
            Ok(Some(crate::json::Token::String(text) | crate::json::Token::Key(text))) => {
                if let Some(text) = text.put(&mut buffer) {
                    assert!(text.len() <= 64);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let theirs = serde_json::from_slice::<serde_json::Value>(data);
    match theirs {
        // What they take, we take, but for what is nested deeper.
        Ok(value) => assert!(outcome || depth(&value) > crate::json::DEPTH_MAX as usize),
        // They refuse half a pair of surrogates, numbers out of range and depths over 128; nothing else that we take.
        Err(error) if outcome => {
            let text = error.to_string();
            let excused = ["surrogate", "range", "recursion", "hex escape"];
            assert!(excused.iter().any(|one| text.contains(one)), "{text}: {data:?}");
        }
        Err(_) => {}
    }
    let _ =
        crate::extensions::Registration::parse(data).map(|one| (one.check(true), one.check(false)));
    for api in [crate::telemetry::request::Api::Telemetry, crate::telemetry::request::Api::Logs] {
        if let Ok(request) = crate::telemetry::request::Request::parse(data, api) {
            assert!(outcome, "a subscription that is no JSON");
            assert!((25..=30_000).contains(&request.buffering.timeout_ms));
        }
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Events, deliveries and failures in any order: what was pushed is delivered, dropped and told, or still kept.
pub fn telemetry(data: &[u8]) {
    use crate::telemetry::journal::Tag;
    use crate::telemetry::request::{Api, Request};
    use crate::telemetry::{Telemetry, Times};
    let body = |destination: &str| {
        let body = format!(
            "{{\"schemaVersion\":\"2022-12-13\",\"types\":[\"platform\",\"function\"],\
             \"destination\":{destination}}}"
        );
        Request::parse(body.as_bytes(), Api::Telemetry).expect("a subscription")
    };
    let requests = [
        body("{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:1\"}"),
        body("{\"protocol\":\"TCP\",\"port\":2}"),
        body("{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox:3/x\"}"),
    ];
    let mut memory = vec![0; 4096];
    let mut telemetry = Telemetry::new(&mut memory);
    let mut sent: [Vec<u8>; 3] = Default::default();
    let mut now_ns = 0;
    for operation in data.chunks_exact(3) {
        let [kind, slot, argument] = [operation[0] % 9, operation[1] % 3, operation[2]];
        let slot = usize::from(slot);
        now_ns += u64::from(argument) * 1_000_000;
        let at = Times { now_ns, realtime_ns: now_ns };
        match kind {
            0 => telemetry.line(Tag::Function, at, &vec![b'a'; usize::from(argument) * 4]),
            1 => telemetry.line(Tag::Extension, at, &[argument]),
            2 => telemetry.platform(Tag::Platform, at, "platform.start", |writer| {
                writer.push(b"{}");
            }),
            3 => drop(telemetry.subscribe(slot, requests[slot], Api::Telemetry, now_ns)),
            4 => {
                if telemetry.is_due(slot, now_ns) && telemetry.begin(slot, at) {
                    sent[slot].clear();
                }
            }
            5 => {
                let mut buffer = vec![0; usize::from(argument) + 1];
                let len = telemetry.fill(slot, &mut buffer);
                sent[slot].extend_from_slice(&buffer[..len]);
                telemetry.written(slot, len);
                if slot != 1 && len == 0 && telemetry.in_flight(slot) {
                    check_batch(&sent[slot]);
                    telemetry.answered(slot, b"HTTP/1.1 200 OK");
                }
            }
            6 => telemetry.broken(slot),
            7 => telemetry.unreachable(slot, now_ns),
            _ => telemetry.flush(),
        }
        if !telemetry.in_flight(slot) {
            assert_eq!(telemetry.fill(slot, &mut [0; 8]), 0);
        }
    }
}

/// A whole request with a JSON array of as many bytes as it says.
fn check_batch(request: &[u8]) {
    let text = std::str::from_utf8(request).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(length.and_then(|length| length.parse().ok()), Some(body.len()));
    let events: Vec<serde_json::Value> = serde_json::from_str(body).expect("a list");
    assert!(!events.is_empty() && events.iter().all(|event| event["type"].is_string()));
}
