//! The parts of a start that need no process.

use core::sync::atomic::AtomicU32;

use rustix::io::Errno;
use rustix::process::Pid;
use votive_protocol::FaultCode;

use super::{Child, POINTERS_MAX, look_up, point_at, put};

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
        // The disk failed, which proves nothing against what is on it.
        (1 << 16 | 5, FaultCode::System, 5),
        (2 << 16 | 5, FaultCode::System, 5),
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

/// Looks `name` up where only the paths that are listed are there, each with what executing it comes to; gives the result and
/// what was tried.
fn looked_up(name: &str, variables: &str, there: &[(&str, Errno)]) -> (Errno, Vec<String>) {
    let mut tried = Vec::new();
    let name = std::ffi::CString::new(name).unwrap();
    let errno = look_up(&name, variables.as_bytes(), |path| {
        let path = path.to_str().unwrap();
        tried.push(path.to_owned());
        there.iter().find(|(one, _)| *one == path).map_or(Errno::NOENT, |(_, errno)| *errno)
    });
    (errno, tried)
}

#[test]
fn a_path_is_executed_as_it_is_and_a_name_is_looked_for() {
    let path = "PATH=/a:/b\0";
    for (name, tried) in [
        ("/x/app", vec!["/x/app"]),
        ("./app", vec!["./app"]),
        ("", vec![""]),
        ("app", vec!["/a/app", "/b/app"]),
    ] {
        assert_eq!(looked_up(name, path, &[]), (Errno::NOENT, owned(&tried)), "{name:?}");
    }
    // An empty folder is the working directory; without a PATH there are the system's.
    let tried = ["./app", "/a/app", "./app"];
    assert_eq!(looked_up("app", "PATH=:/a:\0", &[]).1, owned(&tried));
    assert_eq!(looked_up("app", "PATH=\0", &[]).1, owned(&["./app"]));
    assert_eq!(looked_up("app", "A=1\0", &[]).1, owned(&["/usr/bin/app", "/bin/app"]));
}

#[test]
fn what_may_not_be_executed_is_passed_over_and_told_of_last() {
    let path = "PATH=/a:/b:/c\0";
    let denied = [("/a/app", Errno::ACCESS)];
    let all = owned(&["/a/app", "/b/app", "/c/app"]);
    assert_eq!(looked_up("app", path, &denied), (Errno::ACCESS, all.clone()));
    assert_eq!(looked_up("app", path, &[("/b/app", Errno::NOTDIR)]), (Errno::NOENT, all));
    // Anything else is the program's own failure, or the disk's.
    for errno in [Errno::NOEXEC, Errno::IO, Errno::TOOBIG] {
        let there = [("/a/app", Errno::ACCESS), ("/b/app", errno)];
        assert_eq!(looked_up("app", path, &there), (errno, owned(&["/a/app", "/b/app"])));
    }
}

#[test]
fn a_folder_that_is_too_long_is_passed_over() {
    let path = format!("PATH=/{}:/b\0", "x".repeat(5000));
    assert_eq!(looked_up("app", &path, &[]), (Errno::NOENT, owned(&["/b/app"])));
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}
