//! Answers in pieces, their pace, and callers who do not read.

use votive_protocol::InvocationId;

use super::*;
use crate::report::{Report, Status};
use crate::worker::api::{EnvironmentId, ReleaseOutcome};

fn release() -> Release {
    let invocation = InvocationId([1; 16]);
    Release {
        invocation,
        environment: EnvironmentId(1),
        outcome: ReleaseOutcome::Reused,
        report: Report {
            id: invocation,
            duration: Duration::ZERO,
            memory_size_mb: 128,
            memory_used_bytes: 0,
            init: None,
            extensions: Duration::ZERO,
            status: Status::Success,
        },
        log_tail: Vec::new(),
    }
}

/// An outbox, and what comes out of it once all has gone in.
fn outbox(capacity: usize) -> (Outbox, mpsc::Receiver<AnswerPart>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Outbox::new(sender, Clock::of_runtime()), receiver)
}

async fn drain(outbox: &mut Outbox, receiver: &mut mpsc::Receiver<AnswerPart>) -> Vec<AnswerPart> {
    let mut parts = Vec::new();
    while !outbox.is_empty() {
        outbox.hand_on().await;
        while let Ok(part) = receiver.try_recv() {
            parts.push(part);
        }
    }
    parts
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_at_its_pace_after_its_burst() {
    let (mut outbox, mut receiver) = outbox(4);
    let begun = tokio::time::Instant::now();
    outbox.head(String::from("text/plain"));
    let piece = 64 * 1024;
    let mut sent = 0;
    // 16 MiB: the burst at once, the other 10 at 2 MiB a second.
    while sent < 16 * 1024 * 1024 {
        outbox.piece(ResponseMode::Streaming, vec![0; piece]);
        sent += piece;
        drain(&mut outbox, &mut receiver).await;
        if sent == 6 * 1024 * 1024 {
            assert!(begun.elapsed() < Duration::from_millis(5), "{:?}", begun.elapsed());
        }
    }
    let took = begun.elapsed().as_secs_f64();
    assert!((4.9..5.2).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_buffered_answer_waits_until_it_is_whole_and_then_for_nothing() {
    let (mut outbox, mut receiver) = outbox(4);
    let begun = tokio::time::Instant::now();
    let whole: Vec<u8> = (0..6 * 1024 * 1024 + 100_u32).map(|i| i as u8).collect();
    for piece in whole.chunks(5000) {
        outbox.piece(ResponseMode::Buffered, piece.to_vec());
        assert!(outbox.is_empty());
    }
    let (mode, content_type) = (ResponseMode::Buffered, String::from("a/b"));
    outbox.answer(Answered::Response { mode, content_type: content_type.clone() });
    outbox.release(release());
    let parts = drain(&mut outbox, &mut receiver).await;
    assert_eq!(parts[0], AnswerPart::Head { mode, content_type, function_error: false });
    let bytes: Vec<u8> = parts
        .iter()
        .flat_map(|part| match part {
            AnswerPart::Bytes(bytes) => bytes.clone(),
            _ => Vec::new(),
        })
        .collect();
    assert!(bytes == whole);
    assert!(matches!(parts.last(), Some(AnswerPart::Release(_))));
    assert!(begun.elapsed() < Duration::from_millis(5), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_ends_as_truncated_and_a_second_answer_does_not_count() {
    let (mut outbox, mut receiver) = outbox(4);
    outbox.head(String::new());
    outbox.piece(ResponseMode::Streaming, b"half".to_vec());
    let error_type = String::from("Sandbox.Timedout");
    let error = FunctionError { error_type: error_type.clone(), payload: b"{}".to_vec() };
    outbox.answer(Answered::Error(error.clone()));
    outbox.answer(Answered::Error(error));
    outbox.release(release());
    let parts = drain(&mut outbox, &mut receiver).await;
    assert_eq!(
        parts[2],
        AnswerPart::End {
            end_of_response: EndOfResponse::Truncated,
            error_type: Some(error_type),
            function_error: true,
            error_details: b"{}".to_vec(),
        }
    );
    assert_eq!(parts.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_stops_reading_is_given_up_and_one_who_left_is_not_waited_for() {
    let (mut stuck, mut receiver) = outbox(1);
    stuck.answer(Answered::Response { mode: ResponseMode::Buffered, content_type: String::new() });
    stuck.release(release());
    stuck.hand_on().await;
    let wait = tokio::time::timeout(Duration::from_millis(1), stuck.hand_on()).await;
    assert!(wait.is_err() && !stuck.is_empty());
    let deadline = stuck.deadline().unwrap();
    stuck.on_tick(deadline);
    assert!(stuck.is_empty());
    // It sees the end of the channel where an end of the answer should be.
    assert!(matches!(receiver.recv().await, Some(AnswerPart::Head { .. })));
    assert_eq!(receiver.recv().await, None);

    let (mut left, receiver) = outbox(1);
    drop(receiver);
    left.head(String::new());
    left.hand_on().await;
    assert!(left.is_empty());
    left.piece(ResponseMode::Streaming, b"more".to_vec());
    assert!(left.is_empty());
}
