//! The instrument of the exact benchmarks: KVM's own tracepoints, the same for every VMM.
//!
//! The kernel stamps `kvm_entry` when a vCPU enters the guest and `kvm_pio` when a guest accesses a port, on the clock that
//! [`crate::clock::monotonic_ns`] reads. No VMM needs to cooperate, and only the events of a run that are asked for are on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The port on which `votive-init` says that it was entered.
pub const MARK_PORT: u16 = 0xf4;

/// An event to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vCPU enters the guest.
    GuestEntry,
    /// The guest writes to [`MARK_PORT`].
    Mark,
}

impl Event {
    fn folder(self) -> &'static str {
        match self {
            Self::GuestEntry => "events/kvm/kvm_entry",
            Self::Mark => "events/kvm/kvm_pio",
        }
    }

    fn filter(self) -> String {
        match self {
            Self::GuestEntry => "0".to_owned(),
            // kvm_pio's field `rw` is 1 for a write.
            Self::Mark => format!("port == {MARK_PORT} && rw == 1"),
        }
    }
}

/// A trace with one event on. Turned off when dropped.
pub struct Trace {
    instance: PathBuf,
    event: Event,
    pipe: BufReader<File>,
}

impl Trace {
    /// Turns `event` on, and every other event off.
    ///
    /// # Errors
    /// tracefs is not mounted at `/sys/kernel/tracing`, KVM is not loaded, or this is not root.
    pub fn start(event: Event) -> anyhow::Result<Self> {
        let instance = PathBuf::from("/sys/kernel/tracing");
        let set = |file: &str, value: &str| {
            let path = instance.join(file);
            fs::write(&path, value)
                .with_context(|| format!("writing {value:?} to {}", path.display()))
        };
        set("tracing_on", "0")?;
        set("trace", "")?;
        set("trace_clock", "mono")?;
        set("events/enable", "0")?;
        set(&format!("{}/filter", event.folder()), &event.filter())?;
        set(&format!("{}/enable", event.folder()), "1")?;
        let path = instance.join("trace_pipe");
        let pipe = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        set("tracing_on", "1")?;
        Ok(Self { instance, event, pipe: BufReader::new(pipe) })
    }

    /// Waits for the event and gives its time in nanoseconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// `failure` says that there will be none, or `timeout` passes.
    pub fn wait(
        &mut self,
        timeout: Duration,
        mut failure: impl FnMut() -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<u64> {
        let deadline_ns = crate::clock::monotonic_ns() + u64::try_from(timeout.as_nanos())?;
        loop {
            let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let pipe = self.pipe.get_ref();
            let ready = poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&wait))?;
            if ready > 0 {
                let mut line = String::new();
                self.pipe.read_line(&mut line).context("reading the trace")?;
                if let Some(at_ns) = parse_time(&line) {
                    return Ok(at_ns);
                }
            } else if let Some(failure) = failure()? {
                bail!("ended with {failure} before {:?} was seen", self.event);
            } else if crate::clock::monotonic_ns() > deadline_ns {
                bail!("{:?} was not seen within {timeout:?}", self.event);
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        for (file, value) in [("tracing_on", "0"), ("events/enable", "0"), ("trace", "")] {
            if let Ok(mut file) = File::options().write(true).open(self.instance.join(file)) {
                // The next run sets all of this again, and says so if it cannot.
                let _ = file.write_all(value.as_bytes());
            }
        }
    }
}

/// The time of a line of `trace_pipe`, `TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: EVENT: ...`, in nanoseconds.
fn parse_time(line: &str) -> Option<u64> {
    let stamp = line.split_ascii_whitespace().find_map(|word| {
        let (seconds, fraction) = word.strip_suffix(':')?.split_once('.')?;
        let fraction_ns: u64 = format!("{fraction:0<9}").parse().ok()?;
        Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + fraction_ns)
    })?;
    Some(stamp)
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn a_trace_line_gives_its_time() {
        let line = "  vcpu0-93      [000] d..1.    12.345678: kvm_pio: pio_write at 0xf4 size 1 count 1 val 0x1";
        assert_eq!(parse_time(line), Some(12_345_678_000));
    }

    #[test]
    fn a_line_without_a_time_gives_none() {
        assert_eq!(parse_time("CPU:0 [LOST 12 EVENTS]"), None);
    }
}
