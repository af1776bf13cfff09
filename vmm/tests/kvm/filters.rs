//! Every thread of a running microVM has its filter.

use std::fs;

use crate::guest::{Guest, IDLE, Running, mark};

/// Name, kind of seccomp and number of filters of each thread, and whether new rights are renounced.
fn threads(running: &Running) -> Vec<(String, String, usize, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap();
    let mut threads: Vec<_> = tasks
        .map(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.map(|value| value.trim().to_owned()).unwrap_or_default()
            };
            let filters = field("Seccomp_filters:").parse().unwrap();
            (field("Name:"), field("Seccomp:"), filters, field("NoNewPrivs:"))
        })
        // The kernel's own, which some hosts' KVM has in a microVM's process.
        .filter(|(name, ..)| !name.starts_with("kvm-"))
        .collect();
    threads.sort();
    threads
}

#[test]
fn each_kind_of_thread_has_its_filter_while_the_guest_runs() {
    let guest = Guest::shaped(&[&mark(1), &IDLE], 2);
    let disk = guest.file("disk");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = format!("path={}", disk.display());
    let guest = guest.with(&["--disk", &disk, "--disk", &disk, "--vsock", "cid=3"]);
    for how in ["demand", "mapped", "copied"] {
        let running = guest.start_with(&["--kernel-memory", how]);
        // What this process may have of its own is inherited.
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        let own: usize = own.unwrap().trim().parse().unwrap();
        let thread = |name: &str, filters: usize| {
            (name.to_owned(), "2".to_owned(), own + filters, "1".to_owned())
        };
        let expected = [
            thread("disk0", 1),
            thread("disk1", 1),
            thread("vcpu0", 1),
            thread("vcpu1", 1),
            // Both of its stages.
            thread("votive-vmm", 2),
        ];
        assert_eq!(threads(&running), expected, "{how}");
        running.signal("TERM");
        running.wait().is(143, "signal 15");
    }
}
