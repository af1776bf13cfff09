//! Every ending of an invocation, and every frame out of place.

use proptest::prelude::*;
use votive_protocol::{Done, FaultCode, ResponseMode, ResponseOutcome};

use super::*;

const ID: InvocationId = InvocationId([7; 16]);
const OTHER: InvocationId = InvocationId([8; 16]);

fn at(ms: u64) -> Moment {
    Moment::from_nanoseconds(ms * 1_000_000)
}

fn begin() -> Invocation {
    let timeout = Duration::from_secs(3);
    Invocation::new(InvocationSpec { id: ID, timeout, memory_mb: 128 }, at(1000))
}

fn start() -> GuestEvent {
    let mode = ResponseMode::Buffered;
    GuestEvent::ResponseStart { id: ID, mode, content_type: String::from("text/plain") }
}

fn end(outcome: ResponseOutcome) -> GuestEvent {
    GuestEvent::ResponseEnd { id: ID, outcome, error_type: String::new(), error_body: Vec::new() }
}

fn done() -> GuestEvent {
    GuestEvent::Done(Done {
        id: ID,
        duration_ns: 1,
        runtime_ns: 1,
        extensions_ns: 0,
        memory_peak_bytes: 5 << 20,
    })
}

fn error(error_type: &str, body: &[u8]) -> GuestEvent {
    GuestEvent::RuntimeError {
        scope: RuntimeErrorScope::Invocation(ID),
        error_type: error_type.to_owned(),
        body: body.to_vec(),
    }
}

fn exited(status: ExitStatus, out_of_memory: bool) -> Ending {
    let memory_peak_bytes = 128 << 20;
    Ending::Exited(RuntimeExited { status, out_of_memory, memory_peak_bytes, id: Some(ID) })
}

/// Feeds frames; gives the last step.
fn feed(invocation: &mut Invocation, events: Vec<GuestEvent>) -> Result<Step, Violation> {
    let mut last = Step::Nothing;
    for event in events {
        last = invocation.on(event)?;
    }
    Ok(last)
}

/// The type, the message, and the status that an ending without an answer gives.
fn failed(ending: Ending) -> (String, String, Status) {
    let outcome = begin().end(ending, None, at(1500));
    let Answered::Error(error) = outcome.answer else { panic!("an answer from nowhere") };
    let object: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
    let message = object["errorMessage"].as_str().unwrap().to_owned();
    assert_eq!(object["errorType"].as_str().unwrap(), error.error_type);
    (error.error_type, message, outcome.report.status)
}

#[test]
fn an_answer_and_a_release_make_a_clean_outcome() {
    let mut invocation = begin();
    let piece = GuestEvent::ResponsePayload(b"hi".to_vec());
    assert_eq!(
        feed(&mut invocation, vec![start(), piece]),
        Ok(Step::Respond(ResponseMode::Buffered, b"hi".to_vec()))
    );
    assert!(!invocation.is_answered());
    let step = feed(&mut invocation, vec![end(ResponseOutcome::Complete), done()]);
    assert_eq!(step, Ok(Step::Released));
    let outcome = invocation.end(Ending::Released, Some(Duration::from_millis(9)), at(1250));
    let content_type = String::from("text/plain");
    assert_eq!(outcome.answer, Answered::Response { mode: ResponseMode::Buffered, content_type });
    assert_eq!(outcome.condition, Condition::Clean);
    assert_eq!(outcome.report.duration, Duration::from_millis(250));
    assert_eq!(outcome.report.memory_used_mb(), 5);
    assert_eq!(outcome.report.init, Some(Duration::from_millis(9)));
    assert_eq!(outcome.report.status, Status::Success);
}

