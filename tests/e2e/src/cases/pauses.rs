//! Pauses of a real guest: its own clocks and counts say that it stood still, and its kernel does not mind.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use tokio::sync::Notify;
use tokio::time::timeout;
use votive_agent::clock::BootTime;
use votive_agent::microvm::{
    DeviceLimits, KernelMemory, Microvm, MicrovmControl, MicrovmEnd, MicrovmSpec, Spawned,
};

use super::Case;
use crate::harness::{Spinner, SpinnerConsole, images, vcpu_ticks};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_paused_guest_stands_still_and_its_kernel_does_not_mind", stands_still),
    ("a_paused_guest_of_two_vcpus_stands_still", two_vcpus),
    ("a_deadline_ends_a_paused_guest", deadline),
    ("a_control_that_is_dropped_ends_the_guest", dropped),
];

/// Longer than any watchdog of Linux waits: soft lockups are reported after 20 s, stalls of RCU after 21 s.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// How long an answer may take in an emulated machine on a crowded host.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a kernel says that has missed something.
const COMPLAINTS: [&str; 7] = ["lockup", "stall", "stuck", "BUG", "WARNING", "unstable", "hung"];

/// A guest that computes.
struct Computing {
    microvm: Microvm,
    control: MicrovmControl,
    console: SpinnerConsole,
    /// The other end of it closes the guest's vsock port.
    _link: tokio::net::UnixStream,
    _images: Spinner,
}

impl Computing {
    /// Starts it and waits until it computes. Must be called inside a runtime.
    async fn start(vcpus: u32, deadline: Option<BootTime>) -> Result<Self> {
        let images = Spinner::new(vcpus)?;
        let (reader, writer) = std::io::pipe()?;
        let spec = spec(&images, vcpus, writer.into(), deadline)?;
        let Spawned { microvm, control, link, .. } = Microvm::spawn(spec).await?;
        let control = control.with_patience(PATIENCE);
        let mut console = SpinnerConsole::new(reader);
        console.round()?;
        Ok(Self { microvm, control, console, _link: link, _images: images })
    }

    /// The processor time that the host gave its vCPUs so far, in ticks.
    fn vcpu_ticks(&self) -> Result<u64> {
        let pid = self.microvm.process_id().context("it has ended")?;
        vcpu_ticks(i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process")?)
    }

    /// Waits for its end, which must come by itself.
    async fn end(self) -> Result<MicrovmEnd> {
        let kill = Arc::new(Notify::new());
        drop(self.control);
        Ok(timeout(PATIENCE, self.microvm.wait(kill)).await?)
    }
}

/// What to start for a guest that computes on `vcpus` vCPUs.
pub(super) fn spec(
    guest: &Spinner,
    vcpus: u32,
    console: OwnedFd,
    deadline: Option<BootTime>,
) -> Result<MicrovmSpec> {
    let images = images()?;
    Ok(MicrovmSpec {
        vmm: images.join("bin/votive-vmm"),
        kernel: images.join("vmlinux"),
        initrd: guest.initrd(),
        vcpus,
        memory_mib: 128,
        disks: Vec::new(),
        tap: None,
        limits: DeviceLimits::default(),
        console: Some(File::from(console)),
        kernel_memory: KernelMemory::default(),
        deadline,
        cgroup: None,
        jail: None,
        shell: None,
    })
}

/// Runs a test that needs an event loop.
pub(super) fn block_on<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

fn stands_still() -> Result<()> {
    block_on(pause_once(1, LONG_PAUSE))
}

fn two_vcpus() -> Result<()> {
    block_on(pause_once(2, LONG_PAUSE))
}

/// Pauses a guest for `length`, and compares what it says before and after.
async fn pause_once(vcpus: u32, length: Duration) -> Result<()> {
    let mut guest = Computing::start(vcpus, None).await?;
    // How long a round takes it, so that a pause is told from work.
    let first = guest.console.round()?;
    let mut before = first;
    for _ in 0..5 {
        before = guest.console.round()?;
    }
    let (busy_of_five, up_of_five) = (before.busy - first.busy, before.up - first.up);

    let said_before = guest.console.kernel.len();
    guest.control.pause().await?;
    let paused = Instant::now();
    let ticks = guest.vcpu_ticks()?;
    // A pause of this length, and nothing that is waited for.
    while paused.elapsed() < length {
        tokio::time::sleep(length.saturating_sub(paused.elapsed())).await;
    }
    let used = guest.vcpu_ticks()? - ticks;
    ensure!(used <= 1, "the vCPUs used {used} ticks in a pause of {length:?}");
    guest.control.resume().await?;

    // Rounds that it had written before the pause come first. The pause is where its clock jumps.
    let jumped = |up: f64, earlier: f64| up - earlier > length.as_secs_f64() * 0.9;
    let mut last = before;
    let after = loop {
        let round = guest.console.round()?;
        ensure!(round.number == last.number + 1, "{last:?}, then {round:?}");
        if jumped(round.up, last.up) {
            break round;
        }
        ensure!(round.number < before.number + 1_000, "its clock never jumped: {round:?}");
        last = round;
    };
    // One round was done over the pause, so it may be as busy as in five; the pause has some thousand ticks.
    let busy = after.busy - last.busy;
    let allowed = busy_of_five.max(20) * u64::from(vcpus);
    ensure!(busy <= allowed, "{busy} ticks busy over the pause, {busy_of_five} in 5 rounds before");
    ensure!(up_of_five < length.as_secs_f64() / 2.0, "rounds are too long for this test");
    for _ in 0..5 {
        guest.console.round()?;
    }
    let complaints: Vec<&String> = guest
        .console
        .kernel
        .iter()
        .skip(said_before)
        .filter(|line| COMPLAINTS.iter().any(|word| line.contains(word)))
        .collect();
    ensure!(complaints.is_empty(), "the guest's kernel complained: {complaints:#?}");
    let end = guest.end().await?;
    ensure!(end.code == Some(7), "{end:?}");
    Ok(())
}

fn deadline() -> Result<()> {
    block_on(async {
        let at = BootTime::now() + Duration::from_secs(20);
        let mut guest = Computing::start(1, Some(at)).await?;
        guest.control.pause().await?;
        let kill = Arc::new(Notify::new());
        // The control is held: the deadline alone ends it.
        let end = timeout(PATIENCE, guest.microvm.wait(kill)).await?;
        ensure!(end.code == Some(6), "{end:?}");
        ensure!(end.to_string().starts_with("the microVM's deadline passed"), "{end}");
        let late = BootTime::now().since(at);
        ensure!(BootTime::now() >= at && late < Duration::from_secs(5), "{late:?} late");
        drop(guest.control);
        Ok(())
    })
}

fn dropped() -> Result<()> {
    block_on(async {
        let end = Computing::start(1, None).await?.end().await?;
        ensure!(end.code == Some(7), "{end:?}");
        Ok(())
    })
}
