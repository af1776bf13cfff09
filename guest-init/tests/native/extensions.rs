//! Lives with extensions: who waits for whom, what telemetry is told, and how it all ends.

use std::time::{Duration, Instant};

use votive_init::worker::Ending;
use votive_protocol::{
    ExitStatus, ExtensionEvents, ExtensionFault, GuestFrame, Kind, LogStream, PhaseName,
};

use crate::client::{Client, NEXT, get, post};
use crate::extension_peers::{Sink, Stage, put, register, request};
use crate::harness::{Frame, Harness, RuntimeCommand};

fn bash(script: &str) -> RuntimeCommand {
    RuntimeCommand {
        program: "/bin/bash".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
    }
}

/// An extension whose process does nothing but be there: the test asks in its name.
fn idle() -> RuntimeCommand {
    bash("exec sleep 3600")
}

/// One that the test plays.
struct Extension {
    client: Client,
    identifier: String,
}

impl Extension {
    fn register(harness: &Harness, name: &str, events: &str) -> Self {
        let mut client = Client::connect(harness.api);
        let answer = client.ask(&register(name, "", &format!("{{\"events\":[{events}]}}")));
        assert_eq!(answer.code(), 200, "{}", answer.text());
        let identifier = answer.header("Lambda-Extension-Identifier").unwrap().to_owned();
        Self { client, identifier }
    }

    fn next(&mut self) {
        let header = format!("Lambda-Extension-Identifier: {}\r\n", self.identifier);
        self.client.send(&request("GET /2020-01-01/extension/event/next", &header));
    }

    /// The event that it waited for.
    fn event(&mut self) -> serde_json::Value {
        serde_json::from_slice(&self.client.answer().expect("an event").body).unwrap()
    }

    fn subscribe(&mut self, path: &str, body: &str) -> String {
        self.client.ask(&put(path, &self.identifier, body)).text().to_owned()
    }
}

fn status(frames: &[Frame]) -> ExitStatus {
    let of = |frame: &Frame| match frame.read() {
        GuestFrame::RuntimeExited(exited) => Some(exited.status),
        _ => None,
    };
    frames.iter().find_map(of).expect("the end of a runtime")
}

const INVOKE: &str = "\"INVOKE\"";
const SHUTDOWN: &str = "\"SHUTDOWN\"";
const BOTH: &str = "\"INVOKE\",\"SHUTDOWN\"";

