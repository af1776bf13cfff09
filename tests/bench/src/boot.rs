//! One boot in the exact clock: a VMM is started, its guest gets as far as an event, and all is ended.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use crate::clock::monotonic_ns;
use crate::tracefs::{Event, Trace};

/// The bound on one boot, generous for QEMU under emulation.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// How a VMM is started.
pub trait Launch {
    /// What is done before the boot begins.
    ///
    /// # Errors
    /// It cannot be done.
    fn prepare(&mut self, _log: &File) -> anyhow::Result<()> {
        Ok(())
    }

    /// Starts it; whatever it says goes to `log`. What this takes is part of the boot.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&mut self, log: &File) -> anyhow::Result<Started>;
}

impl Launch for Command {
    fn start(&mut self, log: &File) -> anyhow::Result<Started> {
        self.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = self.spawn().with_context(|| format!("starting {self:?}"))?;
        Ok(Started { child, group: None, control: None })
    }
}

/// A VMM that was started.
pub struct Started {
    /// The VMM, or the program that starts it as another child of this process and ends.
    pub child: Child,
    /// The control group that everything else is in.
    pub group: Option<Group>,
    /// Held open as long as the VMM is to run, where it has one.
    pub control: Option<UnixStream>,
}

impl Started {
    /// Whether there will be no event any more, and why.
    fn failure(&mut self) -> anyhow::Result<Option<String>> {
        let status = self.child.try_wait()?;
        let failed = status.filter(|status| self.group.is_none() || !status.success());
        Ok(failed.map(|status| status.to_string()))
    }

    fn end(mut self) -> anyhow::Result<()> {
        // An error: it has ended.
        let _ = self.child.kill();
        self.child.wait()?;
        self.group.map_or(Ok(()), Group::end)
    }
}

/// A control group, whose processes are children of this one.
pub struct Group(PathBuf);

impl Group {
    /// A new one with these limits, as file and value.
    ///
    /// # Errors
    /// The operating system's; `path` is there already, for one.
    pub fn new(path: &Path, limits: &[(&str, &str)]) -> anyhow::Result<Self> {
        fs::create_dir(path).with_context(|| format!("making {}", path.display()))?;
        let group = Self(path.to_owned());
        for (file, value) in limits {
            let path = path.join(file);
            fs::write(&path, value)
                .with_context(|| format!("writing {value} to {}", path.display()))?;
        }
        Ok(group)
    }

    fn end(self) -> anyhow::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")?;
        loop {
            match wait(WaitOptions::empty()) {
                Ok(_) => {}
                Err(Errno::CHILD) => break,
                Err(error) => return Err(error.into()),
            }
        }
        fs::remove_dir(&self.0).with_context(|| format!("removing {}", self.0.display()))
    }
}

/// Starts a VMM, waits for `event`, lets `look` see the stopped process, and ends it. Gives the time between start and event in
/// nanoseconds, which in the exact clock are instructions.
///
/// # Errors
/// The boot fails or takes too long.
pub fn run_until(
    mut launch: impl Launch,
    event: Event,
    look: impl FnOnce(&Child) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let log = tempfile::NamedTempFile::new()?;
    let output = log.reopen()?;
    launch.prepare(&output)?;
    let mut trace = Trace::start(event)?;
    let started_ns = monotonic_ns();
    let mut started = launch.start(&output)?;
    let seen = trace.wait(BOOT_TIMEOUT, || started.failure());
    let looked = seen.and_then(|at_ns| {
        // One that starts another has ended.
        let _ = kill_process(Pid::from_child(&started.child), Signal::STOP);
        look(&started.child)?;
        Ok(at_ns)
    });
    started.end()?;
    let at_ns = looked.with_context(|| {
        let output = fs::read_to_string(log.path()).unwrap_or_default();
        format!("it wrote: {output}")
    })?;
    match at_ns.checked_sub(started_ns) {
        Some(cost) => Ok(cost),
        None => bail!("the trace clock is not CLOCK_MONOTONIC: {at_ns} before {started_ns}"),
    }
}
