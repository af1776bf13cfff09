//! The probe's words, and the probe itself on whatever this host has.

use super::*;

#[test]
fn the_words_are_those_that_the_doctor_reads() {
    assert_eq!(Kind::Native { loop_ns: 7 }.to_string(), "kvm=native loop_ns=7");
    assert_eq!(Kind::Emulated { loop_ns: 8 }.to_string(), "kvm=emulated loop_ns=8");
    assert_eq!(Kind::Absent.to_string(), "kvm=absent");
    assert_eq!(Kind::NoPermission.to_string(), "kvm=no-permission");
    let error = ProbeError::Kvm { call: "KVM_RUN", source: errno::Error::new(libc::EIO) };
    let words = Kind::Failed(error).to_string();
    assert!(words.starts_with("kvm=failed error=KVM_RUN: "), "{words}");
}

#[test]
fn an_open_that_fails_is_told_apart() {
    assert!(matches!(unopened(errno::Error::new(libc::ENOENT)), Kind::Absent));
    assert!(matches!(unopened(errno::Error::new(libc::EACCES)), Kind::NoPermission));
    assert!(matches!(unopened(errno::Error::new(libc::EIO)), Kind::Failed(_)));
}

#[test]
fn where_kvm_opens_the_loop_runs_to_its_end() {
    match probe() {
        Kind::Native { loop_ns } => assert!(loop_ns <= EMULATED_NS),
        Kind::Emulated { loop_ns } => assert!(loop_ns > EMULATED_NS),
        Kind::Absent | Kind::NoPermission => assert!(Kvm::new().is_err()),
        Kind::Failed(error) => panic!("{error}"),
    }
}
