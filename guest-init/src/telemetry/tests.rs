//! Subscriptions, batches, what is dropped; the forms of events.

use proptest::prelude::*;

use super::*;
use request::{Buffering, Invalid};

const AT: Times = Times { now_ns: 1_000, realtime_ns: 1_665_532_800_123_456_789 };

fn parse(body: &str) -> Result<Request, Invalid> {
    Request::parse(body.as_bytes(), Api::Telemetry)
}

const HTTP: &str = "{\"schemaVersion\":\"2022-12-13\",\"types\":[\"platform\",\"function\"],\
    \"buffering\":{\"maxItems\":1000,\"maxBytes\":262144,\"timeoutMs\":25},\
    \"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:4243/a\\/b?c\"}}";
const TCP: &str = "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"function\"],\
    \"destination\":{\"protocol\":\"TCP\",\"port\":4244}}";

#[test]
fn a_subscription_names_types_buffering_and_destination() {
    let request = parse(HTTP).unwrap();
    assert!(request.types.platform && request.types.function && !request.types.extension);
    let buffering = Buffering { max_items: 1_000, max_bytes: 262_144, timeout_ms: 25 };
    assert_eq!(request.buffering, buffering);
    let Destination::Http { port: 4243, path, put: false } = request.destination else {
        panic!("{request:?}")
    };
    assert_eq!(path.as_str(), "/a/b?c");
    let request = parse(TCP).unwrap();
    assert_eq!(request.destination, Destination::Tcp { port: 4244 });
    assert_eq!(request.buffering, Buffering::default());
    let legacy = "{\"types\":[\"extension\"],\"destination\":{\"protocol\":\"HTTP\",\"method\":\"PUT\",\
        \"encoding\":\"JSON\",\"URI\":\"http://sandbox:80\"}}";
    let request = Request::parse(legacy.as_bytes(), Api::Logs).unwrap();
    let Destination::Http { port: 80, path, put: true } = request.destination else {
        panic!("{request:?}")
    };
    assert_eq!(path.as_str(), "/");
}

#[test]
fn a_subscription_out_of_its_limits_is_refused() {
    for (from, to) in [
        ("1000", "999"),
        ("1000", "10001"),
        ("1000", "\"1000\""),
        ("262144", "262143"),
        ("262144", "1048577"),
        (":25", ":24"),
        (":25", ":30001"),
        (":25", ":25.5"),
        ("2022-12-13", "2020-08-15"),
        ("\"platform\",\"function\"", ""),
        ("\"function\"", "\"functions\""),
        ("HTTP\"", "UDP\""),
        ("sandbox.localdomain", "example.com"),
        ("http://", "https://"),
        (":4243", ":0"),
        (":4243", ":65536"),
        ("?c", " c"),
        ("?c", "\\r\\n"),
        ("\"URI\"", "\"URL\""),
        ("\"types\"", "\"Types\""),
    ] {
        assert!(HTTP.contains(from));
        assert!(parse(&HTTP.replacen(from, to, 1)).is_err(), "{to}");
    }
    assert!(parse(&HTTP.replace("?c", &"x".repeat(300))).is_err());
    assert!(parse("").is_err() && parse("[]").is_err() && parse(&format!("{HTTP}x")).is_err());
}

/// All of a batch, written in pieces of `piece` bytes.
fn deliver(telemetry: &mut Telemetry<'_>, slot: usize, piece: usize) -> String {
    assert!(telemetry.begin(slot, AT));
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        let len = telemetry.fill(slot, &mut buffer);
        if len == 0 {
            return String::from_utf8(all).unwrap();
        }
        all.extend_from_slice(&buffer[..len]);
        telemetry.written(slot, len);
    }
}

