//! AWS's own runtime interface client for Python, unmodified, as the runtime.

use std::path::Path;

use votive_init::worker::Ending;
use votive_protocol::{
    ExitStatus, GuestFrame, Kind, LogStream, ResponseOutcome, RuntimeErrorScope,
};

use crate::fetched::{python_client, rust_extension};
use crate::harness::{Frame, Harness, RuntimeCommand};

const HANDLERS: &str = r#"
import os, sys, time

def echo(event, context):
    print("handled", context.aws_request_id, context.invoked_function_arn)
    return {"event": event, "left": context.get_remaining_time_in_millis() == 0}

def fail(event, context):
    raise ValueError("no such luck")

def large(event, context):
    return "x" * event

def leave(event, context):
    os._exit(3)

def sleep(event, context):
    print("asleep", flush=True)
    time.sleep(3600)
"#;

/// A loop with a Python runtime and this handler.
fn python(handler: &str, code: &Path) -> Harness {
    let client = python_client();
    let path = format!("{}:{}", client.display(), code.display());
    Harness::with_runtime(
        RuntimeCommand {
            program: "python3.11".to_owned(),
            arguments: vec!["-m".to_owned(), "awslambdaric".to_owned(), handler.to_owned()],
            environment: vec![
                ("PYTHONPATH".to_owned(), path),
                ("LAMBDA_TASK_ROOT".to_owned(), code.display().to_string()),
                ("PATH".to_owned(), std::env::var("PATH").unwrap()),
            ],
        },
        handler,
    )
}

fn code(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.py"), text).unwrap();
    folder
}

