//! Untimely ends, from outside: each is noticed at once, and nothing is left.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use super::Case;
use crate::harness::{Function, Running};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_vmm_that_is_killed_is_told_at_once", vmm_killed),
    ("sigterm_ends_votive_and_its_microvm", terminated),
    ("sigint_ends_votive_and_its_microvm", interrupted),
    ("a_votive_that_is_killed_takes_its_microvm_along", votive_killed),
    ("a_vmm_that_is_stopped_costs_no_more_than_the_time_limit", vmm_stopped),
];

/// How soon an end must be noticed, also on a crowded, emulated host.
const SOON: Duration = Duration::from_secs(3);

fn hanging(timeout_s: u32) -> Result<Running> {
    Function::probe("hang").timeout(timeout_s).spawn(&json!({}))
}

fn vmm_killed() -> Result<()> {
    let running = hanging(60)?;
    let microvm = running.microvm()?;
    kill_process(microvm, Signal::KILL)?;
    let killed = Instant::now();
    let ended = running.wait()?;
    ensure!(killed.elapsed() < SOON, "it took {:?}", killed.elapsed());
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(ended.stderr.contains("votive-vmm was killed by signal 9"), "{}", ended.stderr);
    ensure!(String::from_utf8_lossy(&ended.stdout).contains("Sandbox.Failure"), "{ended:?}");
    Ok(())
}

fn ended_by(signal: Signal, code: i32) -> Result<()> {
    let running = hanging(60)?;
    running.microvm()?;
    running.signal(signal)?;
    let sent = Instant::now();
    let ended = running.wait()?;
    ensure!(sent.elapsed() < SOON, "it took {:?}", sent.elapsed());
    ensure!(ended.status.code() == Some(code), "{ended:?}");
    ensure!(ended.stdout.is_empty(), "{ended:?}");
    Ok(())
}

fn terminated() -> Result<()> {
    ended_by(Signal::TERM, 143)
}

fn interrupted() -> Result<()> {
    ended_by(Signal::INT, 130)
}

fn votive_killed() -> Result<()> {
    let running = hanging(60)?;
    running.microvm()?;
    running.signal(Signal::KILL)?;
    // That no microVM is left within two seconds is what waiting checks.
    let ended = running.wait_killed()?;
    ensure!(!ended.status.success(), "{ended:?}");
    Ok(())
}

fn vmm_stopped() -> Result<()> {
    let running = hanging(3)?;
    let microvm = running.microvm()?;
    running.wait_for_start()?;
    kill_process(microvm, Signal::STOP)?;
    let ended = running.wait()?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(ended.stderr.contains("the guest did not reset within 5 s"), "{}", ended.stderr);
    Ok(())
}