#[test]
fn the_runtime_waits_for_registrations_and_the_init_phase_for_everybody() {
    let mut harness = Harness::with_extensions(vec![("watcher".to_owned(), Some(idle()))]);
    let frames = harness.frames_until(Kind::Phase);
    assert_eq!(frames.len(), 1);
    match harness.frame().read() {
        GuestFrame::Phase(phase) => assert_eq!(phase.name, PhaseName::ExtensionsStarted),
        other => panic!("{other:?}"),
    }
    let mut watcher = Extension::register(&harness, "watcher", BOTH);
    match harness.frame().read() {
        GuestFrame::Phase(phase) => assert_eq!(phase.name, PhaseName::RuntimeStarted),
        other => panic!("{other:?}"),
    }
    let mut inner = Extension::register(&harness, "inner", INVOKE);
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    match harness.frame().read() {
        GuestFrame::Phase(phase) => assert_eq!(phase.name, PhaseName::RuntimeReady),
        other => panic!("{other:?}"),
    }
    let id = harness.invoke(b"{}");
    watcher.next();
    inner.next();
    let frames = harness.frames_until(Kind::Ready);
    let told: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame.read() {
            GuestFrame::Extension(one) => {
                Some((one.name.to_owned(), one.state.to_owned(), one.events))
            }
            _ => None,
        })
        .collect();
    let events = |shutdown| ExtensionEvents { invoke: true, shutdown };
    assert_eq!(
        told,
        [
            ("watcher".to_owned(), "Ready".to_owned(), events(true)),
            ("inner".to_owned(), "Ready".to_owned(), events(false)),
        ]
    );
    for extension in [&mut watcher, &mut inner] {
        let event = extension.event();
        assert_eq!(
            (&event["eventType"], &event["requestId"]),
            (&"INVOKE".into(), &id.to_string().into())
        );
    }
    assert_eq!(runtime.answer().unwrap().code(), 200);
    // The answer goes out while extensions are still at work; the invocation is over when they are.
    let path = format!("/runtime/invocation/{id}/response");
    assert_eq!(runtime.ask(&post(&path, "", b"answer")).code(), 202);
    runtime.send(&get(NEXT));
    harness.frames_until(Kind::ResponseEnd);
    watcher.next();
    assert_eq!(harness.frame_now(), None);
    inner.next();
    match harness.frame().read() {
        GuestFrame::Done(done) => {
            assert_eq!(done.id, id);
            assert!(done.extensions_ns > 0 && done.runtime_ns >= done.duration_ns);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}

#[test]
fn a_reset_ends_in_phases_and_the_next_invocation_begins_anew() {
    // The runtime does not mind SIGTERM, the extension ends when it is told.
    let runtime = bash("trap 'echo terminated' TERM; echo ready; while true; do sleep 0.05; done");
    let extension = bash(
        "exec 3<>/dev/tcp/${AWS_LAMBDA_RUNTIME_API/://}; \
         printf 'POST /2020-01-01/extension/register HTTP/1.1\\r\\nHost: h\\r\\nLambda-Extension-Name: watcher\\r\\nContent-Length: 23\\r\\n\\r\\n{\"events\":[\"SHUTDOWN\"]}' >&3; \
         while read -r line <&3; do line=${line%$'\\r'}; \
           case $line in Lambda-Extension-Identifier:*) id=${line#*: };; '') break;; esac; done; \
         read -r body <&3; \
         printf 'GET /2020-01-01/extension/event/next HTTP/1.1\\r\\nHost: h\\r\\nLambda-Extension-Identifier: %s\\r\\n\\r\\n' $id >&3; \
         while read -r line <&3; do [ \"${line%$'\\r'}\" ] || break; done; \
         IFS= read -r -N 40 event <&3; echo \"told $event\"",
    );
    let mut harness =
        Harness::with_both(runtime, "", vec![("watcher".to_owned(), Some(extension))]);
    for _ in 0..2 {
        // Nobody asks for it: the runtime never does.
        let id = harness.invoke(b"{}");
        // It minds SIGTERM until it has said that it does not.
        while !matches!(harness.frame().read(), GuestFrame::Log(LogStream::Stdout, b"ready\n")) {}
        let before = Instant::now();
        harness.reset();
        let frames = harness.frames_until(Kind::Down);
        assert_eq!(status(&frames), ExitStatus::Signal(9), "SIGKILL after its share of the time");
        assert!(before.elapsed() >= Duration::from_millis(600), "three tenths of two seconds");
        let exited = frames.iter().find(|frame| frame.kind == Kind::RuntimeExited).unwrap();
        match exited.read() {
            GuestFrame::RuntimeExited(exited) => assert_eq!(exited.id, Some(id)),
            other => panic!("{other:?}"),
        }
        let said: String = frames
            .iter()
            .filter_map(|frame| match frame.read() {
                GuestFrame::Log(LogStream::Extension, bytes) => {
                    Some(String::from_utf8_lossy(bytes).into_owned())
                }
                _ => None,
            })
            .collect();
        assert!(said.starts_with("told {\"eventType\":\"SHUTDOWN\",\"deadlineMs\":1"), "{said}");
    }
    assert_eq!(harness.shut_down(60_000), Ending::Shutdown);
}

#[test]
fn extensions_without_shutdown_are_killed_and_those_with_it_have_two_seconds() {
    let extensions = vec![("deaf".to_owned(), Some(idle())), ("slow".to_owned(), Some(idle()))];
    let mut harness = Harness::with_extensions(extensions);
    let mut deaf = Extension::register(&harness, "deaf", INVOKE);
    let mut slow = Extension::register(&harness, "slow", SHUTDOWN);
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    deaf.next();
    slow.next();
    harness.frames_until(Kind::Ready);
    drop((runtime, deaf));
    let told = std::thread::spawn(move || slow.event());
    let before = Instant::now();
    assert_eq!(harness.shut_down(60_000), Ending::Shutdown);
    let took = before.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
    let event = told.join().unwrap();
    assert_eq!(event["shutdownReason"], "spindown");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let deadline = Duration::from_millis(event["deadlineMs"].as_u64().unwrap());
    assert!(deadline < now && deadline + Duration::from_secs(20) > now);
}

#[test]
fn a_crash_takes_the_invocation_and_everything_else_with_it() {
    let mut stage = Stage::new();
    let extension = bash(&stage.script("brief"));
    let mut harness = Harness::with_extensions(vec![("brief".to_owned(), Some(extension))]);
    // The next invocation starts it again.
    for _ in 0..2 {
        let id = harness.invoke(b"{}");
        let mut brief = Extension::register(&harness, "brief", INVOKE);
        brief.next();
        let mut runtime = Client::connect(harness.api);
        runtime.send(&get(NEXT));
        assert_eq!(brief.event()["requestId"], id.to_string());
        stage.exit("brief", 7);
        let frames = harness.frames_until(Kind::ExtensionExited);
        match frames.last().unwrap().read() {
            GuestFrame::ExtensionExited(exited) => {
                assert_eq!((exited.name, exited.fault), ("brief", ExtensionFault::Crash));
                assert_eq!((exited.status, exited.id), (Some(ExitStatus::Code(7)), Some(id)));
            }
            other => panic!("{other:?}"),
        }
        let said = |frame: &Frame| {
            matches!(frame.read(), GuestFrame::Log(LogStream::Extension, b"last words\n"))
        };
        assert!(frames.iter().any(said), "its log comes before its end");
        // The test's connections are the last that is left of this life.
        drop((brief, runtime));
        harness.frames_until(Kind::Down);
    }
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}

#[test]
fn an_extension_that_cannot_be_started_is_a_launch_error() {
    // The shell's status for a file that cannot be executed.
    let mut harness = Harness::with_extensions(vec![("text".to_owned(), Some(bash("exit 126")))]);
    let frames = harness.frames_until(Kind::Down);
    let exited = frames.iter().find(|frame| frame.kind == Kind::ExtensionExited).unwrap();
    match exited.read() {
        GuestFrame::ExtensionExited(exited) => {
            assert_eq!((exited.fault, exited.status), (ExtensionFault::LaunchError, None));
        }
        other => panic!("{other:?}"),
    }
    let told = frames.iter().find(|frame| frame.kind == Kind::Extension).unwrap();
    match told.read() {
        GuestFrame::Extension(one) => {
            assert_eq!((one.state, one.error_type), ("LaunchError", "PermissionDenied"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_eleventh_extension_is_one_too_many() {
    let extensions = (0..11).map(|number| (format!("e{number:02}"), Some(idle())));
    let mut harness = Harness::with_extensions(extensions.collect());
    let frames = harness.frames_until(Kind::Down);
    let told = |frame: &Frame| match frame.read() {
        GuestFrame::Extension(one) => Some(one.error_type.to_owned()),
        _ => None,
    };
    let errors: Vec<String> =
        frames.iter().filter_map(told).filter(|one| !one.is_empty()).collect();
    assert_eq!(errors, ["TooManyExtensions"]);
}

/// The types of events, in their order.
fn kinds(events: &[serde_json::Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn subscription(port: u16, buffering: &str) -> String {
    format!(
        "{{\"schemaVersion\":\"2022-12-13\",\"types\":[\"platform\",\"function\",\"extension\"],{buffering}\
         \"destination\":{{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:{port}/in\"}}}}"
    )
}

const SOON: &str = "\"buffering\":{\"timeoutMs\":25},";
const LATE: &str = "\"buffering\":{\"timeoutMs\":30000},";

#[test]
fn telemetry_tells_an_invocation_from_its_start_to_its_report_before_it_is_over() {
    let sink = Sink::new();
    let mut harness = Harness::new();
    let mut extension = Extension::register(&harness, "inner", INVOKE);
    assert_eq!(
        extension.subscribe("/2022-07-01/telemetry", &subscription(sink.port(), LATE)),
        "\"OK\""
    );
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    extension.next();
    harness.frames_until(Kind::Ready);
    let id = harness.invoke(b"{}");
    runtime.answer().unwrap();
    extension.event();
    let path = format!("/runtime/invocation/{id}/response");
    assert_eq!(runtime.ask(&post(&path, "", b"12345")).code(), 202);
    runtime.send(&get(NEXT));
    extension.next();
    // It does not wait for its time-out: what there is goes out before the environment may be frozen.
    let events = sink.until("platform.report");
    assert_eq!(
        kinds(&events),
        [
            "platform.initStart",
            "platform.telemetrySubscription",
            "platform.initRuntimeDone",
            "platform.extension",
            "platform.initReport",
            "platform.start",
            "platform.runtimeDone",
            "platform.report",
        ]
    );
    let done = &events[6]["record"];
    assert_eq!(done["requestId"], id.to_string());
    assert_eq!(
        (&done["status"], &done["metrics"]["producedBytes"]),
        (&"success".into(), &5.into())
    );
    let spans: Vec<_> =
        done["spans"].as_array().unwrap().iter().map(|span| &span["name"]).collect();
    assert_eq!(spans, ["responseLatency", "responseDuration", "runtimeOverhead"]);
    let report = &events[7]["record"];
    assert_eq!(report["metrics"]["memorySizeMB"], 128);
    assert_eq!(report["metrics"]["maxMemoryUsedMB"], 19);
    assert!(report["metrics"]["initDurationMs"].as_f64().unwrap() > 0.0);
    assert_eq!(report["spans"][0]["name"], "extensionOverhead");
    harness.frames_until(Kind::Done);
    // The init phase is told with the first invocation alone.
    let id = harness.invoke(b"{}");
    runtime.answer().unwrap();
    extension.event();
    let path = format!("/runtime/invocation/{id}/error");
    runtime.ask(&post(&path, "", b"{}"));
    runtime.send(&get(NEXT));
    extension.next();
    let events = sink.until("platform.report");
    assert_eq!(kinds(&events), ["platform.start", "platform.runtimeDone", "platform.report"]);
    assert_eq!(events[1]["record"].get("spans"), None);
    assert_eq!(events[2]["record"]["metrics"].get("initDurationMs"), None);
    harness.frames_until(Kind::Done);
}

#[test]
fn a_subscriber_that_does_not_answer_holds_up_nobody_for_long() {
    let sink = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = sink.local_addr().unwrap().port();
    let mut harness = Harness::new();
    let mut extension = Extension::register(&harness, "inner", "");
    extension.subscribe("/2022-07-01/telemetry", &subscription(port, SOON));
    extension.next();
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    for _ in 0..3 {
        let id = harness.invoke(b"{}");
        runtime.answer().unwrap();
        runtime.ask(&post(&format!("/runtime/invocation/{id}/response"), "", b"1"));
        runtime.send(&get(NEXT));
        let before = Instant::now();
        harness.frames_until(Kind::ResponseEnd);
        assert!(before.elapsed() < Duration::from_secs(1));
        harness.frames_until(Kind::Done);
    }
}

#[test]
fn the_logs_api_tells_its_own_events() {
    let sink = Sink::new();
    let mut harness = Harness::new();
    let mut extension = Extension::register(&harness, "inner", "");
    let body = format!(
        "{{\"schemaVersion\":\"2021-03-18\",\"types\":[\"platform\"],{SOON}\
         \"destination\":{{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox:{}\"}}}}",
        sink.port()
    );
    assert_eq!(extension.subscribe("/2020-08-15/logs", &body), "\"OK\"");
    let mut other = Extension::register(&harness, "other", "");
    let refused = other.subscribe("/2022-07-01/telemetry", &subscription(1, SOON));
    assert!(refused.contains("Telemetry.SubscriptionClosed"), "{refused}");
    match harness.frames_until(Kind::Subscription).last().unwrap().read() {
        GuestFrame::Subscription(one) => assert!(one.legacy && one.types.platform),
        other => panic!("{other:?}"),
    }
    extension.next();
    other.next();
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    let id = harness.invoke(b"{}");
    runtime.answer().unwrap();
    runtime.ask(&post(&format!("/runtime/invocation/{id}/response"), "", b"1"));
    runtime.send(&get(NEXT));
    let events = sink.until("platform.report");
    assert_eq!(
        kinds(&events),
        [
            "platform.logsSubscription",
            "platform.extension",
            "platform.extension",
            "platform.start",
            "platform.runtimeDone",
            "platform.end",
            "platform.report",
        ]
    );
    harness.frames_until(Kind::Done);
}

#[test]
fn what_a_function_and_an_extension_write_are_events_line_by_line() {
    let sink = Sink::new();
    let port = sink.port();
    let extension = bash("echo from the extension; printf 'no end'; sleep 3600");
    let runtime = bash("echo one; echo 'two \"quoted\"' >&2; sleep 3600");
    let mut harness = Harness::with_both(runtime, "", vec![("writer".to_owned(), Some(extension))]);
    // Its process leaves the API to the test.
    let mut writer = Extension::register(&harness, "writer", SHUTDOWN);
    writer.subscribe("/2022-07-01/telemetry", &subscription(port, SOON));
    harness.frames_until(Kind::Log);
    let mut lines = Vec::new();
    while lines.len() < 3 {
        for event in sink.batch("200 OK") {
            if matches!(event["type"].as_str(), Some("function" | "extension")) {
                lines.push(format!("{}: {}", event["type"], event["record"]));
            }
        }
    }
    lines.sort();
    assert_eq!(
        lines,
        [
            "\"extension\": \"from the extension\"",
            "\"function\": \"one\"",
            "\"function\": \"two \\\"quoted\\\"\"",
        ]
    );
    drop(writer);
    drop(sink);
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}

#[test]
fn an_invocation_that_comes_while_a_life_ends_waits_for_the_next_one() {
    let mut harness = Harness::with_extensions(vec![("slow".to_owned(), Some(idle()))]);
    let mut slow = Extension::register(&harness, "slow", BOTH);
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    slow.next();
    harness.frames_until(Kind::Ready);
    harness.reset();
    // Its life ends: it is told so, and has two seconds.
    assert_eq!(slow.event()["shutdownReason"], "timeout");
    let id = harness.invoke(b"{}");
    harness.frames_until(Kind::Down);
    drop(runtime);
    let mut slow = Extension::register(&harness, "slow", BOTH);
    let mut runtime = Client::connect(harness.api);
    runtime.send(&get(NEXT));
    slow.next();
    assert_eq!(slow.event()["requestId"], id.to_string());
    assert_eq!(
        runtime.answer().unwrap().header("Lambda-Runtime-Aws-Request-Id"),
        Some(&*id.to_string())
    );
}
