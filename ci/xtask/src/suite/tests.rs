//! Tests of reading the counts of test runners.

use std::process::Command;

use super::{Counts, Stdout, counted, counts_in};

#[test]
fn counts_of_both_runners_are_read() {
    let counts = |passed, failed| Counts { passed, failed };
    let libtest = "test result: FAILED. 8 passed; 2 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s";
    assert_eq!(counts_in(libtest), counts(8, 2));
    let nextest = "     Summary [   0.028s] 21 tests run: 18 passed (1 slow), 2 failed, 1 timed out, 4 skipped";
    assert_eq!(counts_in(nextest), counts(18, 3));
    assert_eq!(counts_in("     Summary [   0.028s] 1 test run: 1 passed, 0 skipped"), counts(1, 0));
    assert_eq!(counts_in("4 passed by the window"), counts(0, 0));
}

#[test]
fn what_failed_without_a_count_is_one_failure() {
    let none = Counts::default();
    assert_eq!(none.or_failed(false).failed, 1);
    assert_eq!(none.or_failed(true).failed, 0);
    assert_eq!(Counts { passed: 1, failed: 3 }.or_failed(false).failed, 3);
}

#[test]
fn a_runners_output_is_added_up_and_its_status_kept() {
    let mut command = Command::new("sh");
    let line = "test result: ok. 2 passed; 0 failed; 0 ignored";
    command.args(["-c", &format!("echo '{line}'; echo; echo '{line}'; exit 4")]);
    let (counts, ok) = counted(&mut command, Stdout::Read).unwrap();
    assert_eq!((counts.passed, counts.failed, ok), (4, 0, false));
}
