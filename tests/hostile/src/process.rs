//! What the kernel knows of a process: memory, processor time, and its end.

use std::fs;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How often memory and time are looked at while a process runs.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// The kernel's unit of processor time in `/proc/PID/stat`, in milliseconds (`USER_HZ`).
const TICK_MS: u64 = 10;

/// What a process used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Largest resident memory in KiB, the guest's included.
    pub peak_kib: u64,
    /// Processor time of all threads in milliseconds.
    pub cpu_ms: u64,
}

impl Usage {
    /// Looks at a process. `None` when it is gone, or has ended and only its status is left.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let peak_kib = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times =
            fields.split_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
        let cpu_ms = (times.next()? + times.next()?) * TICK_MS;
        Some(Self { peak_kib, cpu_ms })
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { peak_kib: self.peak_kib.max(other.peak_kib), cpu_ms: self.cpu_ms.max(other.cpu_ms) }
    }
}

/// Nanoseconds that the threads of a process ran, but for its vCPUs': what serving a guest costs, however long the guest waits.
#[must_use]
pub fn device_ns(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let ran = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let task = task.ok()?.path();
        if fs::read_to_string(task.join("comm")).ok()?.contains("vcpu") {
            return None;
        }
        fs::read_to_string(task.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    tasks.filter_map(ran).sum()
}

/// Calls of the read and write kind that a process made, as the kernel counts them (`/proc/PID/io`): what serving a guest costs,
/// on any machine the same.
#[must_use]
pub fn calls(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let number = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    number("syscr:").unwrap_or_default() + number("syscw:").unwrap_or_default()
}

/// How a process ended, and what it used before.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// The kernel's word for it; `None` when it had to be killed.
    pub status: Option<ExitStatus>,
    /// What was seen of it last.
    pub usage: Usage,
    /// How long it was waited for.
    pub took: Duration,
}

/// Waits for the end of `child`, `limit` at most, and kills it then.
///
/// # Errors
/// The kernel does not let us wait.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Ended> {
    let start = Instant::now();
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("watching a VMM")?;
    let mut usage = Usage::default();
    let interval =
        Timespec { tv_sec: 0, tv_nsec: i64::try_from(SAMPLE_EVERY.as_nanos()).unwrap_or_default() };
    loop {
        usage = Usage::of(child.id()).unwrap_or_default().max(usage);
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&interval))? > 0;
        let took = start.elapsed();
        if ended {
            return Ok(Ended { status: Some(child.wait()?), usage, took });
        }
        if took > limit {
            child.kill()?;
            child.wait()?;
            return Ok(Ended { status: None, usage, took });
        }
    }
}
