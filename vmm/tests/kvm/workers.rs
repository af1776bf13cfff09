//! A device's worker that dies ends the microVM: nothing waits for ever for a disk that nobody serves.

use std::os::fd::RawFd;

use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::guest::{Guest, IDLE, mark};

/// Makes every event descriptor of a process refuse to be waited for, and wakes whoever waits for one at this moment.
///
/// A descriptor's flags belong to what it opens, so they are changed by way of a copy of it.
fn spoil_events(pid: u32) -> usize {
    let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let process = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let mut spoiled = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        if !target.to_string_lossy().contains("[eventfd]") {
            continue;
        }
        let number: RawFd = entry.file_name().to_str().unwrap().parse().unwrap();
        let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap();
        let flags = rustix::fs::fcntl_getfl(&copy).unwrap();
        rustix::fs::fcntl_setfl(&copy, flags | OFlags::NONBLOCK).unwrap();
        rustix::io::write(&copy, &1_u64.to_ne_bytes()).unwrap();
        spoiled += 1;
    }
    spoiled
}

#[test]
fn a_disks_worker_that_cannot_wait_any_more_ends_the_process_with_5() {
    let guest = Guest::new(&[&mark(1), &IDLE]);
    let disk = guest.file("disk");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = format!("path={}", disk.display());
    let running = guest.with(&["--disk", &disk]).start();
    assert!(spoil_events(running.pid()) > 2, "the disk's, the entropy device's, the exit's");
    let reason =
        "device worker died: disk 0: wait for notifications of block: Resource temporarily";
    running.wait().is(5, reason);
}
