//! Users, each one's at a time; and a jailer that is a script: what the agent makes of all that it may do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// The first of 400 numbers of this process's own: tests of several processes run at once, and share the host's claims.
fn base() -> u32 {
    100_000_000 + std::process::id() * 400
}

/// A range of a test's own.
fn uids(first: u32, last: u32) -> Uids {
    Uids::new(format!("{first}-{last}").parse().unwrap())
}

#[test]
fn ranges_are_read_as_they_are_written() {
    let range: UidRange = "65536-65545".parse().unwrap();
    assert_eq!((range.count(), range.to_string().as_str()), (10, "65536-65545"));
    assert_eq!("4294967294-4294967294".parse::<UidRange>().unwrap().count(), 1);
    assert_eq!(UidRange::default().to_string().parse(), Ok(UidRange::default()));
    for wrong in [
        "",
        "-",
        "65536",
        "65535-65540",
        "65537-65536",
        "0-4294967295",
        "4294967295-4294967295",
        "+65536-65537",
        "65536-65537-65538",
        "65536-1114112",
    ] {
        assert_eq!(wrong.parse::<UidRange>(), Err(WrongRange), "{wrong}");
    }
}

#[test]
fn a_user_is_nobody_elses_until_it_is_given_back_and_then_the_last_in_turn() {
    let base = base();
    let uids = uids(base, base + 2);
    let [first, second, third] = [(); 3].map(|()| uids.take().unwrap());
    assert_eq!([first.id(), second.id(), third.id()], [base, base + 1, base + 2]);
    let none = uids.take().unwrap_err().to_string();
    assert_eq!(none, format!("no user is left in {base}-{}", base + 2));
    drop(second);
    drop(first);
    assert_eq!(uids.take().unwrap().id(), base);
    assert_eq!(uids.take().unwrap().id(), base + 1);
}

#[test]
fn two_agents_with_one_range_share_no_user() {
    let base = base() + 10;
    let (ours, theirs) = (uids(base, base + 3), uids(base, base + 3));
    // One that was given back is free for the other too.
    assert_eq!(ours.take().unwrap().id(), base);
    assert_eq!(theirs.take().unwrap().id(), base);
    let held = [ours.take(), theirs.take(), ours.take(), theirs.take()].map(Result::unwrap);
    let mut ids = held.each_ref().map(UidGuard::id);
    ids.sort_unstable();
    assert_eq!(ids, [base, base + 1, base + 2, base + 3]);
    assert!(ours.take().is_err() && theirs.take().is_err());
}

/// Executes with a jailer that is this script; gives what becomes of it and the last line of its standard error.
async fn jailed_by(
    script: &str,
    first: u32,
    userfaultfd: bool,
) -> (Result<Ended, JailError>, Uids) {
    let folder = tempfile::tempdir().unwrap();
    let jailer = folder.path().join("jailer");
    fs::write(&jailer, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&jailer, fs::Permissions::from_mode(0o755)).unwrap();
    let jails = Jails { jailer, uids: uids(first, first), userfaultfd };
    let uids = jails.uids.clone();
    let execution = Execution {
        program: Path::new("/bin/sh"),
        arguments: vec![OsString::from("--x")],
        descriptors: vec![tempfile::tempfile().unwrap().into()],
        stderr: tempfile::tempfile().unwrap().into(),
        threads: 9,
        userfaultfd,
    };
    let ended = match Jail::new(jails, None).execute(execution).await {
        Ok(jailed) => Ok(jailed.wait().await.unwrap()),
        Err(error) => Err(error),
    };
    (ended, uids)
}

#[tokio::test]
async fn a_jailer_that_makes_nothing_leaves_nothing() {
    let scripts = [
        "exit 1",
        "exit 0",
        "kill -9 $$",
        // A message, but no descriptor with it.
        "printf 'p\\001\\000\\000\\000' >&5; exit 0",
        "printf 'x\\001\\000\\000\\000' >&5; exit 0",
    ];
    for (first, script) in (base() + 20..).zip(scripts) {
        let (ended, uids) = jailed_by(script, first, false).await;
        assert!(matches!(ended, Err(JailError::Refused)), "{script}: {ended:?}");
        assert!(uids.take().is_ok(), "{script}: the user is not free");
    }
}

#[tokio::test]
async fn a_jailer_that_is_missing_is_named() {
    let jails = Jails::new(Path::new("/nowhere/votive-jailer"), UidRange::default());
    let error = jails.check().unwrap_err().to_string();
    assert_eq!(error, "/nowhere/votive-jailer cannot be used");
}

#[tokio::test]
async fn the_jailers_command_line_has_every_descriptor_once() {
    for (first, userfaultfd, devices) in
        [(base() + 40, false, "--kvm fd:6"), (base() + 41, true, "--kvm fd:6 --userfaultfd fd:7")]
    {
        let folder = tempfile::tempdir().unwrap();
        let line = folder.path().join("line");
        let script = format!("echo \"$@\" > {}; exit 1", line.display());
        let (ended, _uids) = jailed_by(&script, first, userfaultfd).await;
        assert!(ended.is_err());
        let parent = std::process::id();
        let expected = format!(
            "--uid {first} --gid {first} --parent {parent} --name /bin/sh --limit nproc=9 --keep 3-3 --without cgroup \
             --program fd:4 --socket fd:5 {devices} -- --x {devices}\n"
        );
        assert_eq!(fs::read_to_string(line).unwrap(), expected);
    }
}
