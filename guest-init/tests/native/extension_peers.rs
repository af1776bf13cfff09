//! The Extensions API case by case against AWS's runtime interface emulator, as `peers` does for the Runtime API; and the
//! Telemetry API against the emulator of managed instances, which the same program holds.
//!
//! External extensions are processes on both sides: they say that they run, and end when the test says so. What they would
//! ask the API for, the test asks in their name.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use votive_protocol::{GuestFrame, Kind, PhaseName};

use crate::client::{Answer, Client, NEXT, get, post};
use crate::fetched::emulator;
use crate::harness::{Harness, RuntimeCommand};
use crate::peers::{connect, own_addresses};

/// One step of a case. Requests may name the invocation under way as `{id}` and an extension by `{a}`, the name that it
/// registered under.
enum Step {
    /// An invocation; the first one begins everything.
    Invoke,
    /// The runtime runs: both wait for that.
    Runtime,
    /// A request on the connection of this number; the answer is noted.
    Ask(usize, Vec<u8>),
    /// A request, and no answer yet.
    Send(usize, Vec<u8>),
    /// The answer to what was sent; noted.
    Hear(usize),
    /// The external extension of this name ends with this code.
    Exit(&'static str, u8),
    /// The error that the invocation ends with; noted.
    Outcome,
}

use Step::{Ask, Exit, Hear, Invoke, Outcome, Runtime, Send};

struct Case {
    name: &'static str,
    /// External extensions.
    external: &'static [&'static str],
    steps: Vec<Step>,
}

/// What is known to differ: the case, and why. `docs/extensions.md` has the same list in prose.
const DIFFERENCES: &[(&str, &str)] = &[
    ("a body that is no JSON", "the message is PID 1's own"),
    ("a body of another shape", "the message is PID 1's own"),
    ("events that are no texts", "the message is PID 1's own"),
    ("a name of 256 bytes", "no file has such a name"),
    ("an account's id", "the emulator has none"),
    ("a crash before registration", "the emulator ends such an invocation without a word"),
    ("an end before registration", "the emulator ends such an invocation without a word"),
    ("an init error and an end", "the emulator ends such an invocation without a word"),
];