#[test]
fn each_ending_without_an_answer_has_its_documented_error() {
    let id = "07070707-0707-0707-0707-070707070707";
    let check = |ending, error_type: &str, message: &str, status: Status| {
        let message = format!("RequestId: {id} Error: {message}");
        assert_eq!(failed(ending), (error_type.to_owned(), message, status));
    };
    let exit_error = || Status::Error(String::from("Runtime.ExitError"));
    check(
        exited(ExitStatus::Code(1), false),
        "Runtime.ExitError",
        "Runtime exited with error: exit status 1",
        exit_error(),
    );
    check(
        exited(ExitStatus::Code(0), false),
        "Runtime.ExitError",
        "Runtime exited without providing a reason",
        exit_error(),
    );
    check(
        exited(ExitStatus::Signal(11), false),
        "Runtime.ExitError",
        "Runtime exited with error: signal: segmentation fault",
        exit_error(),
    );
    check(
        exited(ExitStatus::Signal(40), false),
        "Runtime.ExitError",
        "Runtime exited with error: signal: signal 40",
        exit_error(),
    );
    check(
        exited(ExitStatus::Signal(9), true),
        "Runtime.ExitError",
        "Runtime exited with error: signal: killed",
        Status::Error(String::from("Runtime.OutOfMemory")),
    );
    check(
        Ending::TimedOut,
        "Sandbox.Timedout",
        "Task timed out after 3.00 seconds",
        Status::Timeout,
    );
    check(
        Ending::Lost(GoneReason::LinkClosed),
        "Sandbox.Failure",
        "the execution environment was lost",
        Status::Error(String::from("Sandbox.Failure")),
    );
    let code = FaultCode::InvalidEntrypoint;
    check(
        Ending::Lost(GoneReason::Fault { code, errno: 2, detail: String::new() }),
        "Runtime.InvalidEntrypoint",
        "no bootstrap was found that can be executed",
        Status::Error(String::from("Runtime.InvalidEntrypoint")),
    );
}

#[test]
fn a_time_out_lasts_exactly_as_long_as_allowed() {
    let outcome = begin().end(Ending::TimedOut, None, at(9000));
    assert_eq!(outcome.report.duration, Duration::from_secs(3));
    assert_eq!(outcome.condition, Condition::Suspect);
}

#[test]
fn an_answer_that_was_given_stands() {
    for ending in [Ending::TimedOut, exited(ExitStatus::Code(1), false), Ending::Released] {
        let mut invocation = begin();
        feed(&mut invocation, vec![start(), end(ResponseOutcome::Complete)]).unwrap();
        let outcome = invocation.end(ending, None, at(1001));
        assert!(matches!(outcome.answer, Answered::Response { .. }), "{outcome:?}");
    }
    let mut invocation = begin();
    feed(&mut invocation, vec![error("Function.Thrown", b"{}"), done()]).unwrap();
    let outcome = invocation.end(Ending::Released, None, at(1001));
    let Answered::Error(error) = outcome.answer else { panic!("no error") };
    assert_eq!(
        (error.error_type.as_str(), error.payload.as_slice()),
        ("Function.Thrown", &b"{}"[..])
    );
    assert_eq!(outcome.report.status, Status::Error(String::from("Function.Thrown")));
}

#[test]
fn an_error_without_a_body_gets_one() {
    let mut invocation = begin();
    feed(&mut invocation, vec![error("Runtime.Unknown", b"")]).unwrap();
    let outcome = invocation.end(Ending::Released, None, at(1001));
    let Answered::Error(error) = outcome.answer else { panic!("no error") };
    let object: serde_json::Value = serde_json::from_slice(&error.payload).unwrap();
    assert_eq!(object["errorType"], "Runtime.Unknown");
}

#[test]
fn the_first_of_two_errors_stands() {
    let mut invocation = begin();
    let frames =
        vec![start(), end(ResponseOutcome::Oversized), error("Runtime.Late", b"{}"), done()];
    assert_eq!(feed(&mut invocation, frames), Ok(Step::Released));
    let outcome = invocation.end(Ending::Released, None, at(1001));
    let Answered::Error(error) = outcome.answer else { panic!("no error") };
    assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
}

