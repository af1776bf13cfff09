//! The lines to the letter: other people's parsers read them.

use super::*;

fn report() -> Report {
    Report {
        id: InvocationId([0x11; 16]),
        duration: Duration::from_micros(3_515),
        memory_size_mb: 128,
        memory_used_bytes: 64 * 1024 * 1024 + 1,
        extensions: Duration::ZERO,
        init: Some(Duration::from_micros(181_525)),
        status: Status::Success,
    }
}

const ID: &str = "11111111-1111-1111-1111-111111111111";

#[test]
fn the_report_line_is_that_of_the_contract() {
    assert_eq!(
        report().line(LogFormat::Text, Duration::ZERO),
        format!(
            "REPORT RequestId: {ID}\tDuration: 3.52 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\t\
             Max Memory Used: 65 MB\tInit Duration: 181.53 ms\t"
        )
    );
    let report = Report { init: None, status: Status::Timeout, ..report() };
    let line = report.line(LogFormat::Text, Duration::ZERO);
    assert!(line.ends_with("Max Memory Used: 65 MB\tStatus: timeout\t"), "{line}");
    let report =
        Report { status: Status::Error(String::from("Runtime.X\tInjected: 1\n")), ..report };
    let line = report.line(LogFormat::Text, Duration::ZERO);
    assert!(line.ends_with("Status: error\tError Type: Runtime.XInjected: 1\t"), "{line}");
}

#[test]
fn what_is_billed_is_rounded_up_to_a_millisecond() {
    for (nanoseconds, billed) in
        [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2), (3_000_000_000, 3000)]
    {
        let report = Report { duration: Duration::from_nanos(nanoseconds), ..report() };
        assert_eq!(report.billed_ms(), billed, "{nanoseconds} ns");
    }
}

#[test]
fn a_guest_cannot_claim_more_memory_than_it_has() {
    let report = Report { memory_used_bytes: u64::MAX, ..report() };
    assert_eq!(report.memory_used_mb(), 128);
}

#[test]
fn json_lines_hold_the_same_figures() {
    let line = report().line(LogFormat::Json, Duration::from_millis(1_700_000_000_123));
    let object: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        object,
        json!({
            "time": "2023-11-14T22:13:20.123Z",
            "type": "platform.report",
            "record": {
                "requestId": ID,
                "status": "success",
                "metrics": {
                    "durationMs": 3.515,
                    "billedDurationMs": 4,
                    "memorySizeMB": 128,
                    "maxMemoryUsedMB": 65,
                    "initDurationMs": 181.525,
                },
            },
        })
    );
}

#[test]
fn the_other_lines_are_those_of_the_contract() {
    let id = report().id;
    let time = Duration::ZERO;
    let text = LogFormat::Text;
    assert_eq!(
        start_line(id, "$LATEST", text, time),
        format!("START RequestId: {ID} Version: $LATEST")
    );
    assert_eq!(end_line(&report(), text, time), format!("END RequestId: {ID}"));
    let init = InitReport {
        duration: Duration::from_micros(9_999_990),
        inside_invocation: false,
        timed_out: true,
        error_type: String::new(),
    };
    assert_eq!(
        init_report_line(&init, text, time),
        "INIT_REPORT Init Duration: 9999.99 ms\tPhase: init\tStatus: timeout"
    );
}
