//! Bodies of the fuzz targets, so that ordinary tests can replay what a fuzzer found. They panic on a finding.

use crate::{BODY_MAX, FrameError, GuestFrame, HEADER_LEN, Header, HostFrame, Kind};

/// Bytes as the agent would read them from a guest: no panic, and what decodes survives encoding.
pub fn guest_frames(data: &[u8]) {
    let Some((kind, body)) = frame(data) else { return };
    let Ok(frame) = GuestFrame::decode(kind, body) else { return };
    round_trip(
        kind,
        |buffer| frame.encode(buffer),
        |kind, body| {
            assert_eq!(GuestFrame::decode(kind, body), Ok(frame), "a frame changed on its way");
        },
    );
}

/// Bytes as PID 1 would read them from the agent: no panic, and what decodes survives encoding.
pub fn host_frames(data: &[u8]) {
    let Some((kind, body)) = frame(data) else { return };
    let Ok(frame) = HostFrame::decode(kind, body) else { return };
    if let HostFrame::Configure(configure) = frame {
        for list in [configure.arguments, configure.environment, configure.credentials] {
            let items: usize = list.iter().map(|item| item.len().saturating_add(1)).sum();
            assert_eq!(items, list.as_bytes().len(), "items and their NULs are the whole list");
        }
    }
    round_trip(
        kind,
        |buffer| frame.encode(buffer),
        |kind, body| {
            assert_eq!(HostFrame::decode(kind, body), Ok(frame), "a frame changed on its way");
        },
    );
}

/// Reads a header from the front of `data` as it stands, then takes its kind and all that follows as a frame: a fuzzer need
/// not guess lengths.
fn frame(data: &[u8]) -> Option<(Kind, &[u8])> {
    let (head, body) = data.split_first_chunk::<HEADER_LEN>()?;
    if let Ok(header) = Header::parse(*head) {
        assert_eq!(Header::parse(header.to_bytes()), Ok(header), "a header changed on its way");
        assert!(header.body_len <= BODY_MAX, "a header proves its length");
    }
    let [kind, ..] = *head;
    let header = Header::parse([kind, 0, 0, 0, 0, 0, 0, 0]).ok()?;
    (body.len() <= BODY_MAX).then_some((header.kind, body))
}

fn round_trip(
    kind: Kind,
    encode: impl Fn(&mut [u8]) -> Result<usize, FrameError>,
    check: impl Fn(Kind, &[u8]),
) {
    let mut buffer = [0; HEADER_LEN + BODY_MAX];
    let len = encode(&mut buffer).expect("what was decoded is within its limits");
    let (frame, _) = buffer.split_at(len);
    let (head, body) = frame.split_first_chunk().expect("a frame begins with a header");
    assert_eq!(Header::parse(*head), Header::new(kind, body.len()), "the header fits its body");
    check(kind, body);
}
