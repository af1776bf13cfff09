//! Whole invocations over real sockets, the test being the runtime.

use votive_init::worker::{Ending, Problem};
use votive_protocol::{
    ExitStatus, FaultCode, GuestFrame, InvocationId, Kind, LogStream, PhaseName, ResponseMode,
    ResponseOutcome, RuntimeErrorScope,
};

use crate::client::{Client, NEXT, get, post};
use crate::harness::{Frame, Harness, MEMORY_PEAK, RuntimeCommand};

/// The text of an id.
fn text(id: InvocationId) -> String {
    id.to_string()
}

fn response_path(id: InvocationId) -> String {
    format!("/runtime/invocation/{id}/response")
}

/// The payload of all `ResponsePayload` frames.
fn payload(frames: &[Frame]) -> Vec<u8> {
    let of = |frame: &Frame| match frame.read() {
        GuestFrame::ResponsePayload(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    };
    frames.iter().flat_map(of).collect()
}

fn outcome(frames: &[Frame]) -> ResponseOutcome {
    let of = |frame: &Frame| match frame.read() {
        GuestFrame::ResponseEnd(end) => Some(end.outcome),
        _ => None,
    };
    frames.iter().find_map(of).expect("an end")
}

#[test]
fn an_invocation_goes_from_next_to_done() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    client.send(&get(NEXT));
    let frames = harness.frames_until(Kind::Ready);
    let names: Vec<_> = frames
        .iter()
        .map(|frame| match frame.read() {
            GuestFrame::Phase(phase) | GuestFrame::Ready(phase) => phase.name,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [PhaseName::Configured, PhaseName::RuntimeStarted, PhaseName::InitOver]);
    let id = harness.invoke(b"{\"a\":1}");
    let event = client.answer().unwrap();
    assert_eq!(event.code(), 200);
    assert_eq!(event.header("lambda-runtime-aws-request-id"), Some(&*text(id)));
    assert_eq!(event.header("lambda-runtime-deadline-ms"), Some("1700000000000"));
    assert_eq!(event.header("content-type"), Some("application/json"));
    assert_eq!(event.header("lambda-runtime-trace-id"), None);
    assert_eq!(event.text(), "{\"a\":1}");

    let answer = client.ask(&post(&response_path(id), "Content-Type: text/x\r\n", b"hello"));
    assert_eq!(answer.code(), 202);
    assert_eq!(answer.text(), "{\"status\":\"OK\"}\n");
    client.send(&get(NEXT));
    let frames = harness.frames_until(Kind::Done);
    match frames[0].read() {
        GuestFrame::ResponseStart(start) => {
            assert_eq!((start.id, start.mode), (id, ResponseMode::Buffered));
            assert_eq!(start.content_type, "text/x");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(payload(&frames), b"hello");
    assert_eq!(outcome(&frames), ResponseOutcome::Complete);
    match frames.last().unwrap().read() {
        GuestFrame::Done(done) => {
            assert_eq!((done.id, done.memory_peak_bytes), (id, MEMORY_PEAK));
            assert!(done.duration_ns > 0);
        }
        other => panic!("{other:?}"),
    }
    // The same environment serves the next one.
    let second = harness.invoke(b"[]");
    assert_eq!(
        client.answer().unwrap().header("Lambda-Runtime-Aws-Request-Id"),
        Some(&*text(second))
    );
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}

#[test]
fn the_largest_payloads_pass_both_ways_unchanged() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let request: Vec<u8> = (0..6 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
    client.send(&get(NEXT));
    let id = harness.invoke(&request);
    assert_eq!(client.answer().unwrap().body, request);
    let response: Vec<u8> = (0..6 * 1024 * 1024 + 100_u32).map(|at| (at % 241) as u8).collect();
    let sent = post(&response_path(id), "", &response);
    let writer = std::thread::spawn(move || {
        let answer = client.ask(&sent);
        (client, answer)
    });
    let frames = harness.frames_until(Kind::ResponseEnd);
    assert!(payload(&frames) == response, "the response was changed");
    assert_eq!(outcome(&frames), ResponseOutcome::Complete);
    let (_client, answer) = writer.join().unwrap();
    assert_eq!(answer.code(), 202);
}

#[test]
fn a_response_of_one_byte_too_many_is_refused_and_the_connection_stays() {
    let mut harness = Harness::new();
    for chunked in [false, true] {
        let mut client = Client::connect(harness.api);
        let id = harness.invoke(b"1");
        assert_eq!(client.ask(&get(NEXT)).code(), 200);
        let body = vec![b'x'; 6 * 1024 * 1024 + 101];
        let sent = if chunked {
            let head = format!(
                "POST /2018-06-01{} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
                response_path(id)
            );
            let size = format!("{:x}\r\n", body.len());
            [head.as_bytes(), size.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
        } else {
            post(&response_path(id), "", &body)
        };
        let writer = std::thread::spawn(move || {
            let answer = client.ask(&sent);
            (client, answer)
        });
        let frames = harness.frames_until(Kind::ResponseEnd);
        assert_eq!(outcome(&frames), ResponseOutcome::Oversized);
        let (mut client, answer) = writer.join().unwrap();
        assert_eq!(answer.code(), 413);
        assert_eq!(
            answer.text(),
            "{\"errorMessage\":\"Exceeded maximum allowed payload size (6291556 bytes).\",\
             \"errorType\":\"RequestEntityTooLarge\"}\n"
        );
        client.send(&get(NEXT));
        harness.frames_until(Kind::Done);
    }
}

#[test]
fn streams_carry_their_error_in_trailers() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let id = harness.invoke(b"1");
    client.ask(&get(NEXT));
    let head = format!(
        "POST /2018-06-01{} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
         Lambda-Runtime-Function-Response-Mode: streaming\r\n\
         Trailer: Lambda-Runtime-Function-Error-Body\r\n\r\n5\r\nfirst\r\n",
        response_path(id)
    );
    client.send(head.as_bytes());
    // The first piece arrives while the rest is still to be sent.
    let frames = harness.frames_until(Kind::ResponsePayload);
    assert_eq!(payload(&frames), b"first");
    let start = frames.iter().find(|frame| frame.kind == Kind::ResponseStart).unwrap();
    assert!(matches!(start.read(),
        GuestFrame::ResponseStart(start) if start.mode == ResponseMode::Streaming));
    client.send(
        b"6;ext=1\r\nsecond\r\n0\r\nlambda-runtime-function-error-type: Runtime.StreamError\r\n\
          Lambda-Runtime-Function-Error-Body: eyJhIjoxfQ==\r\n\r\n",
    );
    assert_eq!(client.answer().unwrap().code(), 202);
    let frames = harness.frames_until(Kind::ResponseEnd);
    assert_eq!(payload(&frames), b"second");
    match frames.last().unwrap().read() {
        GuestFrame::ResponseEnd(end) => {
            assert_eq!(end.outcome, ResponseOutcome::Complete);
            assert_eq!(end.error_type, "Runtime.StreamError");
            assert_eq!(end.error_body, b"eyJhIjoxfQ==");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_response_that_ends_early_is_truncated() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let id = harness.invoke(b"1");
    client.ask(&get(NEXT));
    let mut whole = post(&response_path(id), "", b"0123456789");
    whole.truncate(whole.len() - 3);
    client.send(&whole);
    client.finish();
    let answer = client.answer().unwrap();
    assert_eq!(answer.code(), 400);
    assert!(answer.text().contains("TruncatedHTTPRequest"), "{}", answer.text());
    assert!(client.is_closed());
    let frames = harness.frames_until(Kind::ResponseEnd);
    assert_eq!(payload(&frames), b"0123456");
    assert_eq!(outcome(&frames), ResponseOutcome::Truncated);
}

#[test]
fn error_reports_carry_type_body_and_cause() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let cause = format!("{{\"working_directory\":\"{}\"}}", "d".repeat(15_000));
    let headers = format!(
        "Lambda-Runtime-Function-Error-Type: Function.Broken\r\n\
         Lambda-Runtime-Function-XRay-Error-Cause: {cause}\r\n"
    );
    let body = format!("{{\"errorMessage\":\"{}\"}}", "m".repeat(30_000));
    let id = harness.invoke(b"1");
    client.ask(&get(NEXT));
    let path = format!("/runtime/invocation/{id}/error");
    assert_eq!(client.ask(&post(&path, &headers, body.as_bytes())).code(), 202);
    let frames = harness.frames_until(Kind::RuntimeError);
    match frames.last().unwrap().read() {
        GuestFrame::RuntimeError(error) => {
            assert_eq!(error.scope, RuntimeErrorScope::Invocation(id));
            assert_eq!(error.error_type, "Function.Broken");
            assert_eq!(error.body, body.as_bytes());
            assert_eq!(error.xray_cause, cause.as_bytes());
        }
        other => panic!("{other:?}"),
    }
    client.send(&get(NEXT));
    harness.frames_until(Kind::Done);
}

#[test]
fn an_init_error_is_reported_once_and_next_is_refused_after_it() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let report = post(
        "/runtime/init/error",
        "Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError\r\n",
        b"{\"errorMessage\":\"no\"}",
    );
    assert_eq!(client.ask(&report).code(), 202);
    let refused = client.ask(&report);
    assert_eq!(refused.code(), 403);
    assert_eq!(
        refused.text(),
        "{\"errorMessage\":\"State transition from InitError to InitError failed for runtime. \
         Error: State transition is not allowed\",\"errorType\":\"InvalidStateTransition\"}\n"
    );
    assert_eq!(client.ask(&get(NEXT)).code(), 403);
    let frames = harness.frames_until(Kind::RuntimeError);
    match frames.last().unwrap().read() {
        GuestFrame::RuntimeError(error) => {
            assert_eq!(error.scope, RuntimeErrorScope::Init);
            assert_eq!(error.error_type, "Runtime.ImportModuleError");
            assert_eq!(error.body, b"{\"errorMessage\":\"no\"}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_expects_100_continue_gets_it_before_it_sends() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let id = harness.invoke(b"1");
    client.ask(&get(NEXT));
    let whole = post(&response_path(id), "Expect: 100-continue\r\n", b"late");
    let (head, body) = whole.split_at(whole.len() - 4);
    assert_eq!(client.ask(head).code(), 100);
    assert_eq!(client.ask(body).code(), 202);
    assert_eq!(payload(&harness.frames_until(Kind::ResponseEnd)), b"late");
    // A refused request is answered without its body, and the connection ends.
    let whole = post(&response_path(id), "Expect: 100-continue\r\n", b"late");
    let refused = client.ask(&whole[..whole.len() - 4]);
    assert_eq!((refused.code(), refused.header("connection")), (403, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn requests_that_come_in_one_piece_are_answered_in_order() {
    let mut harness = Harness::new();
    let mut client = Client::connect(harness.api);
    let id = harness.invoke(b"{}");
    let all =
        [get("/ping"), get(NEXT), post(&response_path(id), "", b"one"), get("/ping")].concat();
    client.send(&all);
    assert_eq!(client.answer().unwrap().text(), "pong");
    assert_eq!(client.answer().unwrap().text(), "{}");
    assert_eq!(client.answer().unwrap().code(), 202);
    assert_eq!(client.answer().unwrap().text(), "pong");
}

#[test]
fn seventeen_clients_find_places_as_long_as_one_of_them_is_idle() {
    let mut harness = Harness::new();
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(harness.api)).collect();
    for client in clients.iter_mut().rev().take(16) {
        assert_eq!(client.ask(&get("/ping")).text(), "pong");
    }
    // One that waits for an invocation keeps its place.
    let mut waiter = Client::connect(harness.api);
    waiter.send(&get(NEXT));
    harness.frames_until(Kind::Ready);
    for _ in 0..40 {
        assert_eq!(Client::connect(harness.api).ask(&get("/ping")).text(), "pong");
    }
    harness.invoke(b"7");
    assert_eq!(waiter.answer().unwrap().text(), "7");
}

#[test]
fn nonsense_on_the_link_is_a_fault() {
    let mut harness = Harness::new();
    harness.frames_until(Kind::Phase);
    harness.send_raw(&[0x42; 64]);
    let frames = harness.frames_until(Kind::Fault);
    assert!(matches!(frames.last().unwrap().read(),
        GuestFrame::Fault(fault) if fault.code == FaultCode::Frame));
    let fault = Problem::without_errno(FaultCode::Frame, "header");
    assert_eq!(harness.ending(), Ending::Fault(fault));
}

#[test]
fn an_invocation_while_another_is_under_way_is_a_fault() {
    let mut harness = Harness::new();
    harness.invoke(b"1");
    harness.invoke(b"2");
    harness.frames_until(Kind::Fault);
    let fault = Problem::without_errno(FaultCode::Frame, "Invoke");
    assert_eq!(harness.ending(), Ending::Fault(fault));
}

#[test]
fn the_end_of_the_link_is_the_end() {
    let mut harness = Harness::new();
    harness.frames_until(Kind::Phase);
    harness.hang_up();
    assert_eq!(harness.ending(), Ending::LinkLost);
}

#[test]
fn a_shutdown_before_anything_else_is_obeyed() {
    let harness = Harness::new();
    assert_eq!(harness.shut_down(1000), Ending::Shutdown);
}

/// A runtime that writes more than any buffer on the way holds, and only then says that it is done.
fn chatty(lines: usize) -> RuntimeCommand {
    let script = format!(
        "i=0; while [ $i -lt {lines} ]; do echo \"line $i {}\"; i=$((i+1)); done; echo over >&2",
        "x".repeat(90)
    );
    RuntimeCommand {
        program: "/bin/sh".to_owned(),
        arguments: vec!["-c".to_owned(), script],
        environment: Vec::new(),
    }
}

#[test]
fn an_agent_that_does_not_read_stops_the_runtime_and_loses_nothing() {
    const LINES: usize = 30_000;
    let mut harness = Harness::stalled(chatty(LINES));
    // Pipes, outbox and sockets hold about a megabyte of these three: the runtime waits until somebody reads.
    harness.wait_until_blocked();
    harness.read_on();
    let frames = harness.frames_until(Kind::RuntimeExited);
    let text: Vec<u8> = frames
        .iter()
        .filter_map(|frame| match frame.read() {
            GuestFrame::Log(LogStream::Stdout, bytes) => Some(bytes.to_vec()),
            _ => None,
        })
        .flatten()
        .collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), LINES);
    for (number, line) in text.lines().enumerate() {
        assert!(line.starts_with(&format!("line {number} ")), "{line}");
    }
}

#[test]
fn a_reset_reaches_a_runtime_that_never_reads_its_payload() {
    let mut harness = Harness::with_runtime(
        RuntimeCommand {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), "echo up; exec sleep 1000".to_owned()],
            environment: Vec::new(),
        },
        "",
    );
    harness.frames_until(Kind::Log);
    let id = harness.invoke(&vec![b'x'; 6 * 1024 * 1024]);
    harness.reset();
    match harness.frames_until(Kind::RuntimeExited).last().unwrap().read() {
        GuestFrame::RuntimeExited(exited) => {
            assert_eq!((exited.status, exited.id), (ExitStatus::Signal(9), Some(id)));
        }
        other => panic!("{other:?}"),
    }
    // The next invocation starts it again, in a new life.
    harness.invoke(b"1");
    harness.frames_until(Kind::Log);
}

#[test]
fn a_runtime_that_dies_idle_is_reported_without_an_invocation_and_started_by_the_next() {
    let mut harness = Harness::with_runtime(
        RuntimeCommand {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), "exit 7".to_owned()],
            environment: Vec::new(),
        },
        "",
    );
    for round in 0..3 {
        let expected = (round > 0).then(|| harness.invoke(b"1"));
        match harness.frames_until(Kind::RuntimeExited).last().unwrap().read() {
            GuestFrame::RuntimeExited(exited) => {
                assert_eq!((exited.status, exited.id), (ExitStatus::Code(7), expected));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(harness.shut_down(1000), Ending::Shutdown);
}

#[test]
fn a_runtime_that_ignores_sigterm_is_killed_when_its_time_is_over() {
    let mut harness = Harness::with_runtime(
        RuntimeCommand {
            program: "/bin/sh".to_owned(),
            arguments: vec![
                "-c".to_owned(),
                "trap 'echo asked' TERM; echo up; while :; do sleep 1000 & wait; done".to_owned(),
            ],
            environment: Vec::new(),
        },
        "",
    );
    harness.frames_until(Kind::Log);
    assert_eq!(harness.shut_down(300), Ending::Shutdown);
}

#[test]
fn a_shutdown_is_obeyed_although_the_agent_reads_nothing() {
    let mut harness = Harness::stalled(chatty(30_000));
    harness.wait_until_blocked();
    assert_eq!(harness.shut_down(0), Ending::Shutdown);
}
