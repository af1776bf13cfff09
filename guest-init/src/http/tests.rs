//! Heads, bodies and answers, byte by byte.

use crate::extensions::Extensions;
use crate::extensions::answer::{Answer, Context};
use proptest::prelude::*;

use super::{
    BodyError, Decoder, Framing, Head, HeadError, ModeHeader, Reply, Trailers, Writer,
    find_head_end, leading_blank_lines,
};
use crate::route::Route;
use crate::runtime::State;

fn parse(text: &str) -> Result<Head, HeadError> {
    assert_eq!(find_head_end(text.as_bytes(), 0), Some(text.len()), "{text:?}");
    Head::parse(text.as_bytes())
}

/// A head that is one but for `lines`.
fn with(lines: &str) -> Result<Head, HeadError> {
    parse(&format!("POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: h\r\n{lines}\r\n"))
}

#[test]
fn routes_are_paths_with_their_method() {
    for (line, expected) in [
        ("GET /2018-06-01/runtime/invocation/next", Route::Next),
        ("GET /2018-06-01/runtime/invocation/next?a=b", Route::Next),
        ("GET http://127.0.0.1:9001/2018-06-01/runtime/invocation/next", Route::Next),
        ("GET /2018-06-01/ping", Route::Ping),
        ("POST /2018-06-01/runtime/init/error", Route::InitError),
        ("POST /2018-06-01/runtime/invocation/next", Route::MethodNotAllowed("GET")),
        ("HEAD /2018-06-01/ping", Route::MethodNotAllowed("GET")),
        ("get /2018-06-01/ping", Route::MethodNotAllowed("GET")),
        ("GET /2018-06-01/runtime/init/error", Route::MethodNotAllowed("POST")),
        ("PUT /2018-06-01/runtime/invocation/x/error", Route::MethodNotAllowed("POST")),
        ("GET /2018-06-01/runtime/invocation/next/", Route::NotFound),
        ("GET /2018-06-01/runtime/invocation/x/y/response", Route::NotFound),
        ("GET /2018-06-02/ping", Route::NotFound),
        ("GET http://127.0.0.1:9001", Route::NotFound),
        ("GET *", Route::NotFound),
        ("GET /", Route::NotFound),
    ] {
        let head = parse(&format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
        assert_eq!(head.route, expected, "{line}");
    }
}

#[test]
fn the_id_is_what_stands_between_the_slashes() {
    for (verb, id) in [("response", "a-b"), ("error", "a-b"), ("response", "")] {
        let text =
            format!("POST /2018-06-01/runtime/invocation/{id}/{verb} HTTP/1.1\r\nHost: h\r\n\r\n");
        match (verb, parse(&text).unwrap().route) {
            ("response", Route::Response(span)) | ("error", Route::InvocationError(span)) => {
                assert_eq!(span.get(text.as_bytes()), id.as_bytes());
                // A span of another buffer is not followed out of bounds.
                assert!(span.is_empty() || span.get(b"short").is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn headers_are_understood_in_any_case() {
    let text = "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nhOsT: h\r\n\
                content-LENGTH:  12 \r\nexpect: 100-Continue\r\nCONNECTION: foo, Close\r\n\
                lambda-runtime-function-ERROR-type: Runtime.X\r\n\
                Lambda-Runtime-Function-XRay-Error-Cause: {\"a\": 1}\r\n\
                Content-Type:text/plain\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n\r\n";
    let head = parse(text).unwrap();
    assert_eq!(head.framing, Framing::Length(12));
    assert!(head.expects_continue && !head.keep_alive);
    assert_eq!(head.mode, ModeHeader::Streaming);
    assert_eq!(head.error_type.get(text.as_bytes()), b"Runtime.X");
    assert_eq!(head.xray_cause.get(text.as_bytes()), b"{\"a\": 1}");
    assert_eq!(head.content_type.get(text.as_bytes()), b"text/plain");
}

#[test]
fn heads_that_are_none_are_refused() {
    for (lines, error) in [
        ("Content-Length: -1\r\n", HeadError::Malformed),
        ("Content-Length: +1\r\n", HeadError::Malformed),
        ("Content-Length: 0x10\r\n", HeadError::Malformed),
        ("Content-Length: \r\n", HeadError::Malformed),
        ("Content-Length: 1, 1\r\n", HeadError::Malformed),
        ("Content-Length: 99999999999999999999\r\n", HeadError::Malformed),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", HeadError::Malformed),
        ("Host: again\r\n", HeadError::Malformed),
        ("Transfer-Encoding: gzip\r\n", HeadError::UnknownCoding),
        ("Transfer-Encoding: gzip, chunked\r\n", HeadError::UnknownCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HeadError::UnknownCoding),
        ("Expect: miracles\r\n", HeadError::UnknownExpectation),
        ("no colon\r\n", HeadError::Malformed),
        (" folded: x\r\n", HeadError::Malformed),
    ] {
        assert_eq!(with(lines), Err(error), "{lines:?}");
    }
    assert_eq!(with(&"X: y\r\n".repeat(64)), Err(HeadError::TooManyHeaders));
    assert!(with(&"X: y\r\n".repeat(63)).is_ok());
    assert_eq!(parse("GET / HTTP/2.0\r\n\r\n"), Err(HeadError::UnknownVersion));
    assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::NoHost));
    assert_eq!(parse("GARBAGE\r\n\r\n"), Err(HeadError::Malformed));
    assert_eq!(parse("\0\x01\x02\r\n\r\n"), Err(HeadError::Malformed));
    assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
    assert!(with("Content-Length: 2\r\nContent-Length: 2\r\n").is_ok());
    // Chunks win over a length, as RFC 9112 section 6.3 has it.
    let both = with("Content-Length: 2\r\nTransfer-Encoding: Chunked\r\n").unwrap();
    assert_eq!(both.framing, Framing::Chunked);
}

#[test]
fn a_head_ends_at_the_first_blank_line() {
    for (text, end) in [
        ("GET / HTTP/1.1\r\n\r\nrest", Some(18)),
        ("GET / HTTP/1.1\n\nrest", Some(16)),
        ("GET / HTTP/1.1\r\n\nrest", Some(17)),
        ("GET / HTTP/1.1\r\n\r", None),
        ("GET / HTTP/1.1\r\n", None),
        ("", None),
    ] {
        assert_eq!(find_head_end(text.as_bytes(), 0), end, "{text:?}");
        // Looking again only at what is new, three bytes back, finds the same.
        for seen in 0..text.len() {
            let early = find_head_end(&text.as_bytes()[..seen], 0);
            let found = early.or(find_head_end(text.as_bytes(), seen.saturating_sub(3)));
            assert_eq!(found, end, "{text:?} after {seen}");
        }
    }
    assert_eq!(leading_blank_lines(b"\r\n\r\nGET"), 4);
}

/// Decodes `wire` in pieces that end at `cuts`; gives the payload, the trailers and how much was used up.
fn decode(
    framing: Framing,
    wire: &[u8],
    cuts: &[usize],
) -> Result<Option<(Vec<u8>, Trailers, usize)>, BodyError> {
    let mut decoder = Decoder::new(framing);
    let (mut payload, mut pending, mut used) = (Vec::new(), Vec::new(), 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    ends.push(wire.len());
    ends.sort_unstable();
    let mut from = 0;
    for end in ends {
        pending.extend_from_slice(&wire[from..end]);
        from = end;
        let decoded = decoder.decode(&mut pending)?;
        assert!(decoded.produced <= decoded.consumed && decoded.consumed <= pending.len());
        payload.extend_from_slice(&pending[..decoded.produced]);
        pending.drain(..decoded.consumed);
        used += decoded.consumed;
        if decoder.at_trailers()
            && let Some((len, trailers)) = decoder.trailers(&pending)?
        {
            assert!(decoder.is_over());
            return Ok(Some((payload, trailers, used + len)));
        }
        if decoder.is_over() {
            return Ok(Some((payload, Trailers::default(), used)));
        }
    }
    Ok(None)
}

#[test]
fn malformed_chunks_are_refused() {
    for wire in [
        "zz\r\n",
        "\r\n",
        "-1\r\nx",
        "3\r\nabcd\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\r\nno colon\r\n\r\n",
        "3\nabc\n",
    ] {
        assert_eq!(decode(Framing::Chunked, wire.as_bytes(), &[]), Err(BodyError), "{wire:?}");
    }
    let long_extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(2000));
    assert_eq!(decode(Framing::Chunked, long_extension.as_bytes(), &[]), Err(BodyError));
    assert_eq!(decode(Framing::Chunked, b"3\r\nabc\r\n0\r\n", &[]), Ok(None));
}

proptest! {
    #[test]
    fn chunks_give_the_same_payload_however_they_arrive(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        trailer in prop::option::of("[A-Za-z0-9+/=]{0,200}"),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        if let Some(body) = &trailer {
            wire.extend_from_slice(
                format!("X: y\r\nLambda-Runtime-Function-Error-Body: {body}\r\n").as_bytes(),
            );
        }
        wire.extend_from_slice(b"\r\n");
        let whole = wire.len();
        wire.extend_from_slice(b"GET");
        let (payload, trailers, used) =
            decode(Framing::Chunked, &wire, &cuts).unwrap().expect("a whole body");
        prop_assert_eq!(payload, chunks.concat());
        prop_assert_eq!(used, whole);
        prop_assert_eq!(trailers.error_body.len(), trailer.map_or(0, |body| body.len()));
    }

    #[test]
    fn a_length_takes_exactly_its_bytes(
        length in 0_u64..2000,
        wire in prop::collection::vec(any::<u8>(), 0..3000),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let length_here = usize::try_from(length).unwrap();
        match decode(Framing::Length(length), &wire, &cuts).unwrap() {
            Some((payload, _, used)) => {
                prop_assert_eq!(used, length_here);
                prop_assert_eq!(&payload[..], &wire[..length_here]);
            }
            None => prop_assert!(wire.len() < length_here),
        }
    }

    #[test]
    fn nothing_that_arrives_makes_a_parser_panic(
        wire in prop::collection::vec(any::<u8>(), 0..600),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let _ = Head::parse(&wire);
        let _ = decode(Framing::Chunked, &wire, &cuts);
        if let Some(end) = find_head_end(&wire, 0) {
            prop_assert!(end <= wire.len());
        }
    }
}

#[test]
fn decimals_are_written_as_everybody_writes_them() {
    for number in [0, 7, 10, 99, 6_291_556, u64::MAX] {
        let mut buffer = [0; 32];
        let mut writer = Writer::new(&mut buffer);
        writer.push_decimal(number);
        let len = writer.finish().unwrap();
        assert_eq!(&buffer[..len], number.to_string().as_bytes());
    }
    let mut small = [0; 3];
    let mut writer = Writer::new(&mut small);
    writer.push(b"ab");
    writer.push(b"cd");
    writer.push(b"e");
    assert_eq!(writer.finish(), None);
}

#[test]
fn every_answer_fits_its_buffer_and_names_its_length() {
    let states = [State::Started, State::ResponseSent, State::InvocationErrorResponse];
    let mut replies = vec![
        Reply::Accepted,
        Reply::Pong,
        Reply::NotFound,
        Reply::MethodNotAllowed { allow: "POST" },
        Reply::InvalidRequestId,
        Reply::InvalidResponseMode,
        Reply::Truncated,
        Reply::TooLarge,
        Reply::BadRequest,
        Reply::NoHost,
        Reply::ExpectationFailed,
        Reply::HeadTooLarge,
        Reply::UnknownCoding,
        Reply::UnknownVersion,
        Reply::Extension(Answer::Subscribed),
        Reply::Extension(Answer::Internal),
        Reply::Extension(Answer::Registered { slot: 0, account: true }),
        Reply::Extension(Answer::InvalidSubscription("why")),
        Reply::Extension(Answer::Unknown([7; 16])),
    ];
    let extensions = Extensions::new();
    let context = Context { extensions: &extensions, configure: None };
    for from in states {
        replies.extend(states.map(|to| Reply::Forbidden { from, to }));
    }
    for reply in replies {
        for close in [false, true] {
            let mut buffer = [0; crate::limits::REPLY_MAX];
            let len = reply.write(close, context, &mut buffer);
            let text = std::str::from_utf8(&buffer[..len]).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply:?}"));
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{text}");
            assert_eq!(head.contains("Connection: close"), close, "{text}");
        }
    }
}

#[test]
fn the_limit_in_the_answer_is_the_limit() {
    let mut buffer = [0; crate::limits::REPLY_MAX];
    let extensions = Extensions::new();
    let context = Context { extensions: &extensions, configure: None };
    let len = Reply::TooLarge.write(false, context, &mut buffer);
    let limit = votive_protocol::limits::RESPONSE_PAYLOAD_MAX.to_string();
    assert!(std::str::from_utf8(&buffer[..len]).unwrap().contains(&format!("({limit} bytes)")));
}
