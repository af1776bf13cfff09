//! Tests of running programs, with the shell as the program.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{exists, logged, output, shown};

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn failures_repeat_the_end_of_what_was_said() {
    assert_eq!(output(&mut shell("echo fine")).unwrap(), "fine\n");
    let error = output(&mut shell("echo why >&2; exit 3")).unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    let log = tempfile::NamedTempFile::new().unwrap();
    let script = "seq 1 1000; exit 1";
    let error = logged(&mut shell(script), log.path()).unwrap_err().to_string();
    assert!(error.ends_with("\n999\n1000") && !error.contains("\n900\n"), "{error}");
}

#[test]
fn a_program_that_does_not_end_is_ended() {
    let start = Instant::now();
    let error = shown(&mut shell("exec sleep 600"), Duration::from_millis(200)).unwrap_err();
    assert!(error.to_string().contains("did not end"), "{error}");
    assert!(start.elapsed() < LONG);
}

#[test]
fn programs_are_found_by_name() {
    assert!(exists("sh"));
    assert!(!exists("no-such-program-of-votive"));
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("mkfs.erofs");
    let error = output(command.env("PATH", folder.path())).unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.starts_with("cannot start `mkfs.erofs`; it is in Debian's package erofs-utils: "),
        "{said}"
    );
}
