//! Tests of following a run, with frames made by hand.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::{OUTPUT_MAX, Record, next};
use crate::error::Error;
use crate::frame::{BODY_MAX, Kind};
use crate::job::{Job, Stream};

#[test]
fn output_and_results_end_up_where_they_belong() {
    let mut seen = Vec::new();
    let mut record = Record::default();
    let frames: [(Kind, &[u8]); 7] = [
        (Kind::Stdout, b"out"),
        (Kind::Stderr, b"err"),
        (Kind::Alive, b""),
        (Kind::ResultBegins, b"/tmp/empty"),
        (Kind::ResultBegins, b"/tmp/r"),
        (Kind::ResultData, b"one "),
        (Kind::ResultData, b"two"),
    ];
    for (kind, body) in frames {
        let mut sink = |stream, bytes: &[u8]| seen.push((stream, bytes.to_vec()));
        assert_eq!(record.take((kind, body.to_vec()), &mut sink).unwrap(), None);
    }
    let exit = record.take((Kind::Exit, 3_i32.to_le_bytes().to_vec()), &mut |_, _| {}).unwrap();
    let outcome = record.finish(exit.unwrap(), Duration::ZERO);
    assert_eq!(seen, [(Stream::Stdout, b"out".to_vec()), (Stream::Stderr, b"err".to_vec())]);
    assert_eq!((outcome.exit, outcome.stdout.as_slice()), (3, b"out".as_slice()));
    assert_eq!(outcome.results[Path::new("/tmp/r")], b"one two");
    assert_eq!(outcome.results[Path::new("/tmp/empty")], b"");
}

#[test]
fn a_command_that_never_stops_writing_is_stopped() {
    let mut record = Record::default();
    let mut taken = 0;
    let error = loop {
        match record.take((Kind::Stderr, vec![0; BODY_MAX]), &mut |_, _| {}) {
            Ok(_) => taken += BODY_MAX,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Output(OUTPUT_MAX)));
    assert_eq!(taken, OUTPUT_MAX);
}

#[test]
fn data_without_a_file_and_odd_exit_codes_are_refused() {
    let mut record = Record::default();
    assert!(record.take((Kind::ResultData, vec![1]), &mut |_, _| {}).is_err());
    assert!(record.take((Kind::Exit, vec![1]), &mut |_, _| {}).is_err());
    let refused = record.take((Kind::Refused, b"no /dev/kvm".to_vec()), &mut |_, _| {});
    assert_eq!(refused.unwrap_err().to_string(), "L1 could not run the command: no /dev/kvm");
}

#[test]
fn a_job_past_its_time_and_a_machine_that_is_gone_are_told_apart() {
    let (sender, receiver) = sync_channel(1);
    let mut job = Job::new(["true"]);
    job.timeout = Duration::ZERO;
    assert!(matches!(next(&receiver, &job, Instant::now()), Err(Error::Timeout(_))));
    drop(sender);
    job.timeout = Duration::from_secs(60);
    assert!(matches!(next(&receiver, &job, Instant::now()), Err(Error::Ended)));
}