pub(crate) fn register(name: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: h\r\nLambda-Extension-Name: {name}\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub(crate) fn request(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes()
}

fn next(name: &str) -> Vec<u8> {
    let header = format!("Lambda-Extension-Identifier: {{{name}}}\r\n");
    request("GET /2020-01-01/extension/event/next", &header)
}

fn error(kind: &str, name: &str, error_type: &str) -> Vec<u8> {
    let header = format!(
        "Lambda-Extension-Identifier: {{{name}}}\r\nLambda-Extension-Function-Error-Type: {error_type}\r\n"
    );
    request(&format!("POST /2020-01-01/extension/{kind}/error"), &header)
}

const INVOKE: &str = "{\"events\":[\"INVOKE\"]}";
const BOTH: &str = "{\"events\":[\"INVOKE\",\"SHUTDOWN\"]}";
const RESPONSE: &str = "/runtime/invocation/{id}/response";

/// A case with internal extensions alone, whose runtime runs.
fn internal(name: &'static str, rest: Vec<Step>) -> Case {
    let mut steps = vec![Invoke, Runtime];
    steps.extend(rest);
    Case { name, external: &[], steps }
}

fn registrations() -> Vec<Case> {
    let ask = |body: &str| vec![Ask(1, register("a", "", body))];
    vec![
        internal("a registration", ask(INVOKE)),
        internal("no events", ask("{}")),
        internal("null events", ask("{\"events\":null}")),
        internal("names in another case", ask("{\"EVENTS\":[\"INVOKE\"]}")),
        internal("other members", ask("{\"x\":{\"y\":[1,null]},\"events\":[\"INVOKE\"]}")),
        internal("an event with an escape", ask("{\"events\":[\"INV\\u004fKE\"]}")),
        internal("events twice", ask("{\"events\":[\"FOO\"],\"events\":[]}")),
        internal("SHUTDOWN for an internal extension", ask(BOTH)),
        internal("an unknown event", ask("{\"events\":[\"INVOKE\",\"FOO\",\"SHUTDOWN\"]}")),
        internal("an event to be escaped", ask("{\"events\":[\"<a\\\"b>\"]}")),
        internal("an empty body", ask("")),
        internal("a body that ends early", ask("{\"events\":[")),
        internal("a body that is no JSON", ask("{events}")),
        internal("a body of another shape", ask("[]")),
        internal("events that are no texts", ask("{\"events\":[1]}")),
        internal("configuration keys", ask("{\"configurationKeys\":[\"a\"]}")),
        internal("no configuration keys", ask("{\"configurationKeys\":[]}")),
        internal(
            "an account's id",
            vec![Ask(1, register("a", "Lambda-Extension-Accept-Feature: x, accountId\r\n", "{}"))],
        ),
        internal(
            "another feature",
            vec![Ask(1, register("a", "Lambda-Extension-Accept-Feature: accountid\r\n", "{}"))],
        ),
        internal("an empty name", vec![Ask(1, register("", "", INVOKE))]),
        internal("no name", vec![Ask(1, request("POST /2020-01-01/extension/register", ""))]),
        internal("a name of 256 bytes", vec![Ask(1, register(&"n".repeat(256), "", INVOKE))]),
        internal("a name with a space", vec![Ask(1, register("my extension", "", INVOKE))]),
        internal(
            "the same name twice",
            vec![Ask(1, register("a", "", INVOKE)), Ask(1, register("a", "", INVOKE))],
        ),
        internal(
            "ten extensions and an eleventh",
            (0..11).map(|number| Ask(1, register(&format!("n{number}"), "", "{}"))).collect(),
        ),
        internal(
            "a registration after next",
            vec![Ask(0, get(NEXT)), Ask(1, register("a", "", INVOKE))],
        ),
        internal(
            "a bad event after next",
            vec![Ask(0, get(NEXT)), Ask(1, register("a", "", BOTH))],
        ),
    ]
}

fn paths() -> Vec<Case> {
    let id = "Lambda-Extension-Identifier";
    vec![
        internal(
            "get a registration",
            vec![Ask(1, request("GET /2020-01-01/extension/register", ""))],
        ),
        internal("post next", vec![Ask(1, request("POST /2020-01-01/extension/event/next", ""))]),
        internal("an unknown path", vec![Ask(1, request("GET /2020-01-01/extension/none", ""))]),
        internal("the version alone", vec![Ask(1, request("GET /2020-01-01", ""))]),
        internal(
            "next without who",
            vec![Ask(1, request("GET /2020-01-01/extension/event/next", ""))],
        ),
        internal(
            "next of nonsense",
            vec![Ask(
                1,
                request("GET /2020-01-01/extension/event/next", &format!("{id}: nonsense\r\n")),
            )],
        ),
        internal(
            "next of nobody",
            vec![Ask(
                1,
                request(
                    "GET /2020-01-01/extension/event/next",
                    &format!("{id}: 11111111-2222-3333-4444-AAAAAAAAAAAA\r\n"),
                ),
            )],
        ),
        internal(
            "errors of nobody",
            vec![
                Ask(1, request("POST /2020-01-01/extension/init/error", "")),
                Ask(
                    1,
                    request(
                        "POST /2020-01-01/extension/init/error",
                        &format!("{id}: 11111111222233334444555555555555\r\n"),
                    ),
                ),
                Ask(
                    1,
                    request(
                        "POST /2020-01-01/extension/exit/error",
                        &format!(
                            "{id}: 11111111222233334444555555555555\r\n\
                             Lambda-Extension-Function-Error-Type: X\r\n"
                        ),
                    ),
                ),
            ],
        ),
    ]
}

fn lives() -> Vec<Case> {
    vec![
        internal(
            "errors of the init phase",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Ask(
                    1,
                    request(
                        "POST /2020-01-01/extension/init/error",
                        "Lambda-Extension-Identifier: {a}\r\n",
                    ),
                ),
                Ask(1, error("init", "a", "First.Error")),
                Ask(1, error("init", "a", "Second.Error")),
                Ask(1, error("exit", "a", "Third.Error")),
                Ask(1, next("a")),
            ],
        ),
        internal(
            "errors at the end",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Ask(1, error("exit", "a", "First.Error")),
                Ask(1, error("exit", "a", "Second.Error")),
                Ask(1, error("init", "a", "Third.Error")),
                Ask(1, next("a")),
            ],
        ),
        internal(
            "the identifier in another form",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Ask(
                    1,
                    request(
                        "POST /2020-01-01/extension/exit/error",
                        "Lambda-Extension-Identifier: urn:uuid:{a}\r\n\
                         Lambda-Extension-Function-Error-Type: X\r\n",
                    ),
                ),
            ],
        ),
        internal(
            "an invocation",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Send(1, next("a")),
                Ask(0, get(NEXT)),
                Hear(1),
                Ask(0, post(RESPONSE, "", b"{}")),
                Ask(2, error("init", "a", "Too.Late")),
            ],
        ),
        internal(
            "next while it waits",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Ask(1, register("b", "", "{}")),
                Send(1, next("a")),
                Send(2, next("b")),
                Ask(0, get(NEXT)),
                Hear(1),
                Ask(3, next("b")),
            ],
        ),
        internal(
            "two invocations",
            vec![
                Ask(1, register("a", "", INVOKE)),
                Send(1, next("a")),
                Ask(0, get(NEXT)),
                Hear(1),
                Ask(0, post(RESPONSE, "", b"{}")),
                Send(0, get(NEXT)),
                Send(1, next("a")),
                Invoke,
                Hear(0),
                Hear(1),
                Ask(0, post(RESPONSE, "", b"{}")),
            ],
        ),
    ]
}

