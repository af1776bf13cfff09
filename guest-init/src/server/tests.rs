//! The Runtime API without sockets: how requests arrive must not matter, and whatever arrives is survived.

use proptest::prelude::*;
use votive_protocol::limits;

use crate::exercise::{Play, memory, run};
use crate::limits::{CONNECTIONS_MAX, HEAD_MAX};
use crate::runtime::State;

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: h\r\n\r\n";

fn post(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /2018-06-01{path} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn response(play: &Play<'_>, body: &str) -> String {
    post(&format!("/runtime/invocation/{}/response", play.id()), "", body)
}

/// The status codes of what a connection was sent.
fn codes(play: &mut Play<'_>, index: usize) -> Vec<String> {
    let sent = String::from_utf8(play.sent(index)).unwrap();
    sent.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
}

#[test]
fn an_invocation_is_handed_to_the_connection_that_has_waited_longest() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    for index in [3, 1, 2] {
        play.feed(index, NEXT.as_bytes());
    }
    play.invoke(0);
    assert_eq!(codes(&mut play, 3), ["200"]);
    assert_eq!(play.state(), State::Running);
    assert!(play.sent(1).is_empty() && play.sent(2).is_empty());
    let answer = response(&play, "x");
    play.feed(3, answer.as_bytes());
    play.feed(3, NEXT.as_bytes());
    play.invoke(0);
    assert_eq!(codes(&mut play, 1), ["200"]);
}

#[test]
fn a_client_that_hangs_up_while_it_waits_is_not_handed_anything() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    play.feed(0, NEXT.as_bytes());
    play.feed(1, NEXT.as_bytes());
    play.end(0);
    play.invoke(0);
    assert!(play.sent(0).is_empty());
    assert_eq!(codes(&mut play, 1), ["200"]);
}

#[test]
fn a_payload_is_passed_on_while_it_comes_and_can_be_read_again() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    play.feed(0, NEXT.as_bytes());
    play.invoke(6);
    play.payload(b"abc");
    assert!(play.sent(0).ends_with(b"\r\n\r\nabc"));
    // A second connection asks for the same event before all of it is there.
    play.feed(1, NEXT.as_bytes());
    play.payload(b"def");
    assert_eq!(play.sent(0), b"def");
    assert!(play.sent(1).ends_with(b"\r\n\r\nabcdef"));
}

#[test]
fn a_runtime_may_answer_before_it_has_read_everything() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    play.feed(0, NEXT.as_bytes());
    play.invoke(100);
    play.payload(b"abc");
    let answer = response(&play, "early");
    play.feed(1, answer.as_bytes());
    play.feed(1, NEXT.as_bytes());
    // The rest of the payload still comes; nobody is given it.
    play.sent(0);
    play.payload(&[b'z'; 97]);
    assert!(play.sent(0).is_empty());
    play.invoke(3);
    play.payload(b"new");
    assert!(play.sent(1).ends_with(b"new"));
}

#[test]
fn a_head_may_be_as_long_as_its_limit_and_no_longer() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    let frame = "GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nX: \r\n\r\n".len();
    for (len, code) in [(HEAD_MAX, "200"), (HEAD_MAX + 1, "431"), (200 * 1024, "431")] {
        let head = format!(
            "GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
            "x".repeat(len - frame)
        );
        play.feed(0, head.as_bytes());
        assert_eq!(codes(&mut play, 0), [code], "{len}");
        play.end(0);
    }
}

#[test]
fn the_longest_error_report_comes_through_whole_and_a_longer_one_without_its_body() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    let cause = format!("X: {}\r\n", "x".repeat(HEAD_MAX - 200));
    for (len, code) in [(limits::ERROR_BODY_MAX, "202"), (4 * limits::ERROR_BODY_MAX, "202")] {
        play.feed(0, NEXT.as_bytes());
        play.invoke(0);
        play.sent(0);
        let path = format!("/runtime/invocation/{}/error", play.id());
        play.feed(0, post(&path, &cause, &"e".repeat(len)).as_bytes());
        assert_eq!(codes(&mut play, 0), [code], "{len}");
    }
}

#[test]
fn an_endless_refused_body_is_answered_before_it_ends() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    let head = "POST /none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    play.feed(0, head.as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..200 {
        play.feed(0, chunk.as_bytes());
    }
    assert_eq!(codes(&mut play, 0), ["404"]);
}

#[test]
fn an_invocation_that_is_abandoned_leaves_no_trace() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    play.feed(0, NEXT.as_bytes());
    play.invoke(1000);
    play.payload(b"part");
    let late = response(&play, "late");
    play.restart();
    play.feed(0, late.as_bytes());
    assert_eq!(codes(&mut play, 0).last().unwrap(), "400");
    assert_eq!(play.state(), State::Started);
}

/// A conversation that touches every state, as the bytes of one connection and the points at which the agent speaks.
fn conversation(cuts: &[usize], write_max: usize) -> (Vec<u8>, State) {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    play.limit_writes(write_max);
    let mut said = Vec::new();
    for round in 0..3 {
        play.invoke(4);
        let id = play.id();
        let stream = [
            NEXT.to_owned(),
            post("/runtime/invocation/none/response", "", "no"),
            match round {
                0 => post(&format!("/runtime/invocation/{id}/response"), "", "first"),
                1 => format!(
                    "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: h\r\n\
                     Transfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\nA: b\r\n\r\n"
                ),
                _ => post(&format!("/runtime/invocation/{id}/error"), "", "{}"),
            },
            post("/runtime/init/error", "", "{}"),
            NEXT.to_owned(),
        ]
        .concat();
        // The payload comes first, so that pipelined requests are not held up by it.
        play.payload(b"load");
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut % stream.len()).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        let mut from = 0;
        for end in ends {
            play.feed(0, &stream.as_bytes()[from..end]);
            from = end;
        }
        said.extend(play.sent(0));
    }
    (said, play.state())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn how_bytes_arrive_and_leave_does_not_matter(
        cuts in prop::collection::vec(any::<usize>(), 0..40),
        write_max in 1_usize..200,
    ) {
        prop_assert_eq!(conversation(&cuts, write_max), conversation(&[], usize::MAX));
    }

    #[test]
    fn whatever_arrives_is_survived(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        run(&mut memory(), &data);
    }
}

#[test]
fn every_place_is_used_again() {
    let mut memory = memory();
    let mut play = Play::new(&mut memory);
    for round in 0..3 {
        for index in 0..CONNECTIONS_MAX {
            play.feed(index, b"GET /2018-06-01/ping HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(codes(&mut play, index), ["200"], "round {round}");
            play.end(index);
        }
    }
}
