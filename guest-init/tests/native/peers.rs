//! Case by case against AWS's runtime interface emulator: the same bytes go to both, what comes back is compared.
//!
//! Whatever differs is in [`DIFFERENCES`], each with its reason; a difference that is not there fails, and so does an entry
//! that has become untrue.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, NEXT, get, post};
use crate::fetched::emulator;
use crate::harness::Harness;

/// One step of a case. Requests may name the invocation under way as `{id}`.
enum Step {
    /// An invocation with this payload.
    Invoke(&'static [u8]),
    /// A request on the connection of this number; the answer is noted.
    Ask(usize, Vec<u8>),
    /// Bytes on the connection of this number, and no answer yet.
    Send(usize, Vec<u8>),
    /// The client says that it will send no more.
    Finish(usize),
    /// The answer to what was sent; noted.
    Answer(usize),
}

use Step::{Answer as Read_, Ask, Finish, Invoke, Send};

/// A list of steps that both go through from a fresh start, with a runtime that has done nothing yet.
struct Case {
    name: &'static str,
    steps: Vec<Step>,
}

/// What is known to differ: the case, and why. `docs/runtime-api.md` has the same list in prose.
const DIFFERENCES: &[(&str, &str)] = &[
    ("HTTP/1.0", "PID 1 answers in its own version, as RFC 9110 section 2.5 has it"),
    ("HTTP/1.0 kept alive", "PID 1 answers in its own version, as RFC 9110 section 2.5 has it"),
    ("a blank line first", "PID 1 ignores it, as RFC 9112 section 2.2 asks for"),
    ("a space before the colon", "refused by both; PID 1 names no missing host"),
    ("a folded header", "RFC 9112 section 5.2 has a server refuse it"),
    ("a truncated response", "the emulator panics; AWS's direct invocations answer as PID 1 does"),
    ("malformed chunks", "the emulator panics; AWS's direct invocations answer as PID 1 does"),
];

const RESPONSE: &str = "/runtime/invocation/{id}/response";
const ERROR: &str = "/runtime/invocation/{id}/error";
const OTHER_RESPONSE: &str = "/runtime/invocation/11111111-2222-3333-4444-555555555555/response";

fn raw(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn chunked(path: &str, headers: &str, body: &str) -> Vec<u8> {
    raw(&format!(
        "POST /2018-06-01{path} HTTP/1.1\r\nHost: h\r\n{headers}Transfer-Encoding: chunked\r\n\r\n{body}"
    ))
}

/// A case in which an invocation has been handed out on connection 0.
fn running(name: &'static str, rest: Vec<Step>) -> Case {
    let mut steps = vec![Invoke(b"{\"a\":1}"), Ask(0, get(NEXT))];
    steps.extend(rest);
    Case { name, steps }
}

fn cases() -> Vec<Case> {
    let json = "Content-Type: application/json\r\n";
    vec![
        running("next", vec![]),
        running("response", vec![Ask(0, post(RESPONSE, json, b"{\"b\":2}"))]),
        running("empty response", vec![Ask(0, post(RESPONSE, "", b""))]),
        running("chunked response", vec![Ask(0, chunked(RESPONSE, "", "3\r\nabc\r\n0\r\n\r\n"))]),
        running(
            "chunked response with an extension and trailers",
            vec![Ask(0, chunked(RESPONSE, "Trailer: X\r\n", "3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"))],
        ),
        running(
            "streamed response",
            vec![Ask(
                0,
                chunked(
                    RESPONSE,
                    "Lambda-Runtime-Function-Response-Mode: streaming\r\n",
                    "3\r\nabc\r\n0\r\n\r\n",
                ),
            )],
        ),
        running(
            "unknown response mode",
            vec![Ask(0, post(RESPONSE, "Lambda-Runtime-Function-Response-Mode: fast\r\n", b"x"))],
        ),
        running(
            "next after an unknown response mode",
            vec![
                Ask(0, post(RESPONSE, "Lambda-Runtime-Function-Response-Mode: fast\r\n", b"x")),
                Ask(0, get(NEXT)),
            ],
        ),
        running("response for another id", vec![Ask(0, post(OTHER_RESPONSE, json, b"{}"))]),
        running(
            "error for another id",
            vec![Ask(0, post("/runtime/invocation/nonsense/error", json, b"{}"))],
        ),
        running(
            "response with the id in upper case",
            vec![Ask(0, post("/runtime/invocation/{ID}/response", json, b"{}"))],
        ),
        running(
            "response without an id",
            vec![Ask(0, post("/runtime/invocation//response", "", b""))],
        ),
        running("next while running", vec![Ask(1, get(NEXT))]),
        running(
            "next while running, then response",
            vec![Ask(1, get(NEXT)), Ask(0, post(RESPONSE, json, b"{}"))],
        ),
        running(
            "second response",
            vec![Ask(0, post(RESPONSE, json, b"1")), Ask(0, post(RESPONSE, json, b"2"))],
        ),
        running(
            "error after response",
            vec![Ask(0, post(RESPONSE, json, b"1")), Ask(0, post(ERROR, json, b"{}"))],
        ),
        running(
            "response after error",
            vec![Ask(0, post(ERROR, json, b"{}")), Ask(0, post(RESPONSE, json, b"2"))],
        ),
        running("error", vec![Ask(0, post(ERROR, json, b"{\"errorType\":\"T\"}"))]),
        running(
            "error with a type and a cause",
            vec![Ask(
                0,
                post(
                    ERROR,
                    "Lambda-Runtime-Function-Error-Type: Function.Broken\r\n\
                     Lambda-Runtime-Function-XRay-Error-Cause: {\"message\":\"m\"}\r\n",
                    b"{}",
                ),
            )],
        ),
        running(
            "error with a cause in its body",
            vec![Ask(
                0,
                post(ERROR, "Content-Type: application/vnd.aws.lambda.error.cause+json\r\n", b"{}"),
            )],
        ),
        running("init error after next", vec![Ask(0, post("/runtime/init/error", json, b"{}"))]),
        running("restore next", vec![Ask(0, get("/runtime/restore/next"))]),
        Case {
            name: "init error",
            steps: vec![
                Invoke(b"1"),
                Ask(
                    0,
                    post(
                        "/runtime/init/error",
                        "Lambda-Runtime-Function-Error-Type: Runtime.X\r\n",
                        b"{}",
                    ),
                ),
            ],
        },
        Case {
            name: "response before next",
            steps: vec![Invoke(b"1"), Ask(0, post(OTHER_RESPONSE, json, b"{}"))],
        },
        Case {
            name: "a second invocation",
            steps: vec![
                Invoke(b"1"),
                Ask(0, get(NEXT)),
                Ask(0, post(RESPONSE, json, b"one")),
                Send(0, get(NEXT)),
                Invoke(b"2"),
                Read_(0),
                Ask(0, post(RESPONSE, json, b"two")),
            ],
        },
        Case {
            name: "a late response",
            steps: vec![
                Invoke(b"1"),
                Ask(0, get(NEXT)),
                Ask(0, post(RESPONSE, json, b"one")),
                Send(0, get(NEXT)),
                Invoke(b"2"),
                Read_(0),
                Ask(1, post(OTHER_RESPONSE, json, b"two")),
            ],
        },
        running(
            "too large",
            vec![Ask(0, post(RESPONSE, json, &vec![b'x'; 6 * 1024 * 1024 + 101]))],
        ),
        running(
            "as large as it may be",
            vec![Ask(0, post(RESPONSE, json, &vec![b'x'; 6 * 1024 * 1024 + 100]))],
        ),
        running(
            "response that expects 100-continue",
            vec![
                Send(
                    0,
                    raw(
                        "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n\
                         Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
                    ),
                ),
                Read_(0),
                Ask(0, raw("{}")),
            ],
        ),
        running(
            "wrong id that expects 100-continue",
            vec![Ask(
                0,
                raw("POST /2018-06-01/runtime/invocation/none/response HTTP/1.1\r\nHost: h\r\n\
                        Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
            )],
        ),
        running(
            "another expectation",
            vec![Ask(
                0,
                raw("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n\
                        Expect: miracles\r\nContent-Length: 2\r\n\r\n{}"),
            )],
        ),
        running("ping", vec![Ask(1, get("/ping"))]),
        running(
            "pipelined pings",
            vec![
                Send(1, [get("/ping"), get("/ping"), get("/none")].concat()),
                Read_(1),
                Read_(1),
                Read_(1),
            ],
        ),
        running("unknown path", vec![Ask(1, get("/runtime/nothing"))]),
        running(
            "unknown version",
            vec![Ask(1, raw("GET /2017-01-01/ping HTTP/1.1\r\nHost: h\r\n\r\n"))],
        ),
        running("root", vec![Ask(1, raw("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))]),
        running("trailing slash", vec![Ask(1, get("/runtime/invocation/next/"))]),
        running("query", vec![Ask(1, get("/ping?x=/runtime"))]),
        running(
            "absolute target",
            vec![Ask(1, raw("GET http://127.0.0.1/2018-06-01/ping HTTP/1.1\r\nHost: h\r\n\r\n"))],
        ),
        running("post to next", vec![Ask(1, post(NEXT, "", b""))]),
        running(
            "delete next",
            vec![Ask(
                1,
                raw("DELETE /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\n\r\n"),
            )],
        ),
        running("get a response", vec![Ask(1, get("/runtime/invocation/{id}/response"))]),
        running("get an init error", vec![Ask(1, get("/runtime/init/error"))]),
        running("post a ping", vec![Ask(1, post("/ping", "", b""))]),
        running(
            "unknown path with a body",
            vec![Ask(1, post("/nothing", "", b"body")), Ask(1, get("/ping"))],
        ),
        running("no host", vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\r\n\r\n"))]),
        running(
            "two hosts",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"))],
        ),
        running("HTTP/1.0", vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.0\r\n\r\n"))]),
        running(
            "HTTP/1.0 kept alive",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))],
        ),
        running("HTTP/3.0", vec![Ask(1, raw("GET /2018-06-01/ping HTTP/3.0\r\nHost: h\r\n\r\n"))]),
        running(
            "close",
            vec![Ask(
                1,
                raw("GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
            )],
        ),
        running("not HTTP", vec![Ask(1, raw("hello there\r\n\r\n"))]),
        running(
            "lines without a carriage return",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\nHost: h\n\n"))],
        ),
        running(
            "a blank line first",
            vec![Ask(1, raw("\r\nGET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\n\r\n"))],
        ),
        running(
            "a header without a colon",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n"))],
        ),
        running(
            "a space before the colon",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\r\nHost : h\r\n\r\n"))],
        ),
        running(
            "a folded header",
            vec![Ask(1, raw("GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n"))],
        ),
        running(
            "a negative length",
            vec![Ask(
                1,
                raw("POST /2018-06-01/none HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"),
            )],
        ),
        running(
            "two lengths that differ",
            vec![Ask(
                1,
                raw("POST /2018-06-01/none HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\
                        Content-Length: 2\r\n\r\nab"),
            )],
        ),
        running(
            "two lengths that agree",
            vec![Ask(
                1,
                raw("POST /2018-06-01/none HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\
                        Content-Length: 2\r\n\r\nab"),
            )],
        ),
        running(
            "length and chunks",
            vec![Ask(0, chunked(RESPONSE, "Content-Length: 3\r\n", "3\r\nabc\r\n0\r\n\r\n"))],
        ),
        running(
            "another transfer coding",
            vec![Ask(
                1,
                raw("POST /2018-06-01/none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n"),
            )],
        ),
        running(
            "head of 60 KiB",
            vec![Ask(
                1,
                raw(&format!(
                    "GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
                    "x".repeat(60 * 1024)
                )),
            )],
        ),
        running(
            "head of two MiB",
            vec![Ask(
                1,
                raw(&format!(
                    "GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
                    "x".repeat(2 << 20)
                )),
            )],
        ),
        running(
            "header names in lower case",
            vec![Ask(
                0,
                raw("POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nhost: h\r\n\
                        lambda-runtime-function-response-mode: fast\r\ncontent-length: 2\r\n\r\n{}"),
            )],
        ),
        running(
            "a truncated response",
            vec![
                Send(
                    0,
                    raw(
                        "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n\
                         Content-Length: 10\r\n\r\nabc",
                    ),
                ),
                Finish(0),
                Read_(0),
            ],
        ),
        running("malformed chunks", vec![Ask(0, chunked(RESPONSE, "", "zz\r\nabc\r\n0\r\n\r\n"))]),
    ]
}

/// One of the two that are compared.
trait Peer {
    fn api(&self) -> SocketAddr;
    fn invoke(&mut self, payload: &'static [u8]);
}

impl Peer for Harness {
    fn api(&self) -> SocketAddr {
        self.api
    }

    fn invoke(&mut self, payload: &'static [u8]) {
        if self.has_invoked() {
            self.frames_until(votive_protocol::Kind::Done);
        }
        Self::invoke(self, payload);
    }
}

/// The emulator, with a runtime that only says that it was started.
struct Emulator {
    child: Child,
    api: SocketAddr,
    front: SocketAddr,
    started: TcpListener,
    caller: Option<JoinHandle<()>>,
}

/// Two addresses that nobody else uses: a loopback address of this process's own, and ports of this emulator's.
pub(crate) fn own_addresses() -> (SocketAddr, SocketAddr) {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    // 127.0.0.1 is everybody's; the last byte is never 0 or 255 here.
    let ip = Ipv4Addr::new(127, 64 | (high & 63), middle, 1 + low % 253);
    let port = 10_000 + 2 * COUNT.fetch_add(1, Ordering::Relaxed);
    ((ip, port).into(), (ip, port + 1).into())
}

/// Connects to a program that is about to listen.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        std::thread::yield_now();
    }
}

impl Emulator {
    fn new() -> Self {
        let (api, front) = own_addresses();
        let started = TcpListener::bind("127.0.0.1:0").unwrap();
        // The runtime: it connects to the test, and then only exists until its standard input, which is that connection,
        // ends.
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; echo started >&3; read line <&3",
            started.local_addr().unwrap().port()
        );
        let child = Command::new(emulator())
            .args(["--runtime-interface-emulator-address", &front.to_string()])
            .args(["--runtime-api-address", &api.to_string(), "--log-level", "error"])
            .args(["/bin/bash", "-c", &script])
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", "120")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, api, front, started, caller: None }
    }
}

impl Peer for Emulator {
    fn api(&self) -> SocketAddr {
        self.api
    }

    fn invoke(&mut self, payload: &'static [u8]) {
        let front = self.front;
        let before = self.caller.take();
        let first = before.is_none();
        if let Some(caller) = before {
            // The emulator panics if a second invocation comes before the first one is over.
            caller.join().unwrap();
        }
        self.caller = Some(std::thread::spawn(move || {
            let mut stream = connect(front);
            let head = format!(
                "POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nHost: h\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n",
                payload.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), payload].concat());
            let _ = stream.read_to_end(&mut Vec::new());
        }));
        if first {
            // Its runtime runs: the emulator is in its init phase.
            let (mut runtime, _) = self.started.accept().unwrap();
            let mut said = [0; 8];
            runtime.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"started\n");
            std::mem::forget(runtime);
            // It starts its runtime before its Runtime API listens.
            drop(connect(self.api));
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(caller) = self.caller.take() {
            let _ = caller.join();
        }
    }
}

/// What an answer comes down to, the id of the invocation apart.
fn noted(answer: Option<&Answer>, id: &str) -> String {
    let Some(answer) = answer else { return "closed".to_owned() };
    let mut text = answer.status.clone();
    for name in [
        "Content-Type",
        "Allow",
        "Connection",
        "Lambda-Runtime-Aws-Request-Id",
        "Lambda-Runtime-Trace-Id",
        "Lambda-Runtime-Client-Context",
        "Lambda-Runtime-Cognito-Identity",
        "Lambda-Runtime-Invoked-Function-Arn",
    ] {
        if let Some(value) = answer.header(name) {
            let value = if id.is_empty() { value.to_owned() } else { value.replace(id, "{id}") };
            write!(text, " | {name}: {value}").unwrap();
        }
    }
    if let Some(deadline) = answer.header("Lambda-Runtime-Deadline-Ms") {
        assert!(deadline.parse::<u64>().unwrap() > 1_600_000_000_000, "no epoch: {deadline}");
    }
    write!(text, " | {}", String::from_utf8_lossy(&answer.body)).unwrap();
    text
}

fn play(peer: &mut impl Peer, case: &Case) -> Vec<String> {
    let mut clients: Vec<Option<Client>> = (0..2).map(|_| None).collect();
    let mut id = String::new();
    let mut notes = Vec::new();
    for step in &case.steps {
        let answered = match step {
            Invoke(payload) => {
                peer.invoke(payload);
                continue;
            }
            Ask(client, bytes) | Send(client, bytes) => {
                let api = peer.api();
                let client = clients[*client].get_or_insert_with(|| Client::connect(api));
                client.send(&named(bytes, &id));
                if matches!(step, Send(..)) {
                    continue;
                }
                client.answer()
            }
            Finish(client) => {
                clients[*client].as_mut().unwrap().finish();
                continue;
            }
            Read_(client) => clients[*client].as_mut().unwrap().answer(),
        };
        if let Some(new) =
            answered.as_ref().and_then(|one| one.header("Lambda-Runtime-Aws-Request-Id"))
        {
            new.clone_into(&mut id);
        }
        notes.push(noted(answered.as_ref(), &id));
    }
    notes
}

/// Puts the id into a request's head.
fn named(bytes: &[u8], id: &str) -> Vec<u8> {
    let head = bytes.len().min(512);
    let Ok(text) = std::str::from_utf8(&bytes[..head]) else { return bytes.to_vec() };
    let text = text.replace("{id}", id).replace("{ID}", &id.to_uppercase());
    [text.as_bytes(), &bytes[head..]].concat()
}

#[test]
fn every_answer_is_that_of_the_emulator_but_for_what_is_listed() {
    let mut report = String::new();
    let cases = cases();
    for (name, _) in DIFFERENCES {
        assert!(cases.iter().any(|case| case.name == *name), "no case is called {name}");
    }
    for case in cases {
        let theirs = play(&mut Emulator::new(), &case);
        let ours = play(&mut Harness::new(), &case);
        let listed = DIFFERENCES.iter().any(|(name, _)| *name == case.name);
        if (theirs != ours) != listed {
            writeln!(report, "{}:\n  theirs: {theirs:#?}\n  ours:   {ours:#?}", case.name).unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}
