//! Frames through small and unlucky buffers.

use proptest::prelude::*;
use votive_protocol::{GuestFrame, HEADER_LEN, Header, HostFrame, Kind, LogStream, Shutdown};

use super::{Inbox, Outbox};
use crate::limits::INBOX_MAX;

/// The frames of `wire` as they come out of an inbox that is given it in pieces.
fn through_inbox(wire: &[u8], cuts: &[usize]) -> Vec<(Kind, Vec<u8>)> {
    let mut buffer = vec![0; INBOX_MAX];
    let mut inbox = Inbox::new(&mut buffer);
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    ends.push(wire.len());
    ends.sort_unstable();
    let (mut from, mut frames) = (0, Vec::new());
    for end in ends {
        let mut piece = &wire[from..end];
        from = end;
        while !piece.is_empty() {
            let space = inbox.space();
            let len = piece.len().min(space.len());
            assert!(len > 0, "no space although every frame was taken");
            space[..len].copy_from_slice(&piece[..len]);
            inbox.received(len);
            piece = &piece[len..];
            while let Some((kind, body)) = inbox.take().unwrap() {
                frames.push((kind, body.to_vec()));
            }
        }
    }
    frames
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 1..10),
        cuts in prop::collection::vec(any::<usize>(), 0..30),
    ) {
        let mut wire = Vec::new();
        for body in &bodies {
            let mut frame = vec![0; body.len() + HEADER_LEN];
            HostFrame::Payload(body).encode(&mut frame).unwrap();
            wire.extend(frame);
        }
        let expected: Vec<_> = bodies.into_iter().map(|body| (Kind::Payload, body)).collect();
        prop_assert_eq!(through_inbox(&wire, &cuts), expected);
    }

    #[test]
    fn an_outbox_loses_nothing_that_it_had_room_for(
        steps in prop::collection::vec((1_usize..400, 0_usize..800, any::<bool>()), 1..60),
    ) {
        let mut buffer = vec![0; 2048];
        let mut outbox = Outbox::new(&mut buffer);
        let (mut expected, mut written) = (Vec::new(), Vec::new());
        for (len, drain, as_log) in steps {
            let text = vec![b'a' + (len % 26) as u8; len];
            let before = outbox.room();
            if as_log {
                let space = outbox.log_space(400);
                if space.len() >= len {
                    space[..len].copy_from_slice(&text);
                    outbox.finish_log(LogStream::Stderr, len);
                    expected.extend([Kind::Log as u8, 0, 0, 0]);
                    expected.extend(u32::try_from(len + 1).unwrap().to_le_bytes());
                    expected.push(2);
                    expected.extend(&text);
                } else {
                    prop_assert!(before < HEADER_LEN + 1 + 400);
                }
            } else {
                let lost = outbox.lost();
                outbox.push(&GuestFrame::ResponsePayload(&text));
                if outbox.lost() == lost {
                    let header = Header::new(Kind::ResponsePayload, len).unwrap();
                    expected.extend(header.to_bytes());
                    expected.extend(&text);
                } else {
                    prop_assert!(before < HEADER_LEN + len);
                }
            }
            let out = outbox.pending()[..drain.min(outbox.pending().len())].to_vec();
            outbox.written(out.len());
            written.extend(out);
        }
        written.extend(outbox.pending());
        prop_assert_eq!(written, expected);
    }
}

#[test]
fn the_largest_frame_fits_and_a_broken_header_is_named() {
    let largest = vec![7; votive_protocol::BODY_MAX];
    let mut wire = vec![0; INBOX_MAX];
    let len = HostFrame::Payload(&largest).encode(&mut wire).unwrap();
    assert_eq!(len, INBOX_MAX);
    let mut behind = vec![0; 64];
    let shutdown = HostFrame::Shutdown(Shutdown {
        reason: votive_protocol::ShutdownReason::Spindown,
        grace_ms: 5,
    });
    let short = shutdown.encode(&mut behind).unwrap();
    wire.extend(&behind[..short]);
    let frames = through_inbox(&wire, &[INBOX_MAX - 1, 5]);
    assert_eq!(frames[0], (Kind::Payload, largest));
    assert_eq!(HostFrame::decode(frames[1].0, &frames[1].1), Ok(shutdown));

    let mut buffer = vec![0; INBOX_MAX];
    let mut inbox = Inbox::new(&mut buffer);
    inbox.space()[..8].copy_from_slice(&[1, 0, 0, 0, 255, 255, 255, 255]);
    inbox.received(8);
    inbox.take().unwrap_err();
}

#[test]
fn a_frame_waits_for_the_next_only_if_it_is_alone() {
    let mut buffer = vec![0; 1024];
    let mut outbox = Outbox::new(&mut buffer);
    let frame = GuestFrame::ResponsePayload(b"x");
    outbox.push_held(&frame);
    assert!(outbox.is_held());
    outbox.push(&frame);
    assert!(!outbox.is_held());
    outbox.push_held(&frame);
    assert!(!outbox.is_held(), "others wait before it");
    outbox.written(outbox.pending().len());
    outbox.push_held(&frame);
    outbox.log_space(10)[0] = b'y';
    outbox.finish_log(LogStream::Stdout, 1);
    assert!(!outbox.is_held());
}
