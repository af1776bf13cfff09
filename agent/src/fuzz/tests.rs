//! The fuzz target's body on bytes that are known.

use proptest::prelude::*;
use votive_protocol::{
    BODY_MAX, Done, GuestFrame, HEADER_LEN, Hello, InvocationId, Phase, PhaseName, ResponseEnd,
    ResponseMode, ResponseOutcome, ResponseStart, VERSION,
};

use super::*;

fn stream(frames: &[GuestFrame<'_>]) -> Vec<u8> {
    let mut bytes = vec![1];
    let mut buffer = vec![0; HEADER_LEN + BODY_MAX];
    for frame in frames {
        let len = frame.encode(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..len]);
    }
    bytes
}

/// A guest that does everything right.
fn good_guest() -> Vec<u8> {
    let id = InvocationId([0; 16]);
    let (mode, content_type) = (ResponseMode::Buffered, "");
    let outcome = ResponseOutcome::Complete;
    let mut frames = vec![
        GuestFrame::Hello(Hello { version: VERSION, started_ns: 0 }),
        GuestFrame::Ready(Phase { name: PhaseName::InitOver, at_ns: 0 }),
    ];
    for _ in 0..3 {
        frames.extend([
            GuestFrame::ResponseStart(ResponseStart { id, mode, content_type }),
            GuestFrame::ResponsePayload(b"{}"),
            GuestFrame::ResponseEnd(ResponseEnd { id, outcome, error_type: "", error_body: b"" }),
            GuestFrame::Done(Done {
                id,
                duration_ns: 0,
                runtime_ns: 0,
                extensions_ns: 0,
                memory_peak_bytes: 0,
            }),
        ]);
    }
    stream(&frames)
}

#[test]
fn a_good_guest_and_each_beginning_of_it() {
    let bytes = good_guest();
    for len in 0..=bytes.len() {
        agent_link(&bytes[..len]);
    }
}

proptest! {
    #[test]
    fn a_good_guest_with_bytes_changed(places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = good_guest();
        for (place, value) in places {
            *place.get_mut(&mut bytes) = value;
        }
        agent_link(&bytes);
    }
}
