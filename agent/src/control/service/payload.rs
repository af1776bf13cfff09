//! Receiving an invocation: its start, then its payload piece by piece, with what all payloads together may take.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, Streaming};
use votive_control::limits::REQUEST_PAYLOAD_MAX;
use votive_control::v1;
use votive_control::v1::invoke_request::Part;

use crate::control::refused;
use crate::control::service::Calls;
use crate::control::tally::Cut;

/// A payload, and its share of what payloads may take.
pub(crate) struct Payload {
    pub(crate) bytes: Vec<u8>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Calls {
    /// Takes the whole request. That it comes in time its body sees to.
    pub(super) async fn receive(
        &self,
        mut messages: Streaming<v1::InvokeRequest>,
    ) -> Result<(v1::InvokeStart, Payload), Status> {
        let receiving = async {
            let start = match messages.message().await?.and_then(|message| message.part) {
                Some(Part::Start(start)) => start,
                _ => return Err(refused::out_of_order("an invocation begins with its start")),
            };
            let mut payload = Payload { bytes: Vec::new(), room: None };
            while let Some(message) = messages.message().await? {
                match message.part {
                    Some(Part::Payload(piece)) => self.add(&mut payload, &piece)?,
                    _ => return Err(refused::out_of_order("only pieces of the payload follow")),
                }
            }
            Ok((start, payload))
        };
        match tokio::time::timeout(self.limits.request, receiving).await {
            Ok(received) => received,
            Err(_) => {
                self.tally.cut(Cut::SlowRequest, None, &"a payload did not come in time");
                Err(refused::slow_request())
            }
        }
    }

    fn add(&self, payload: &mut Payload, piece: &[u8]) -> Result<(), Status> {
        if payload.bytes.len() + piece.len() > REQUEST_PAYLOAD_MAX {
            return Err(refused::too_large(REQUEST_PAYLOAD_MAX));
        }
        // A piece is far below 4 GiB: messages are limited.
        let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(len).map_err(|_| {
            self.tally.cut(Cut::PayloadsTooLarge, None, &"all payloads together");
            refused::no_room_for_payload()
        })?;
        match &mut payload.room {
            Some(held) => held.merge(room),
            held @ None => *held = Some(room),
        }
        payload.bytes.extend_from_slice(piece);
        Ok(())
    }
}
