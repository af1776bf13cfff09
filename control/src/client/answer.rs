//! The answer to an invocation, part by part and in order; and the events of a watch.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::client::ClientError;
use crate::limits::{PIECE_MAX, REQUEST_PAYLOAD_MAX};
use crate::refusal::Refusal;
use crate::v1;
use crate::v1::worker_client::WorkerClient;

#[cfg(test)]
mod tests;

pub use crate::v1::invoke_response::Part;

/// Sends the request and waits for the first word of the answer.
pub(crate) async fn invoke(
    mut grpc: WorkerClient<Channel>,
    start: v1::InvokeStart,
    payload: Bytes,
    limit: Duration,
) -> Result<Answer, ClientError> {
    if payload.len() > REQUEST_PAYLOAD_MAX {
        let message = format!(
            "a payload of {} bytes: at most {REQUEST_PAYLOAD_MAX} are allowed",
            payload.len()
        );
        let code = tonic::Code::InvalidArgument;
        return Err(ClientError::Refused(Refusal::new(code, "RequestTooLargeException", message)));
    }
    let deadline = Instant::now() + limit;
    let mut request = Request::new(tokio_stream::iter(messages(start, payload)));
    request.set_timeout(limit);
    let response = tokio::time::timeout_at(deadline, grpc.invoke(request))
        .await
        .map_err(|_| ClientError::Deadline)?
        .map_err(ClientError::of_status)?;
    Ok(Answer { parts: response.into_inner(), expected: Expected::Started, deadline })
}

/// The start, then the payload in pieces that share its memory.
fn messages(start: v1::InvokeStart, mut payload: Bytes) -> Vec<v1::InvokeRequest> {
    use v1::invoke_request::Part;
    let mut messages = vec![v1::InvokeRequest { part: Some(Part::Start(start)) }];
    while !payload.is_empty() {
        let piece = payload.split_to(payload.len().min(PIECE_MAX));
        messages.push(v1::InvokeRequest { part: Some(Part::Payload(piece)) });
    }
    messages
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Started,
    Head,
    Payload,
    Release,
    Nothing,
}

impl Expected {
    /// What may come after `part`, if `part` may come now.
    fn after(self, part: &Part) -> Option<Self> {
        match (self, part) {
            (Self::Started, Part::Started(_)) => Some(Self::Head),
            (Self::Head, Part::Head(_)) | (Self::Payload, Part::Payload(_)) => Some(Self::Payload),
            (Self::Payload, Part::End(_)) => Some(Self::Release),
            (Self::Release, Part::Release(_)) => Some(Self::Nothing),
            _ => None,
        }
    }
}

/// The answer to an invocation. Dropping it does not end the invocation.
#[derive(Debug)]
pub struct Answer {
    parts: Streaming<v1::InvokeResponse>,
    expected: Expected,
    deadline: Instant,
}

impl Answer {
    /// The next part: one `Started`, one `Head`, pieces of the payload, one `End`, one `Release`; then `None`.
    ///
    /// # Errors
    /// The worker lost the invocation, or the connection was lost, or a part is out of order.
    pub async fn next(&mut self) -> Result<Option<Part>, ClientError> {
        let message = tokio::time::timeout_at(self.deadline, self.parts.message())
            .await
            .map_err(|_| ClientError::Deadline)?
            .map_err(ClientError::of_status)?;
        let Some(message) = message else {
            return match self.expected {
                Expected::Nothing => Ok(None),
                _ => Err(ClientError::Protocol { what: "the answer ends before its release" }),
            };
        };
        let part = message.part.ok_or(ClientError::Protocol { what: "an empty part" })?;
        self.expected = self
            .expected
            .after(&part)
            .ok_or(ClientError::Protocol { what: "a part of the answer is out of order" })?;
        Ok(Some(part))
    }

    /// Takes the whole answer, if its payload has at most `max` bytes.
    ///
    /// # Errors
    /// As for [`Answer::next`], or the payload is longer.
    pub async fn collect(mut self, max: usize) -> Result<Outcome, ClientError> {
        let mut outcome = Outcome::default();
        let mut payload = BytesMut::new();
        while let Some(part) = self.next().await? {
            match part {
                Part::Started(started) => outcome.environment_id = started.environment_id,
                Part::Head(head) => outcome.head = head,
                Part::Payload(piece) if payload.len().saturating_add(piece.len()) > max => {
                    return Err(ClientError::Protocol { what: "the payload is too long" });
                }
                Part::Payload(piece) => payload.extend_from_slice(&piece),
                Part::End(end) => outcome.end = end,
                Part::Release(release) => outcome.release = release,
            }
        }
        outcome.payload = payload.freeze();
        Ok(outcome)
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Where it ran.
    pub environment_id: String,
    /// What the payload is.
    pub head: v1::InvokeHead,
    /// The payload.
    pub payload: Bytes,
    /// How it ended.
    pub end: v1::InvokeEnd,
    /// What became of the environment.
    pub release: v1::Release,
}

/// What happens on a worker.
#[derive(Debug)]
pub struct Watch {
    events: Streaming<v1::Event>,
}

impl Watch {
    pub(crate) fn new(events: Streaming<v1::Event>) -> Self {
        Self { events }
    }

    /// The next event; `None` when the worker has ended.
    ///
    /// # Errors
    /// The connection was lost.
    pub async fn next(&mut self) -> Result<Option<v1::Event>, ClientError> {
        self.events.message().await.map_err(ClientError::of_status)
    }
}