#[test]
fn trailers_of_a_stream_tell_the_error_and_its_body() {
    let details = br#"{"errorMessage":"half-way"}"#;
    let encoded = BASE64_STANDARD.encode(details).into_bytes();
    for (error_type, body, expected) in [
        ("Runtime.Streamed", encoded.clone(), ("Runtime.Streamed", Some(&details[..]))),
        ("", encoded, ("Function.Unknown", Some(&details[..]))),
        ("Runtime.Streamed", b"no base64!".to_vec(), ("Runtime.Streamed", None)),
        ("Runtime.Streamed", Vec::new(), ("Runtime.Streamed", None)),
    ] {
        let mut invocation = begin();
        let end = GuestEvent::ResponseEnd {
            id: ID,
            outcome: ResponseOutcome::Complete,
            error_type: error_type.into(),
            error_body: body,
        };
        feed(&mut invocation, vec![start(), end]).unwrap();
        let Some(Answered::Error(error)) = invocation.answered() else { panic!("no error") };
        assert_eq!(error.error_type, expected.0);
        match expected.1 {
            Some(details) => assert_eq!(error.payload, details),
            None => assert!(error.payload.starts_with(b"{")),
        }
    }
}

#[test]
fn frames_out_of_place_are_violations() {
    let wrong = |id| GuestEvent::ResponseEnd {
        id,
        outcome: ResponseOutcome::Complete,
        error_type: String::new(),
        error_body: Vec::new(),
    };
    let piece = || GuestEvent::ResponsePayload(vec![0]);
    for (frames, expected) in [
        (vec![done()], Violation::OutOfOrder),
        (vec![piece()], Violation::OutOfOrder),
        (vec![end(ResponseOutcome::Complete)], Violation::OutOfOrder),
        (vec![start(), start()], Violation::OutOfOrder),
        (vec![start(), done()], Violation::OutOfOrder),
        (vec![start(), error("Runtime.X", b"")], Violation::OutOfOrder),
        (vec![start(), wrong(OTHER)], Violation::WrongInvocation),
        (vec![start(), wrong(ID), piece()], Violation::OutOfOrder),
        (vec![start(), wrong(ID), start()], Violation::OutOfOrder),
        (vec![start(), wrong(ID), wrong(ID)], Violation::OutOfOrder),
        (vec![start(), wrong(ID), error("Runtime.X", b"")], Violation::OutOfOrder),
    ] {
        assert_eq!(feed(&mut begin(), frames.clone()), Err(expected), "{frames:?}");
    }
}

#[test]
fn an_answer_may_be_as_long_as_its_limit_and_no_longer() {
    for (mode, max) in [
        (ResponseMode::Buffered, RESPONSE_PAYLOAD_MAX),
        (ResponseMode::Streaming, STREAMED_RESPONSE_MAX),
    ] {
        let mut invocation = begin();
        invocation
            .on(GuestEvent::ResponseStart { id: ID, mode, content_type: String::new() })
            .unwrap();
        let mut left = usize::try_from(max).unwrap();
        while left > 0 {
            let len = left.min(1 << 20);
            invocation.on(GuestEvent::ResponsePayload(vec![0; len])).unwrap();
            left -= len;
        }
        let one_more = invocation.on(GuestEvent::ResponsePayload(vec![0]));
        assert_eq!(one_more, Err(Violation::TooLong));
    }
}

proptest! {
    #[test]
    fn no_order_of_frames_gives_two_answers(choices in prop::collection::vec(0..6_usize, 0..12)) {
        let mut invocation = begin();
        let mut answers = 0;
        for choice in choices {
            let before = invocation.is_answered();
            let frame = match choice {
                0 => start(),
                1 => GuestEvent::ResponsePayload(vec![1]),
                2 => end(ResponseOutcome::Complete),
                3 => end(ResponseOutcome::Truncated),
                4 => error("Runtime.X", b"{}"),
                _ => done(),
            };
            if invocation.on(frame).is_err() {
                break;
            }
            // Once answered, for ever answered.
            prop_assert!(!before || invocation.is_answered());
            answers += usize::from(!before && invocation.is_answered());
        }
        prop_assert!(answers <= 1);
    }
}