fn body(request: &str) -> serde_json::Value {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), body.len());
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_subscriber_is_told_what_was_before_it_and_what_it_asked_for() {
    let mut memory = vec![0; 4096];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.platform(Tag::PlatformNew, AT, "platform.initStart", |writer| writer.push(b"{}"));
    telemetry.platform(Tag::PlatformOld, AT, "platform.end", |writer| writer.push(b"{}"));
    telemetry.line(Tag::Function, AT, b"one \"line\"");
    telemetry.line(Tag::Extension, AT, b"not this one");
    telemetry.subscribe(3, parse(HTTP).unwrap(), Api::Telemetry, 5).unwrap();
    assert!(!telemetry.is_due(3, 25_000_004) && telemetry.is_due(3, 25_000_005));
    assert_eq!(telemetry.next_due_ns(), Some(25_000_005));
    for piece in [1, 7, 10_000] {
        let request = deliver(&mut telemetry, 3, piece);
        assert!(request.starts_with("POST /a/b?c HTTP/1.1\r\nHost: sandbox.localdomain:4243\r\n"));
        let time = "2022-10-12T00:00:00.123Z";
        assert_eq!(
            body(&request),
            serde_json::json!([
                { "time": time, "type": "platform.initStart", "record": {} },
                { "time": time, "type": "function", "record": "one \"line\"" },
            ])
        );
        telemetry.unreachable(3, 0);
        assert!(!telemetry.is_due(3, RETRY_NS - 1));
    }
    deliver(&mut telemetry, 3, 100);
    assert_eq!(telemetry.answered(3, b"HTTP/1.1 2"), Answer::Unfinished);
    assert_eq!(telemetry.answered(3, b"00 OK\r\n"), Answer::Taken);
    assert!(telemetry.is_flushed(u64::MAX));
    assert_eq!(telemetry.next_due_ns(), None);
}

#[test]
fn one_api_excludes_the_other_and_ends_with_the_init_phase() {
    let mut memory = vec![0; 4096];
    let mut telemetry = Telemetry::new(&mut memory);
    let request = parse(TCP).unwrap();
    telemetry.subscribe(0, request, Api::Logs, 0).unwrap();
    assert_eq!(telemetry.subscribe(1, request, Api::Telemetry, 0), Err(SubscribeError::Closed));
    assert_eq!(telemetry.subscribe(0, request, Api::Logs, 0), Err(SubscribeError::Taken));
    telemetry.close();
    assert_eq!(telemetry.subscribe(1, request, Api::Logs, 0), Err(SubscribeError::Closed));
    telemetry.clear();
    telemetry.subscribe(1, request, Api::Telemetry, 0).unwrap();
}

#[test]
fn over_tcp_each_event_is_a_line() {
    let mut memory = vec![0; 4096];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(TCP).unwrap(), Api::Telemetry, 0).unwrap();
    telemetry.line(Tag::Function, AT, b"a");
    telemetry.line(Tag::Function, AT, b"b");
    let text = deliver(&mut telemetry, 0, 9);
    let lines: Vec<serde_json::Value> =
        text.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["record"]), (2, &serde_json::json!("b")));
    assert!(!telemetry.in_flight(0), "what is written is delivered");
}

#[test]
fn whoever_falls_behind_is_told_what_it_lost() {
    let mut memory = vec![0; 1024];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(HTTP).unwrap(), Api::Telemetry, 0).unwrap();
    telemetry.subscribe(1, parse(TCP).unwrap(), Api::Telemetry, 0).unwrap();
    for number in 0..40_u32 {
        telemetry.line(Tag::Function, AT, number.to_string().as_bytes());
        if number % 4 == 3 {
            deliver(&mut telemetry, 1, 100);
        }
    }
    let events = body(&deliver(&mut telemetry, 0, 64));
    let events = events.as_array().unwrap();
    assert_eq!(events[0]["type"], "platform.logsDropped");
    let dropped = events[0]["record"]["droppedRecords"].as_u64().unwrap();
    assert_eq!(dropped + events.len() as u64 - 1, 40);
    assert_eq!(events[1]["record"], dropped.to_string());
    assert!(events[0]["record"]["droppedBytes"].as_u64().unwrap() > dropped * 60);
}

#[test]
fn a_batch_that_the_ring_reaches_is_dropped_whole() {
    let mut memory = vec![0; 1024];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(HTTP).unwrap(), Api::Telemetry, 0).unwrap();
    telemetry.line(Tag::Function, AT, b"first");
    assert!(telemetry.begin(0, AT));
    let mut number = 0;
    while telemetry.in_flight(0) {
        telemetry.line(Tag::Function, AT, b"more");
        number += 1;
        assert!(number < 100);
    }
    assert_eq!(telemetry.fill(0, &mut [0; 64]), 0);
    let events = body(&deliver(&mut telemetry, 0, 64));
    assert_eq!(events[0]["record"]["droppedRecords"], 1);
    assert_eq!(events.as_array().unwrap().len(), number + 1);
}

