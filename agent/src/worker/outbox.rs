//! An answer on its way to its caller: in pieces, at a pace, and never more of it than fits.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use votive_protocol::{BODY_MAX, ResponseMode};

use crate::clock::Moment;
use crate::invocation::{Answered, FunctionError};
use crate::limits::{OUTBOX_GRACE, STREAM_BURST_BYTES, STREAM_BYTES_PER_SECOND};
use crate::worker::api::{AnswerPart, EndOfResponse, Release};
use crate::worker::time::Clock;

#[cfg(test)]
mod tests;

/// The answer of one invocation.
#[derive(Debug)]
pub(crate) struct Outbox {
    clock: Clock,
    /// Nobody, once the caller has left.
    caller: Option<mpsc::Sender<AnswerPart>>,
    waiting: VecDeque<AnswerPart>,
    /// A buffered answer until it is whole.
    buffered: Vec<u8>,
    pace: Pace,
    head_sent: bool,
    answered: bool,
    /// When what still waits is given up: set once the invocation is over.
    give_up: Option<Moment>,
}

impl Outbox {
    pub(crate) fn new(caller: mpsc::Sender<AnswerPart>, clock: Clock) -> Self {
        Self {
            clock,
            caller: Some(caller),
            waiting: VecDeque::new(),
            buffered: Vec::new(),
            pace: Pace::new(clock.now()),
            head_sent: false,
            answered: false,
            give_up: None,
        }
    }

    /// Whether everything was taken, or given up.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When [`Self::on_tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        if self.is_empty() { None } else { self.give_up }
    }

    /// Gives up on a caller who does not read.
    pub(crate) fn on_tick(&mut self, now: Moment) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.drop_caller();
        }
    }

    /// A streamed answer begins.
    pub(crate) fn head(&mut self, content_type: String) {
        self.head_sent = true;
        let mode = ResponseMode::Streaming;
        self.push(AnswerPart::Head { mode, content_type, function_error: false });
    }

    /// A piece of the answer.
    pub(crate) fn piece(&mut self, mode: ResponseMode, mut bytes: Vec<u8>) {
        match mode {
            // The invocation keeps it within its limit.
            ResponseMode::Buffered => self.buffered.append(&mut bytes),
            ResponseMode::Streaming => self.push(AnswerPart::Bytes(bytes)),
        }
    }

    /// The answer is complete. Only the first one counts.
    pub(crate) fn answer(&mut self, answered: Answered) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let buffered = std::mem::take(&mut self.buffered);
        match answered {
            Answered::Response { mode: ResponseMode::Buffered, content_type } => {
                self.whole(content_type, &buffered, None);
            }
            Answered::Response { mode: ResponseMode::Streaming, .. } => {
                self.end(EndOfResponse::Complete, None, Vec::new());
            }
            Answered::Error(error) if self.head_sent => {
                let end = match error.error_type.as_str() {
                    "Function.ResponseSizeTooLarge" => EndOfResponse::Oversized,
                    _ => EndOfResponse::Truncated,
                };
                self.end(end, Some(error.error_type), error.payload);
            }
            Answered::Error(FunctionError { error_type, payload }) => {
                self.whole(String::from("application/json"), &payload, Some(error_type));
            }
        }
    }

    /// The invocation is over.
    pub(crate) fn release(&mut self, release: Release) {
        self.push(AnswerPart::Release(release));
        self.give_up = Some(self.clock.now() + OUTBOX_GRACE);
    }

    /// Hands one part on, as soon as its time has come and the caller takes it. Nothing is lost if this is dropped.
    pub(crate) async fn hand_on(&mut self) {
        let Some(front) = self.waiting.front() else { return };
        if let AnswerPart::Bytes(bytes) = front {
            self.clock.sleep_until(Some(self.pace.when(bytes.len()))).await;
        }
        let Some(caller) = &self.caller else { return self.waiting.clear() };
        if let Ok(place) = caller.reserve().await {
            if let Some(part) = self.waiting.pop_front() {
                if let AnswerPart::Bytes(bytes) = &part {
                    self.pace.take(bytes.len(), self.clock.now());
                }
                place.send(part);
            }
            return;
        }
        // The caller left: the invocation goes on.
        self.drop_caller();
    }

    fn whole(&mut self, content_type: String, payload: &[u8], error_type: Option<String>) {
        let function_error = error_type.is_some();
        let mode = ResponseMode::Buffered;
        self.push(AnswerPart::Head { mode, content_type, function_error });
        // The pace is for streams: this is as large as a burst.
        self.pace.fill();
        for piece in payload.chunks(BODY_MAX) {
            self.push(AnswerPart::Bytes(piece.to_vec()));
        }
        self.end(EndOfResponse::Complete, error_type, Vec::new());
    }

    fn end(
        &mut self,
        end_of_response: EndOfResponse,
        error_type: Option<String>,
        error_details: Vec<u8>,
    ) {
        let function_error = error_type.is_some();
        self.push(AnswerPart::End { end_of_response, error_type, function_error, error_details });
    }

    fn push(&mut self, part: AnswerPart) {
        if self.caller.is_some() {
            self.waiting.push_back(part);
        }
    }

    fn drop_caller(&mut self) {
        self.caller = None;
        self.waiting.clear();
    }
}

/// The pace of a streamed answer: 2 MiB a second after a burst of 6 MiB (CONTRACT 4.1).
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Bytes that may go at once, at `at`.
    budget: u64,
    at: Moment,
}

impl Pace {
    fn new(now: Moment) -> Self {
        Self { budget: STREAM_BURST_BYTES, at: now }
    }

    /// Makes room for a buffered answer of the largest size.
    fn fill(&mut self) {
        self.budget = STREAM_BURST_BYTES + STREAM_BYTES_PER_SECOND;
    }

    /// When `len` bytes may go.
    fn when(&self, len: usize) -> Moment {
        let missing = bytes(len).saturating_sub(self.budget);
        let nanoseconds = u128::from(missing) * 1_000_000_000 / u128::from(STREAM_BYTES_PER_SECOND);
        self.at + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// `len` bytes went.
    fn take(&mut self, len: usize, now: Moment) {
        let passed = now.since(self.at).as_nanos();
        let earned = passed * u128::from(STREAM_BYTES_PER_SECOND) / 1_000_000_000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        let most = self.budget.max(STREAM_BURST_BYTES);
        let budget = self.budget.saturating_add(earned).min(most);
        self.budget = budget.saturating_sub(bytes(len));
        self.at = now;
    }
}

fn bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