fn payload(frames: &[Frame]) -> Vec<u8> {
    let of = |frame: &Frame| match frame.read() {
        GuestFrame::ResponsePayload(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    };
    frames.iter().flat_map(of).collect()
}

fn log(frames: &[Frame], stream: LogStream) -> String {
    let of = |frame: &Frame| match frame.read() {
        GuestFrame::Log(one, bytes) if one == stream => bytes.to_vec(),
        _ => Vec::new(),
    };
    String::from_utf8(frames.iter().flat_map(of).collect()).unwrap()
}

#[test]
fn a_python_function_answers_again_and_again() {
    let code = code(HANDLERS);
    let mut harness = python("app.echo", code.path());
    for round in 0..3 {
        let event = format!("{{\"round\": {round}}}");
        let id = harness.invoke(event.as_bytes());
        let frames = harness.frames_until(Kind::Done);
        let expected = format!("{{\"event\": {event}, \"left\": true}}");
        assert_eq!(String::from_utf8(payload(&frames)).unwrap(), expected);
        // What the handler printed comes before the end of its invocation.
        let arn = "arn:aws:lambda:us-east-1:012345678912:function:test_function";
        assert_eq!(log(&frames, LogStream::Stdout), format!("handled {id} {arn}\n"));
    }
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}

#[test]
fn a_python_exception_is_a_runtime_error_with_its_cause() {
    let code = code(HANDLERS);
    let mut harness = python("app.fail", code.path());
    let id = harness.invoke(b"{}");
    let frames = harness.frames_until(Kind::Done);
    let error = frames.iter().find(|frame| frame.kind == Kind::RuntimeError).unwrap();
    match error.read() {
        GuestFrame::RuntimeError(error) => {
            assert_eq!(error.scope, RuntimeErrorScope::Invocation(id));
            let body = String::from_utf8(error.body.to_vec()).unwrap();
            assert!(body.contains("\"errorMessage\": \"no such luck\""), "{body}");
            assert!(body.contains("\"errorType\": \"ValueError\""), "{body}");
            let cause = String::from_utf8(error.xray_cause.to_vec()).unwrap();
            assert!(cause.contains("\"exceptions\""), "{cause}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_python_module_that_cannot_be_imported_is_an_init_error_and_then_an_exit() {
    let code = code("import no_such_module\n");
    let mut harness = python("app.echo", code.path());
    let frames = harness.frames_until(Kind::RuntimeExited);
    let error = frames.iter().find(|frame| frame.kind == Kind::RuntimeError).unwrap();
    match error.read() {
        GuestFrame::RuntimeError(error) => {
            assert_eq!(error.scope, RuntimeErrorScope::Init);
            assert_eq!(error.error_type, "Runtime.ImportModuleError");
            let body = String::from_utf8(error.body.to_vec()).unwrap();
            assert!(body.contains("No module named 'no_such_module'"), "{body}");
        }
        other => panic!("{other:?}"),
    }
    match frames.last().unwrap().read() {
        GuestFrame::RuntimeExited(exited) => {
            assert_eq!((exited.status, exited.id), (ExitStatus::Code(1), None));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_python_function_returns_six_mebibytes_and_a_hundred_bytes_and_no_more() {
    let code = code(HANDLERS);
    let mut harness = python("app.large", code.path());
    // Two quotes are part of the JSON.
    harness.invoke(b"6291554");
    let frames = harness.frames_until(Kind::Done);
    let body = payload(&frames);
    assert_eq!(body.len(), 6 * 1024 * 1024 + 100);
    assert!(body[1..body.len() - 1].iter().all(|byte| *byte == b'x'));
    harness.invoke(b"6291555");
    let frames = harness.frames_until(Kind::ResponseEnd);
    assert!(matches!(frames.last().unwrap().read(),
        GuestFrame::ResponseEnd(end) if end.outcome == ResponseOutcome::Oversized));
}

#[test]
fn a_python_function_that_exits_takes_its_invocation_with_it_and_is_started_again() {
    let code = code(HANDLERS);
    let mut harness = python("app.leave", code.path());
    for _ in 0..2 {
        let id = harness.invoke(b"{}");
        let frames = harness.frames_until(Kind::RuntimeExited);
        match frames.last().unwrap().read() {
            GuestFrame::RuntimeExited(exited) => {
                assert_eq!((exited.status, exited.id), (ExitStatus::Code(3), Some(id)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(frames.iter().filter(|frame| frame.kind == Kind::Ready).count(), 1);
    }
}

#[test]
fn a_reset_kills_a_python_function_that_sleeps() {
    let code = code(HANDLERS);
    let mut harness = python("app.sleep", code.path());
    let id = harness.invoke(b"{}");
    let frames = harness.frames_until(Kind::Log);
    assert!(log(&frames, LogStream::Stdout).starts_with("asleep"));
    harness.reset();
    let frames = harness.frames_until(Kind::RuntimeExited);
    match frames.last().unwrap().read() {
        GuestFrame::RuntimeExited(exited) => {
            assert_eq!((exited.status, exited.id), (ExitStatus::Signal(9), Some(id)));
        }
        other => panic!("{other:?}"),
    }
    // It starts again with the next invocation; SIGTERM ends it within its grace.
    harness.invoke(b"{}");
    harness.frames_until(Kind::Log);
    assert_eq!(harness.shut_down(60_000), Ending::Shutdown);
}

#[test]
fn a_python_function_and_a_rust_extension_with_telemetry() {
    let code = code(HANDLERS);
    let client = python_client();
    let path = format!("{}:{}", client.display(), code.path().display());
    let runtime = RuntimeCommand {
        program: "python3.11".to_owned(),
        arguments: vec!["-m".to_owned(), "awslambdaric".to_owned(), "app.echo".to_owned()],
        environment: vec![
            ("PYTHONPATH".to_owned(), path),
            ("LAMBDA_TASK_ROOT".to_owned(), code.path().display().to_string()),
            ("PATH".to_owned(), std::env::var("PATH").unwrap()),
        ],
    };
    // Its client registers under the name of its file and listens where telemetry is told to go.
    let program = rust_extension();
    let extension = RuntimeCommand {
        program: program.display().to_string(),
        arguments: Vec::new(),
        environment: Vec::new(),
    };
    let extensions = vec![("extension".to_owned(), Some(extension))];
    let mut harness = Harness::with_both(runtime, "app.echo", extensions);
    let mut said = String::new();
    for _ in 0..3 {
        let id = harness.invoke(b"{}");
        let frames = harness.frames_until(Kind::Done);
        assert_eq!(payload(&frames), b"{\"event\": {}, \"left\": true}");
        said.push_str(&log(&frames, LogStream::Extension));
        assert!(said.contains(&format!("event invoke {id}\n")), "{said}");
    }
    harness.reset();
    said.push_str(&log(&harness.frames_until(Kind::Down), LogStream::Extension));
    for expected in [
        "telemetry PlatformInitStart { initialization_type: OnDemand, phase: Init",
        "telemetry PlatformExtension { name: \"extension\", state: \"Ready\", events: [\"INVOKE\", \"SHUTDOWN\"] }",
        "telemetry PlatformTelemetrySubscription { name: \"extension\", state: \"Subscribed\"",
        "telemetry PlatformStart {",
        "telemetry function handled ",
        "telemetry PlatformRuntimeDone {",
        "telemetry PlatformReport {",
        "event shutdown timeout\n",
    ] {
        assert!(said.contains(expected), "{expected} is not in:\n{said}");
    }
    assert_eq!(said.matches("telemetry PlatformReport {").count(), 3);
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}