#[test]
fn a_refused_batch_is_dropped_and_told() {
    let mut memory = vec![0; 1024];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(HTTP).unwrap(), Api::Telemetry, 0).unwrap();
    telemetry.line(Tag::Function, AT, b"a");
    telemetry.flush();
    assert!(telemetry.is_due(0, 0));
    deliver(&mut telemetry, 0, 64);
    assert_eq!(telemetry.answered(0, b"HTTP/1.1 500 x"), Answer::Refused);
    assert!(telemetry.is_due(0, 0) && !telemetry.is_flushed(0));
    let events = body(&deliver(&mut telemetry, 0, 64));
    assert_eq!(events[0]["record"]["reason"], FAILED);
    telemetry.broken(0);
    telemetry.leave(0);
    assert!(!telemetry.has_subscribers());
}

#[test]
fn batches_keep_to_their_limits() {
    let mut memory = vec![0; 1 << 20];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(HTTP).unwrap(), Api::Telemetry, 0).unwrap();
    for _ in 0..1_001 {
        telemetry.line(Tag::Function, AT, b"x");
    }
    assert!(telemetry.is_due(0, 0), "there are as many as a batch may have");
    assert_eq!(body(&deliver(&mut telemetry, 0, 4096)).as_array().unwrap().len(), 1_000);
    telemetry.answered(0, b"HTTP/1.1 200 ");
    assert!(!telemetry.is_due(0, AT.now_ns));
    for _ in 0..20 {
        telemetry.line(Tag::Function, AT, &[b'y'; 16_000]);
    }
    assert!(telemetry.is_due(0, 0), "there are as many bytes as a batch may have");
    let request = deliver(&mut telemetry, 0, 4096);
    assert!(request.len() < 262_144 + 1_024);
    assert!(request.len() > 240_000);
}

#[test]
fn times_and_numbers_have_the_forms_of_the_documents() {
    let written = |write: &dyn Fn(&mut Writer<'_>)| {
        let mut buffer = [0; 64];
        let mut writer = Writer::new(&mut buffer);
        write(&mut writer);
        let len = writer.finish().unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000Z"),
        (4_107_542_399, "2100-02-28T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ] {
        assert_eq!(written(&|writer| events::push_time(writer, seconds * 1_000_000_000)), text);
    }
    for (nanoseconds, text) in [
        (0, "0"),
        (999, "0"),
        (1_000, "0.001"),
        (10_050_000, "10.05"),
        (123_456_789, "123.456"),
        (5_000_000, "5"),
        (5_100_000, "5.1"),
    ] {
        assert_eq!(written(&|writer| events::push_ms(writer, nanoseconds)), text);
    }
}

#[test]
fn lines_are_put_together_and_long_ones_cut() {
    let mut memory = [0; 8];
    let mut lines = lines::Lines::new(&mut memory);
    let mut got: Vec<String> = Vec::new();
    for piece in ["ab", "c\nd\n\n", "0123456789", "\nend"] {
        lines.push(piece.as_bytes(), |line| got.push(String::from_utf8_lossy(line).into()));
    }
    lines.flush(|line| got.push(String::from_utf8_lossy(line).into()));
    assert_eq!(got, ["abc", "d", "", "01234567", "89", "end"]);
}

proptest! {
    #[test]
    fn any_sequence_of_events_and_deliveries_keeps_its_books(
        operations in prop::collection::vec((0_u8..9, 0_usize..3, any::<u8>()), 0..200)
    ) {
        crate::exercise::telemetry(&operations.iter().flat_map(|(a, b, c)| [*a, *b as u8, *c]).collect::<Vec<_>>());
    }
}

#[test]
fn a_flush_ends_with_its_invocation() {
    let mut memory = vec![0; 1024];
    let mut telemetry = Telemetry::new(&mut memory);
    telemetry.subscribe(0, parse(HTTP).unwrap(), Api::Telemetry, 0).unwrap();
    telemetry.flush();
    telemetry.unreachable(0, 0);
    telemetry.end_flush();
    telemetry.line(Tag::Function, AT, b"a");
    assert!(!telemetry.is_due(0, RETRY_NS.min(24_000_000)) && telemetry.is_due(0, 60_000_000));
}
