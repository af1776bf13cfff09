//! Facts about exit reasons.

use std::sync::Arc;

use super::{Exit, ExitReason, one_line};

#[test]
fn only_a_power_off_has_exit_code_zero() {
    let reasons = [
        (ExitReason::PoweredOff, 0),
        (ExitReason::GuestStopped { code: 0xff }, 3),
        (ExitReason::TripleFault { vcpu: 1 }, 3),
        (ExitReason::VcpuFailed { vcpu: 0, failure: "x".into() }, 4),
        (ExitReason::WorkerDied { what: "x".into() }, 5),
        (ExitReason::DeadlinePassed, 6),
        (ExitReason::ControlClosed, 7),
        (ExitReason::Signal { number: 15 }, 143),
    ];
    for (reason, code) in reasons {
        assert_eq!(reason.code(), code, "{reason}");
    }
}

#[test]
fn a_failure_is_never_replaced_by_a_later_power_off() {
    let exit = Exit::new().unwrap();
    exit.end(ExitReason::TripleFault { vcpu: 2 });
    exit.end(ExitReason::PoweredOff);
    assert_eq!(exit.reason(), Some(ExitReason::TripleFault { vcpu: 2 }));
}

#[test]
fn whoever_is_woken_finds_the_reason() {
    for _ in 0..200 {
        let exit = Arc::new(Exit::new().unwrap());
        let other = Arc::clone(&exit);
        let thread = std::thread::spawn(move || other.end(ExitReason::GuestStopped { code: 7 }));
        while exit.event().read().is_err() {
            std::hint::spin_loop();
        }
        assert_eq!(exit.reason(), Some(ExitReason::GuestStopped { code: 7 }));
        thread.join().unwrap();
    }
}

#[test]
fn an_error_is_told_with_all_its_causes_on_one_line() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot boot")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("cannot read")]
    struct Inner(#[source] std::io::Error);
    let error = Outer(Inner(std::io::Error::other("no such page")));
    assert_eq!(one_line(&error), "cannot boot: cannot read: no such page");
}
