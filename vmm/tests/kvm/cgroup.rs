//! Joining a control group, with a plain file in the place of the kernel's: what is written to it, and when.

use crate::guest::{Guest, stop};

#[test]
fn the_process_joins_before_it_opens_anything() {
    let guest = Guest::new(&[&stop(0)]);
    let procs = guest.file("cgroup.procs");
    std::fs::write(&procs, b"").unwrap();
    let guest = guest.with(&["--cgroup", procs.to_str().unwrap()]);
    guest.run().is(0, "guest powered off");
    assert_eq!(std::fs::read(&procs).unwrap(), b"0");

    std::fs::write(&procs, b"").unwrap();
    std::fs::remove_file(guest.file("kernel")).unwrap();
    guest.run().is(1, "cannot open kernel");
    assert_eq!(std::fs::read(&procs).unwrap(), b"0");
}

#[test]
fn a_group_that_cannot_be_joined_ends_with_1() {
    let guest = Guest::new(&[&stop(0)]);
    let absent = guest.file("cgroup.procs");
    let guest = guest.with(&["--cgroup", absent.to_str().unwrap()]);
    guest.run().is(1, "--cgroup: No such file");
    assert!(!absent.exists(), "a group is not made by the one who joins it");
    Guest::new(&[&stop(0)]).with(&["--cgroup", "/dev/full"]).run().is(1, "--cgroup: ");
}
