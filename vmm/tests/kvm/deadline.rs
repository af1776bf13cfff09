//! Deadlines: whatever the guest does, and whatever its VMM is waiting for, the process is gone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use votive_vmm::deadline::{GRACE_NS, boottime_ns};

use crate::guest::{Control, End, Guest, IDLE, PATIENCE, full_pipe, mark, program, stop};

const BUSY: [u8; 2] = [0xeb, 0xfe];

/// `--deadline` so far from now, and when that is.
fn deadline(after: Duration) -> (u64, String) {
    let at = boottime_ns() + u64::try_from(after.as_nanos()).unwrap();
    (at, at.to_string())
}

/// The end came at the deadline: not before it, and within what a busy host may take beyond it.
fn assert_ended_at(at: u64, end: &End) {
    end.is(6, "deadline passed");
    let late =
        Duration::from_nanos(boottime_ns().checked_sub(at).expect("not before the deadline"));
    assert!(late < PATIENCE, "{late:?} late");
}

#[test]
fn a_deadline_ends_a_running_a_halted_and_a_paused_guest() {
    for code in [&BUSY[..], &IDLE] {
        for paused in [false, true] {
            let (at, text) = deadline(Duration::from_millis(300));
            let guest = Guest::new(&[&mark(1), code]).with(&["--deadline", &text]);
            let (running, control) = guest.spawn_controlled();
            if paused {
                control.pause();
            }
            assert_ended_at(at, &running.wait());
        }
    }
}

#[test]
fn a_deadline_ends_a_guest_of_many_vcpus() {
    let (at, text) = deadline(Duration::from_millis(300));
    let guest = Guest::shaped(&[&mark(1), &BUSY], 8).with(&["--deadline", &text]);
    assert_ended_at(at, &guest.run());
}

#[test]
fn a_deadline_that_has_passed_runs_no_guest() {
    for text in ["1".to_owned(), (boottime_ns() - 1).to_string()] {
        let guest = Guest::new(&[&stop(0)]).with(&["--deadline", &text]);
        guest.run().is(6, "deadline passed");
    }
}

#[test]
fn a_guest_that_ends_before_its_deadline_ends_as_without_one() {
    let (_, text) = deadline(Duration::from_secs(3600));
    Guest::new(&[&stop(0)]).with(&["--deadline", &text]).run().is(0, "guest powered off");
    let farthest = i64::MAX.to_string();
    Guest::new(&[&stop(7)]).with(&["--deadline", &farthest]).run().is(3, "code 7");
}

#[test]
fn an_end_that_nobody_hears_is_an_end() {
    // Standard error is a pipe that is full, whose reader never reads: the line that says why cannot be written.
    let (at, text) = deadline(Duration::from_millis(300));
    let busy = Guest::new(&[&BUSY]).with(&["--deadline", &text]);
    let off = Guest::new(&[&stop(0)]);
    for (guest, code) in [(&busy, 6), (&off, 0)] {
        let since = Instant::now();
        let status = program(guest.arguments()).stderr(Stdio::from(full_pipe())).status().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(since.elapsed() < PATIENCE);
    }
    assert!(boottime_ns() >= at + GRACE_NS, "it did not wait for the line to be read");
}

#[test]
fn an_end_whose_reader_is_gone_keeps_its_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = program(Guest::new(&[&stop(7)]).arguments()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

#[test]
fn a_stopped_process_is_gone_as_soon_as_it_runs_again() {
    let (at, text) = deadline(Duration::from_millis(300));
    let guest = Guest::new(&[&mark(1), &BUSY]).with(&["--deadline", &text]);
    let (running, _control): (_, Control) = guest.start_controlled();
    running.signal("STOP");
    while boottime_ns() < at + GRACE_NS {
        std::thread::yield_now();
    }
    running.signal("CONT");
    let end = running.wait();
    assert_eq!(end.code, Some(6), "{end:?}");
}

#[test]
fn signals_that_the_parent_blocked_or_ignored_do_not_matter() {
    // dash has no way to block a signal, but to ignore one: kicks and alarms must come through all the same.
    let (at, text) = deadline(Duration::from_millis(300));
    let guest = Guest::new(&[&BUSY]).with(&["--deadline", &text]);
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' ALRM; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_votive-vmm")])
        .args(guest.arguments())
        .stderr(full_pipe())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(boottime_ns() >= at + GRACE_NS);
}
