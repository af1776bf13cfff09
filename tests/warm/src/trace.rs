//! Where the instructions of an invocation go: the kernel's own record of who ran when, for a person to read.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

const FOLDER: &str = "/sys/kernel/tracing";
/// Who runs, when the guest does, and every system call.
const EVENTS: [&str; 7] = [
    "sched/sched_switch",
    "sched/sched_waking",
    "kvm/kvm_entry",
    "kvm/kvm_exit",
    "raw_syscalls/sys_enter",
    "raw_syscalls/sys_exit",
    "irq_vectors/local_timer_entry",
];

/// Begins to record.
///
/// # Errors
/// tracefs is not mounted.
pub fn start() -> anyhow::Result<()> {
    set("tracing_on", "0")?;
    set("trace_clock", "mono")?;
    set("buffer_size_kb", "65536")?;
    set("trace", "")?;
    for event in EVENTS {
        set(&format!("events/{event}/enable"), "1")?;
    }
    set("tracing_on", "1")
}

/// Ends the record and writes it to `file`.
///
/// # Errors
/// As for [`start`], or the file cannot be written.
pub fn stop(file: &Path) -> anyhow::Result<()> {
    set("tracing_on", "0")?;
    set("events/enable", "0")?;
    fs::write(file, fs::read(format!("{FOLDER}/trace"))?).context("writing the trace")
}

fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("{FOLDER}/{name}");
    fs::write(&path, value).with_context(|| format!("writing {value:?} to {path}"))
}