fn externals() -> Vec<Case> {
    let external = |name, steps| Case { name, external: &["watcher"], steps };
    vec![
        external(
            "an external extension",
            vec![
                Invoke,
                Ask(1, register("watcher", "", BOTH)),
                Runtime,
                Ask(1, register("watcher", "", BOTH)),
                Send(1, next("watcher")),
                Ask(0, get(NEXT)),
                Hear(1),
                Ask(0, post(RESPONSE, "", b"{}")),
            ],
        ),
        external(
            "an unknown event of an external extension",
            vec![
                Invoke,
                Ask(1, register("watcher", "", "{\"events\":[\"SHUTDOWN\",\"FOO\"]}")),
                Ask(1, register("watcher", "", BOTH)),
            ],
        ),
        external(
            "internal beside external",
            vec![
                Invoke,
                Ask(2, register("inner", "", INVOKE)),
                Ask(1, register("watcher", "", "{}")),
                Runtime,
                Send(1, next("watcher")),
                Send(2, next("inner")),
                Ask(0, get(NEXT)),
                Hear(2),
                Ask(0, post(RESPONSE, "", b"{}")),
            ],
        ),
        external("a crash before registration", vec![Invoke, Exit("watcher", 3), Outcome]),
        external("an end before registration", vec![Invoke, Exit("watcher", 0), Outcome]),
        external(
            "an init error and an end",
            vec![
                Invoke,
                Ask(1, register("watcher", "", BOTH)),
                Runtime,
                Ask(1, error("init", "watcher", "My.Error")),
                Exit("watcher", 1),
                Outcome,
            ],
        ),
        external(
            "a crash in an invocation",
            vec![
                Invoke,
                Ask(1, register("watcher", "", INVOKE)),
                Runtime,
                Send(1, next("watcher")),
                Ask(0, get(NEXT)),
                Hear(1),
                Exit("watcher", 2),
                Outcome,
            ],
        ),
        external(
            "an exit error in an invocation",
            vec![
                Invoke,
                Ask(1, register("watcher", "", INVOKE)),
                Runtime,
                Send(1, next("watcher")),
                Ask(0, get(NEXT)),
                Hear(1),
                Ask(1, error("exit", "watcher", "My.Error")),
                Exit("watcher", 0),
                Outcome,
            ],
        ),
    ]
}

/// One of the two that are compared.
trait Peer {
    fn api(&self) -> SocketAddr;
    fn invoke(&mut self);
    fn wait_for_runtime(&mut self);
    fn stage(&mut self) -> &mut Stage;
    fn outcome(&mut self) -> String;
}

