//! Between invocations no vCPU runs: the guest's own account of its time says so.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::harness::{Invoked, Version, Worker, vcpu_ticks};

pub(crate) const CASES: &[(&str, Case)] =
    &[("an_idle_environment_stands_still_and_goes_on_at_the_next_invocation", stands_still)];

/// How long the environment is left alone.
const IDLE: Duration = Duration::from_secs(6);
/// How long each invocation lasts: enough to see that the guest computes in the background.
const RUNNING: Duration = Duration::from_millis(500);

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

/// The guest computes in the background without end, so whatever time it gets shows.
fn stands_still() -> Result<()> {
    let worker = Worker::start()?;
    let version = worker.register(&Version::probe("spin")?)?;
    let event = json!({ "sleepMs": RUNNING.as_millis() as u64 });
    let first = worker.invoke(&version, &event)?;
    ensure!(first.code == 0, "{first:?}");
    let all = worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;
    let process = all.first().and_then(|one| one.process).context("no process")?;

    let ticks = vcpu_ticks(process)?;
    let idle = Instant::now();
    while idle.elapsed() < IDLE {
        std::thread::sleep(IDLE.saturating_sub(idle.elapsed()));
    }
    let used = vcpu_ticks(process)? - ticks;
    ensure!(used <= 2, "its vCPU used {used} ticks of the host's in {IDLE:?}");

    let second = worker.invoke(&version, &event)?;
    ensure!(second.code == 0 && second.environment == first.environment, "{second:?}");
    compare(&first, &second)?;
    worker.drain()
}

fn compare(first: &Invoked, second: &Invoked) -> Result<()> {
    let (before, after) = (&first.response, &second.response);
    ensure!(before["boot"] == after["boot"] && after["invocation"] == json!(2), "{second:?}");
    let between =
        |name: &str| Ok::<_, anyhow::Error>(number(&after[name])? - number(&before[name])?);
    let seconds = IDLE.as_secs_f64();
    let up = between("upMs")? / 1000.0;
    ensure!(up >= seconds, "its clock went on by {up} s");
    let busy = between("busyTicks")? / 100.0;
    ensure!(busy < up - 0.8 * seconds, "it was busy for {busy} s of {up} s");
    ensure!(number(&after["spins"]["after"])? > number(&after["spins"]["before"])?, "{after}");
    // It never stops computing by itself, so the time without a turn is time without a processor, in one piece.
    let gap = |answer: &Value| Ok::<_, anyhow::Error>(number(&answer["longestGapMs"])? / 1000.0);
    let (ran, stood) = (gap(before)?, gap(after)?);
    ensure!(ran < seconds, "it stood still for {ran} s while it ran");
    ensure!(stood >= seconds, "the longest it stood still was {stood} s");
    println!("{up:.2} s by its clock, {busy:.2} s busy, {stood:.2} s without a turn");
    Ok(())
}
