//! The order of an answer, and the cutting of a payload.

use super::*;

fn started() -> Part {
    Part::Started(v1::InvokeStarted::default())
}

fn payload() -> Part {
    Part::Payload(Bytes::from_static(b"x"))
}

#[test]
fn an_answer_has_one_order() {
    let head = || Part::Head(v1::InvokeHead::default());
    let end = || Part::End(v1::InvokeEnd::default());
    let release = || Part::Release(v1::Release::default());
    let accepted = |parts: &[Part]| {
        parts.iter().try_fold(Expected::Started, |expected, part| expected.after(part))
    };
    let whole = [started(), head(), payload(), payload(), end(), release()];
    assert_eq!(accepted(&whole), Some(Expected::Nothing));
    assert_eq!(accepted(&[started(), head(), end(), release()]), Some(Expected::Nothing));
    for wrong in [
        vec![head()],
        vec![payload()],
        vec![started(), started()],
        vec![started(), payload()],
        vec![started(), end()],
        vec![started(), head(), head()],
        vec![started(), head(), release()],
        vec![started(), head(), end(), payload()],
        vec![started(), head(), end(), end()],
        vec![started(), head(), end(), release(), release()],
    ] {
        assert_eq!(accepted(&wrong), None, "{wrong:?}");
    }
}

#[test]
fn a_payload_is_cut_into_pieces_that_a_worker_takes() {
    use v1::invoke_request::Part;
    for (len, pieces) in [
        (0, vec![]),
        (1, vec![1]),
        (PIECE_MAX, vec![PIECE_MAX]),
        (PIECE_MAX + 1, vec![PIECE_MAX, 1]),
        (REQUEST_PAYLOAD_MAX, vec![PIECE_MAX; 6]),
    ] {
        let messages = messages(v1::InvokeStart::default(), Bytes::from(vec![7; len]));
        let (first, rest) = messages.split_first().unwrap();
        assert!(matches!(first.part, Some(Part::Start(_))));
        let lengths: Vec<_> = rest
            .iter()
            .map(|message| match &message.part {
                Some(Part::Payload(piece)) => piece.len(),
                _ => panic!("not a piece"),
            })
            .collect();
        assert_eq!(lengths, pieces);
    }
}
