//! Control groups of the kernel's own: what a guest gets of the processors, and that nothing is left of its group.

use std::io::PipeReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::Notify;
use tokio::time::timeout;
use votive_agent::cgroup::{CgroupSpec, Cgroups, EnvironmentCgroup, PERIOD_US, quota_us};
use votive_agent::microvm::{Microvm, MicrovmSpec, Spawned};

use super::Case;
use super::pauses::{block_on, spec};
use crate::harness::{Spinner, SpinnerConsole};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_guest_gets_the_share_of_its_memory_and_all_of_a_processor_before", share),
    ("groups_that_were_left_are_ended_with_all_that_runs_in_them", leftovers),
    ("a_vmm_that_wants_more_memory_than_its_group_has_is_killed", memory),
];

/// Memory that buys an eighth of a processor: small enough to be had on a busy machine.
const MEMORY_MB: u32 = 221;
/// How much of a processor's time is watched: a hundred periods.
const WATCHED: Duration = Duration::from_secs(2);
/// How often it is watched until the host's timers are on time.
const WINDOWS_MAX: usize = 15;
const PATIENCE: Duration = Duration::from_secs(30);
const MOUNT: &str = "/sys/fs/cgroup";

/// A root of its own for each test, since agents do not share one.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        Self(Path::new(MOUNT).join(format!("e2e-{name}-{}", std::process::id())))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // A group that is still there is in the way of nobody.
        let _ = std::fs::remove_dir(self.0.join("votive-environments"));
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn group(cgroups: &Cgroups, guest_memory_mib: u32) -> Result<EnvironmentCgroup> {
    let name = String::from("environment");
    let spec = CgroupSpec { name, memory_mb: MEMORY_MB, guest_memory_mib, vcpus: 1, disks: 0 };
    Ok(cgroups.create(&spec)?)
}

/// What to start for a guest that computes in `group`.
fn spec_in(group: &EnvironmentCgroup, images: &Spinner) -> Result<(MicrovmSpec, PipeReader)> {
    let (reader, writer) = std::io::pipe()?;
    let cgroup = Some(group.procs()?);
    Ok((MicrovmSpec { cgroup, ..spec(images, 1, writer.into(), None)? }, reader))
}

/// The part of one processor that the group used from now on.
fn watched_share(group: &EnvironmentCgroup) -> Result<f64> {
    let (start, before) = (Instant::now(), group.usage()?);
    while start.elapsed() < WATCHED {
        std::thread::sleep(WATCHED.saturating_sub(start.elapsed()));
    }
    let (time, after) = (start.elapsed(), group.usage()?);
    Ok((after.used - before.used).as_secs_f64() / time.as_secs_f64())
}

/// Checks that a throttled group never gets more than was `bought`, and no less where the host's own timers are on time: a
/// machine that is emulated on a crowded host loses some of the periods, and with each its share.
fn throttled_share(group: &EnvironmentCgroup, bought: f64) -> Result<()> {
    let mut shares = Vec::new();
    for _ in 0..WINDOWS_MAX {
        let share = watched_share(group)?;
        shares.push(share);
        ensure!(share < bought * 1.05, "{shares:.4?} of a processor where {bought:.4} was bought");
        if share > bought * 0.95 {
            return Ok(());
        }
    }
    bail!("{shares:.4?} of a processor where {bought:.4} was bought")
}

fn share() -> Result<()> {
    let root = Root::new("share");
    let bought = quota_us(MEMORY_MB) as f64 / PERIOD_US as f64;
    block_on(async {
        let cgroups = Cgroups::open(Some(&root.0))?;
        let group = group(&cgroups, 128)?;
        let images = Spinner::new(1)?;
        let (spec, reader) = spec_in(&group, &images)?;
        let Spawned { microvm, mut control, link: _link, .. } = Microvm::spawn(spec).await?;
        let mut console = SpinnerConsole::new(reader);
        console.round()?;
        // Nobody reads the console from here on: what does not fit is dropped.
        let free = watched_share(&group)?;
        ensure!(
            free > 3.0 * bought,
            "unthrottled it got {free:.3}, throttled would be {bought:.3}"
        );

        group.cpu_max().throttle()?;
        throttled_share(&group, bought)?;
        ensure!(group.usage()?.throttled_periods > 0, "it was never throttled");
        // Pauses work however little it gets.
        control = control.with_patience(PATIENCE);
        control.pause().await?;
        let paused = watched_share(&group)?;
        ensure!(paused < 0.01, "paused it got {paused:.3}");
        control.resume().await?;

        group.cpu_max().unthrottle()?;
        let free = watched_share(&group)?;
        ensure!(free > 3.0 * bought, "unthrottled again it got {free:.3}");

        // Killed and removed as a whole, whoever else waits for the process.
        let removed = group.remove().await;
        let end = timeout(PATIENCE, microvm.wait(Arc::new(Notify::new()))).await?;
        removed?;
        ensure!(end.signal == Some(9), "{end:?}");
        ensure!(!root.0.join("votive-environments/environment").exists(), "the group is left");
        Ok(())
    })
}

fn leftovers() -> Result<()> {
    let root = Root::new("leftovers");
    let cgroups = Cgroups::open(Some(&root.0))?;
    let group = group(&cgroups, 128)?;
    let path = root.0.join("votive-environments/environment");
    // The shell joins as a VMM does, and then sleeps longer than any test.
    let mut child = Command::new("/bin/busybox")
        .args(["sh", "-c", "echo 0 > $0/cgroup.procs; echo in; exec /bin/busybox sleep 1000"])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut joined = [0; 3];
    let mut stdout = child.stdout.take().context("no pipe")?;
    std::io::Read::read_exact(&mut stdout, &mut joined)?;
    // As a killed agent leaves it: nothing is removed, and the lock is gone.
    std::mem::forget(group);
    drop(cgroups);
    ensure!(path.exists(), "the group is gone before anybody swept");
    let _cgroups = Cgroups::open(Some(&root.0))?;
    ensure!(!path.exists(), "the group is still there");
    let status = child.wait()?;
    ensure!(!status.success(), "{status}");
    Ok(())
}

fn memory() -> Result<()> {
    let root = Root::new("memory");
    block_on(async {
        let cgroups = Cgroups::open(Some(&root.0))?;
        let group = group(&cgroups, 128)?;
        // Less than Linux needs to come up.
        std::fs::write(root.0.join("votive-environments/environment/memory.max"), "8M")?;
        let images = Spinner::new(1)?;
        let (spec, _reader) = spec_in(&group, &images)?;
        let Spawned { microvm, control: _control, link: _link, .. } = Microvm::spawn(spec).await?;
        let end = timeout(PATIENCE, microvm.wait(Arc::new(Notify::new()))).await?;
        ensure!(end.signal == Some(9), "{end:?}");
        group.remove().await?;
        Ok(())
    })
}
