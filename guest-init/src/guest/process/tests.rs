//! The parts of a start that need no process.

use core::sync::atomic::AtomicU32;

use rustix::process::Pid;
use votive_protocol::FaultCode;

use super::{Child, POINTERS_MAX, point_at, put};

fn child(failure: u32) -> Child {
    let failure = Box::leak(Box::new(AtomicU32::new(failure)));
    Child { pid: Pid::INIT, failure }
}

#[test]
fn a_child_that_became_the_runtime_has_no_problem() {
    assert_eq!(child(0).problem(), None);
}

#[test]
fn a_child_says_what_it_failed_at() {
    for (failure, code, errno) in [
        (1 << 16 | 2, FaultCode::InvalidWorkingDirectory, 2),
        (2 << 16 | 13, FaultCode::InvalidEntrypoint, 13),
        (3 << 16 | 1, FaultCode::System, 1),
    ] {
        let problem = child(failure).problem().unwrap();
        assert_eq!((problem.code, problem.errno), (code, errno));
    }
}

#[test]
fn strings_are_pointed_at_and_a_null_stays_behind_them() {
    let list = b"A=1\0\0B=2\0";
    let mut pointers = [core::ptr::null(); POINTERS_MAX];
    assert!(point_at(list, &mut pointers));
    assert_eq!(pointers[..3], [&raw const list[0], &raw const list[4], &raw const list[5]]);
    assert!(pointers[3].is_null());

    let full = vec![0; POINTERS_MAX - 1];
    let mut pointers = [core::ptr::null(); POINTERS_MAX];
    assert!(point_at(&full, &mut pointers) && pointers[POINTERS_MAX - 1].is_null());
    let one_more = vec![0; POINTERS_MAX];
    let mut pointers = [core::ptr::null(); POINTERS_MAX];
    assert!(!point_at(&one_more, &mut pointers));
}

#[test]
fn paths_are_put_together_within_their_buffer() {
    let mut path = [0; 16];
    assert_eq!(put(&mut path, &[b"/usr/bin", b"/", b"node"]), Some(c"/usr/bin/node"));
    assert_eq!(put(&mut path, &[b"/usr/local/bin", b"/", b"node"]), None);
    assert_eq!(put(&mut path, &[b"a\0b"]), None);
    assert_eq!(put(&mut path, &[b"123456789012345"]), Some(c"123456789012345"));
    assert_eq!(put(&mut path, &[b"1234567890123456"]), None);
}
