//! What a start leaves in its marks, and what it costs in memory.

use std::fs;

use crate::guest::{Guest, IDLE, mark, stop};

#[test]
fn marks_tell_a_start_in_order_and_stop_at_sixty_four() {
    let many = [[0xb9, 200, 0, 0, 0].as_slice(), &mark(5), &[0xe2, 0xfa]].concat();
    let guest = Guest::new(&[&mark(1), &many, &stop(0)]);
    let file = guest.file("marks");
    let guest = guest.with(&["--marks", file.to_str().unwrap()]);
    guest.run().is(0, "guest powered off");
    let text = fs::read_to_string(file).unwrap();
    let marks: Vec<(&str, u64)> = text
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, ns)| (name, ns.parse().unwrap()))
        .collect();
    let names: Vec<&str> = marks.iter().map(|(name, _)| *name).collect();
    assert_eq!(names[..5], ["start", "machine", "run", "guest-0x01", "guest-0x05"]);
    assert_eq!(names.len(), 3 + 64);
    assert!(marks.is_sorted_by_key(|(_, ns)| *ns), "{text}");
}

/// What one process has written for itself alone, beside its guest's memory, in KiB. Pages of the program that it
/// only reads are not counted: they are the page cache's.
fn own_memory_kib(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut own = 0;
    let mut guests = false;
    for line in maps.lines() {
        let field =
            |name: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
        if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            guests = to - from >= 1 << 20 && !line.contains('/') && !line.contains('[')
                || line.ends_with("/kernel");
        }
        if !guests {
            own += field("Anonymous:").unwrap_or_default();
        }
    }
    own
}

#[test]
fn a_running_machine_keeps_little_memory_of_its_own() {
    let guest = Guest::shaped(&[&mark(1), &IDLE], 4).with(&["--vsock", "cid=3"]);
    let running = guest.start();
    let own = own_memory_kib(running.pid());
    running.signal("TERM");
    running.wait().is(143, "signal 15");
    assert!(own > 50, "{own} KiB: the sum misses something");
    assert!(own <= 1024, "{own} KiB");
}

#[test]
fn the_largest_machine_starts() {
    let guest = Guest::shaped(&[&stop(0)], 32).without_memory().with(&["--memory-mib", "10752"]);
    guest.run().is(0, "guest powered off");
}

#[test]
fn a_kernel_runs_however_it_gets_into_memory() {
    for how in ["demand", "mapped", "copied"] {
        let guest = Guest::new(&[&stop(7)]).with(&["--kernel-memory", how]);
        guest.run().is(3, "guest stopped with code 7");
    }
}

#[test]
fn nothing_fills_memory_any_more_once_the_guest_has_written_its_first_mark() {
    let guest = Guest::shaped(&[&mark(1), &IDLE], 2).with(&["--kernel-memory", "demand"]);
    let running = guest.start();
    let process = format!("/proc/{}", running.pid());
    let descriptors = fs::read_dir(format!("{process}/fd")).unwrap();
    let open: Vec<_> =
        descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(open.iter().any(|path| path.ends_with("anon_inode:kvm-vm")), "{open:?}");
    let faults = |path: &&std::path::PathBuf| path.to_string_lossy().contains("userfaultfd");
    assert_eq!(open.iter().find(faults), None);
    // `um`: accesses to missing pages of this mapping are caught.
    let maps = fs::read_to_string(format!("{process}/smaps")).unwrap();
    let caught = |line: &&str| line.starts_with("VmFlags:") && line.contains(" um");
    assert!(maps.contains("VmFlags:"));
    assert_eq!(maps.lines().find(caught), None);
    running.signal("TERM");
    running.wait().is(143, "signal 15");
}