/// The processes of external extensions and of the emulator's runtime, which connect to the test.
pub(crate) struct Stage {
    listener: TcpListener,
    here: HashMap<String, TcpStream>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), here: HashMap::new() }
    }

    /// What a process does under this name.
    pub(crate) fn script(&self, name: &str) -> String {
        let port = self.listener.local_addr().unwrap().port();
        format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; echo {name} >&3; read code <&3; echo last words; exit ${{code:-0}}"
        )
    }

    fn wait_for(&mut self, name: &str) {
        while !self.here.contains_key(name) {
            let wait = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
            let mut wanted =
                [rustix::event::PollFd::new(&self.listener, rustix::event::PollFlags::IN)];
            let came = rustix::event::poll(&mut wanted, Some(&wait)).unwrap();
            assert_eq!(came, 1, "{name} never came");
            let (stream, _) = self.listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            self.here.insert(line.trim().to_owned(), stream);
        }
    }

    pub(crate) fn exit(&mut self, name: &str, code: u8) {
        self.wait_for(name);
        writeln!(self.here.remove(name).unwrap(), "{code}").unwrap();
    }
}

struct Ours {
    harness: Harness,
    stage: Stage,
}

impl Ours {
    fn new(external: &[&str]) -> Self {
        let stage = Stage::new();
        let program = |name: &&str| RuntimeCommand {
            program: "/bin/bash".to_owned(),
            arguments: vec!["-c".to_owned(), stage.script(name)],
            environment: Vec::new(),
        };
        let extensions = external.iter().map(|name| ((*name).to_owned(), Some(program(name))));
        let harness = Harness::with_extensions(extensions.collect());
        Self { harness, stage }
    }
}

impl Peer for Ours {
    fn api(&self) -> SocketAddr {
        self.harness.api
    }

    fn invoke(&mut self) {
        if self.harness.has_invoked() {
            self.harness.frames_until(Kind::Done);
        }
        self.harness.invoke(b"{}");
    }

    fn wait_for_runtime(&mut self) {
        loop {
            if let GuestFrame::Phase(phase) = self.harness.frame().read()
                && phase.name == PhaseName::RuntimeStarted
            {
                return;
            }
        }
    }

    fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    fn outcome(&mut self) -> String {
        let frames = self.harness.frames_until(Kind::ExtensionExited);
        match frames.last().unwrap().read() {
            GuestFrame::ExtensionExited(exited) => exited.fault.error_type().to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

struct Theirs {
    child: Child,
    api: SocketAddr,
    front: SocketAddr,
    stage: Stage,
    caller: Option<JoinHandle<String>>,
    external: Vec<String>,
    folder: tempfile::TempDir,
}

impl Theirs {
    fn new(external: &[&str], managed: bool) -> Self {
        let (api, front) = own_addresses();
        let stage = Stage::new();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("extensions")).unwrap();
        let programs = external.iter().map(|name| (format!("extensions/{name}"), *name));
        for (path, name) in programs.chain([("bootstrap".to_owned(), "runtime")]) {
            let path = folder.path().join(path);
            std::fs::write(&path, format!("#!/bin/bash\n{}\n", stage.script(name))).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        // It looks for extensions in one place alone, so it is given a place of its own there.
        let namespaces: &[&str] = if rustix::process::geteuid().is_root() {
            &["--mount"]
        } else {
            &["--user", "--map-root-user", "--map-auto", "--mount"]
        };
        let mut command = Command::new("unshare");
        command
            .args(namespaces)
            .args(["/bin/sh", "-c"])
            .arg("mount -t tmpfs none /opt && mount -t tmpfs none /var && mkdir /var/task && cp -r \"$0\"/* /opt/ && exec \"$@\"")
            .arg(folder.path())
            .arg(emulator())
            .args(["--runtime-interface-emulator-address", &front.to_string()])
            .args(["--runtime-api-address", &api.to_string(), "--log-level", "error"])
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", "120")
            .env("_HANDLER", "app.handler")
            .env("AWS_ACCOUNT_ID", "012345678912")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if managed {
            // It finds its runtime by itself.
            command.env("AWS_LAMBDA_MAX_CONCURRENCY", "1");
        } else {
            command.arg("/opt/bootstrap").current_dir("/");
        }
        let child = command.spawn().unwrap();
        let external = external.iter().map(|name| (*name).to_owned()).collect();
        Self { child, api, front, stage, caller: None, external, folder }
    }
}

impl Peer for Theirs {
    fn api(&self) -> SocketAddr {
        self.api
    }

    fn invoke(&mut self) {
        let front = self.front;
        if let Some(before) = self.caller.take() {
            before.join().unwrap();
        }
        let mut stream = connect(front);
        self.caller = Some(std::thread::spawn(move || {
            let head = "POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nHost: h\r\n\
                        Content-Length: 2\r\nConnection: close\r\n\r\n{}";
            let _ = stream.write_all(head.as_bytes());
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            answer
        }));
        let external = self.external.clone();
        for name in &external {
            self.stage.wait_for(name);
        }
        drop(connect(self.api));
    }

    fn wait_for_runtime(&mut self) {
        self.stage.wait_for("runtime");
    }

    fn stage(&mut self) -> &mut Stage {
        &mut self.stage
    }

    fn outcome(&mut self) -> String {
        let answer = self.caller.take().unwrap().join().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        if body.is_empty() {
            return "nothing".to_owned();
        }
        let body: serde_json::Value = serde_json::from_str(body).expect(body);
        body["errorType"].as_str().unwrap().to_owned()
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(caller) = self.caller.take() {
            let _ = caller.join();
        }
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}

/// Takes what is different every time out of a text.
fn without_chance(text: &str, names: &HashMap<String, String>, id: &str) -> String {
    let mut text = text.to_owned();
    for (name, identifier) in names {
        text = text.replace(identifier, &format!("{{{name}}}"));
    }
    if !id.is_empty() {
        text = text.replace(id, "{id}");
    }
    if let Ok(mut json) = serde_json::from_str::<serde_json::Value>(&text)
        && json.get("deadlineMs").is_some_and(serde_json::Value::is_u64)
    {
        json["deadlineMs"] = 0.into();
        return json.to_string();
    }
    text
}

fn note(answer: Option<&Answer>, names: &HashMap<String, String>, id: &str) -> String {
    let Some(answer) = answer else { return "closed".to_owned() };
    let mut text = answer.status.clone();
    for name in ["Content-Type", "Allow", "Connection", "Lambda-Extension-Identifier"] {
        if let Some(value) = answer.header(name) {
            write!(text, " | {name}: {}", without_chance(value, names, id)).unwrap();
        }
    }
    if let Some(event) = answer.header("Lambda-Extension-Event-Identifier") {
        assert_eq!(event.len(), 36, "{event}");
        text.push_str(" | an event");
    }
    let body = String::from_utf8_lossy(&answer.body);
    write!(text, " | {}", without_chance(&body, names, id)).unwrap();
    text
}

fn play(peer: &mut impl Peer, steps: &[Step]) -> Vec<String> {
    let mut clients: Vec<Option<Client>> = (0..4).map(|_| None).collect();
    let mut names: HashMap<String, String> = HashMap::new();
    let mut asked: Vec<String> = vec![String::new(); 4];
    let mut id = String::new();
    let mut notes = Vec::new();
    for step in steps {
        let (client, answered) = match step {
            Invoke => {
                peer.invoke();
                continue;
            }
            Runtime => {
                peer.wait_for_runtime();
                continue;
            }
            Exit(name, code) => {
                peer.stage().exit(name, *code);
                continue;
            }
            Outcome => {
                notes.push(peer.outcome());
                continue;
            }
            Ask(at, bytes) | Send(at, bytes) => {
                let api = peer.api();
                let client = clients[*at].get_or_insert_with(|| Client::connect(api));
                let mut text = String::from_utf8(bytes.clone()).unwrap().replace("{id}", &id);
                for (name, identifier) in &names {
                    text = text.replace(&format!("{{{name}}}"), identifier);
                }
                client.send(text.as_bytes());
                asked[*at] = text;
                if matches!(step, Send(..)) {
                    continue;
                }
                (*at, client.answer())
            }
            Hear(at) => (*at, clients[*at].as_mut().unwrap().answer()),
        };
        if let Some(answer) = &answered {
            if let Some(new) = answer.header("Lambda-Runtime-Aws-Request-Id") {
                new.clone_into(&mut id);
            }
            if let Some(identifier) = answer.header("Lambda-Extension-Identifier") {
                let lines = &mut asked[client].lines();
                let name = lines.find_map(|line| line.strip_prefix("Lambda-Extension-Name: "));
                names.insert(name.unwrap().to_owned(), identifier.to_owned());
            }
        }
        notes.push(note(answered.as_ref(), &names, &id));
    }
    notes
}

#[test]
fn every_answer_to_an_extension_is_that_of_the_emulator_but_for_what_is_listed() {
    let mut report = String::new();
    let cases: Vec<Case> =
        [registrations(), paths(), lives(), externals()].into_iter().flatten().collect();
    for (name, _) in DIFFERENCES {
        assert!(cases.iter().any(|case| case.name == *name), "no case is called {name}");
    }
    for case in &cases {
        let theirs = play(&mut Theirs::new(case.external, false), &case.steps);
        let ours = play(&mut Ours::new(case.external), &case.steps);
        let listed = DIFFERENCES.iter().any(|(name, _)| *name == case.name);
        if (theirs != ours) != listed {
            writeln!(report, "{}:\n  theirs: {theirs:#?}\n  ours:   {ours:#?}", case.name).unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// A request to subscribe, and whether it is right.
const SUBSCRIPTIONS: &[&str] = &[
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:{port}/\"}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\",\"function\",\"extension\"],\"buffering\":{\"maxItems\":1000,\"maxBytes\":262144,\"timeoutMs\":25},\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox:{port}/x\"}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "",
    "[]",
    "{}",
    "{\"schemaVersion\":\"2019-01-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[],\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"all\"],\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"]}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":0}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":65536}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"UDP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://localhost:{port}\"}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"buffering\":{\"maxItems\":999},\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"buffering\":{\"maxBytes\":262143},\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"buffering\":{\"timeoutMs\":24},\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"buffering\":{\"timeoutMs\":30001},\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
    "{\"schemaVersion\":\"2025-01-29\",\"types\":[\"platform\"],\"buffering\":{\"timeoutMs\":\"25\"},\"destination\":{\"protocol\":\"TCP\",\"port\":{port}}}",
];

pub(crate) fn put(path: &str, identifier: &str, body: &str) -> Vec<u8> {
    format!(
        "PUT {path} HTTP/1.1\r\nHost: h\r\nLambda-Extension-Identifier: {identifier}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What an answer to a subscription comes down to. Messages are each one's own, and the emulator's are not always JSON.
fn subscription_note(answer: &Answer) -> String {
    let text = answer.text().replace("\": \"", "\":\"");
    match text.split_once("\"errorType\":\"") {
        Some((_, rest)) => format!("{} {}", answer.status, rest.split('"').next().unwrap()),
        None => format!("{} {text}", answer.status),
    }
}

/// Registers an internal extension with the peer, whose runtime runs, and subscribes it with each body from a fresh start.
fn subscribe_all(mut start: impl FnMut() -> Box<dyn Peer>) -> Vec<String> {
    let mut notes = Vec::new();
    for body in SUBSCRIPTIONS {
        let mut peer = start();
        let sink = TcpListener::bind("127.0.0.1:0").unwrap();
        let body = body.replace("{port}", &sink.local_addr().unwrap().port().to_string());
        peer.invoke();
        peer.wait_for_runtime();
        let mut client = Client::connect(peer.api());
        let answer = client.ask(&register("a", "", "{\"events\":[]}"));
        let identifier = answer.header("Lambda-Extension-Identifier").unwrap().to_owned();
        let answer = client.ask(&put("/2022-07-01/telemetry", &identifier, &body));
        notes.push(subscription_note(&answer));
    }
    // Twice, and nobody.
    let mut peer = start();
    peer.invoke();
    peer.wait_for_runtime();
    let mut client = Client::connect(peer.api());
    let answer = client.ask(&register("a", "", "{\"events\":[]}"));
    let identifier = answer.header("Lambda-Extension-Identifier").unwrap().to_owned();
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let body = SUBSCRIPTIONS[0].replace("{port}", &sink.local_addr().unwrap().port().to_string());
    for identifier in
        [&*identifier, &*identifier, "11111111-2222-3333-4444-555555555555", "nonsense"]
    {
        let answer = client.ask(&put("/2022-07-01/telemetry", identifier, &body));
        notes.push(subscription_note(&answer));
    }
    let answer = client.ask(&request("PUT /2022-07-01/telemetry", ""));
    notes.push(subscription_note(&answer));
    let answer = client.ask(&request("GET /2022-07-01/telemetry", ""));
    notes.push(answer.status);
    notes
}

#[test]
fn every_subscription_is_answered_as_the_emulator_answers_it() {
    let theirs = subscribe_all(|| Box::new(Theirs::new(&[], true)));
    let ours = subscribe_all(|| Box::new(Ours::new(&[])));
    for (at, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        assert_eq!(theirs, ours, "{at}: {:?}", SUBSCRIPTIONS.get(at));
    }
    assert_eq!(theirs.len(), ours.len());
}

/// A subscriber's HTTP server: gives the events of every batch.
pub(crate) struct Sink {
    listener: TcpListener,
}

impl Sink {
    pub(crate) fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next batch, answered with this status.
    pub(crate) fn batch(&self, status: &str) -> Vec<serde_json::Value> {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut stream = reader.into_inner();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK");
        stream.write_all(answer.as_bytes()).unwrap();
        match serde_json::from_slice(&body).unwrap() {
            serde_json::Value::Array(events) => events,
            other => panic!("{other}"),
        }
    }

    /// Batches up to the first event of this type.
    pub(crate) fn until(&self, kind: &str) -> Vec<serde_json::Value> {
        let mut events = Vec::new();
        while !events.iter().any(|event: &serde_json::Value| event["type"] == kind) {
            events.extend(self.batch("200 OK"));
        }
        events
    }
}

/// The events of the init phase, as an internal extension is told them.
fn init_events(peer: &mut dyn Peer) -> Vec<serde_json::Value> {
    let sink = Sink::new();
    peer.invoke();
    peer.wait_for_runtime();
    let mut extension = Client::connect(peer.api());
    let answer = extension.ask(&register("a", "", "{\"events\":[]}"));
    let identifier = answer.header("Lambda-Extension-Identifier").unwrap().to_owned();
    let body = SUBSCRIPTIONS[1].replace("{port}", &sink.port().to_string());
    let answer = extension.ask(&put("/2022-07-01/telemetry", &identifier, &body));
    assert_eq!(answer.text(), "\"OK\"");
    extension.send(&String::from_utf8(next("a")).unwrap().replace("{a}", &identifier).into_bytes());
    let mut runtime = Client::connect(peer.api());
    runtime.send(&get(NEXT));
    sink.until("platform.initReport")
}

/// An event's form: its members with what is no chance in them.
fn form(event: &serde_json::Value) -> String {
    let mut event = event.clone();
    let time = event["time"].as_str().unwrap();
    assert_eq!((time.len(), &time[10..11], &time[23..]), (24, "T", "Z"), "{time}");
    event["time"] = "".into();
    for (name, value) in event["record"].as_object_mut().unwrap() {
        match name.as_str() {
            "metrics" => {
                assert!(value["durationMs"].as_f64().unwrap() > 0.0, "{value}");
                value["durationMs"] = 0.into();
            }
            // They have one way alone to begin, and another size.
            "initializationType" => *value = "".into(),
            "instanceMaxMemory" => *value = value.is_u64().into(),
            _ => {}
        }
    }
    event.to_string()
}

#[test]
fn the_events_of_the_init_phase_have_the_forms_of_the_emulator() {
    let platform = |events: Vec<serde_json::Value>| -> Vec<String> {
        let is =
            |event: &&serde_json::Value| event["type"].as_str().unwrap().starts_with("platform.");
        let mut forms: Vec<String> = events.iter().filter(is).map(form).collect();
        forms.sort();
        forms.retain(|form| !form.contains("platform.start"));
        forms
    };
    let theirs = platform(init_events(&mut Theirs::new(&[], true)));
    let ours = platform(init_events(&mut Ours::new(&[])));
    assert_eq!(theirs, ours);
    assert_eq!(ours.len(), 5, "{ours:#?}");
}
