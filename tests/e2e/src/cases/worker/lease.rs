//! A lease holds although nobody is there to keep it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::cases::Case;
use crate::harness::worker::seconds_of;
use crate::harness::{Version, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("no_microvm_outlives_the_lease_of_an_agent_that_is_stopped", stopped),
    ("a_lease_is_no_longer_after_a_restart", restarted),
];

/// The lease, and the invocation that must fit into it.
const LEASE: Duration = Duration::from_secs(20);
const GRANT: [&str; 6] = ["lease", "grant", "--duration", "20s", "--longest-invocation", "4s"];

fn stopped() -> Result<()> {
    let settings =
        [("lease.source", "\"orchestrator\""), ("environments.reservation_lifetime", "\"1s\"")];
    let mut worker = Worker::with(&settings)?;
    let version = worker.register(&Version::tell()?.timeout(4))?;
    let watch = worker.watch(&["--logs"])?;
    let granted = Instant::now();
    let lease = worker.ask(&GRANT)?;
    // By the worker's clock it began between the question and the answer.
    let began_latest = Instant::now();
    ensure!(lease["state"] == json!("ACTIVE"), "{lease}");

    // One that is idle and one that is not, both of which start now: no reservation is given in the lease's second half.
    let event = json!({ "print": "under way", "sleepMs": 60_000 });
    let busy = worker.spawn(&version, &event, &[])?;
    let idle = worker.spawn(&version, &json!({ "sleepMs": 1500 }), &[])?;
    watch.await_log("under way")?;
    ensure!(idle.answer()?.code == 0);
    worker.signal(Signal::STOP)?;
    let microvms = worker.microvms();
    ensure!(microvms.len() == 2, "{microvms:?}");

    let ends = worker.await_some("the end of the microVMs", || {
        Ok(worker.microvms().is_empty().then(Instant::now))
    })?;
    let (from, to) = (ends - began_latest, ends - granted);
    println!("the microVMs were gone {from:.2?} to {to:.2?} after the grant of {LEASE:?}");
    ensure!(from <= LEASE, "they outlived the lease: {from:?}");
    ensure!(to >= LEASE - Duration::from_secs(3), "something else ended them: {to:?}");

    while granted.elapsed() < LEASE {
        std::thread::sleep(LEASE.saturating_sub(granted.elapsed()));
    }
    let continued = Instant::now();
    worker.signal(Signal::CONT)?;
    let ended = worker.wait()?;
    let took = continued.elapsed();
    ensure!(ended.status.code() == Some(0), "{}: {}", ended.status, ended.stderr);
    ensure!(took < Duration::from_secs(3), "the agent took {took:?} to end");
    // Whatever became of the answer, there is an end to the waiting.
    let _ = busy.answer();
    worker.check_leftovers()?;
    let again = worker.run_again()?;
    ensure!(again.status.code() == Some(3), "{}: {}", again.status, again.stderr);
    Ok(())
}

fn restarted() -> Result<()> {
    let mut worker = Worker::with(&[("lease.source", "\"orchestrator\"")])?;
    let grant = ["lease", "grant", "--duration", "60s", "--longest-invocation", "4s"];
    let granted = Instant::now();
    let lease = worker.ask(&grant)?;
    let ends = lease["expires"].clone();
    ensure!(worker.remaining()? <= Duration::from_secs(60), "{lease}");
    for signal in [Signal::KILL, Signal::KILL] {
        worker.signal(signal)?;
        worker.wait()?;
        worker.begin()?;
        let status = worker.ask(&["status"])?;
        ensure!(status["lease"]["state"] == json!("ACTIVE"), "{status}");
        // What remains is read before the clock is, so that this holds however slow the machine is.
        let remaining = worker.remaining()?;
        ensure!(
            remaining <= Duration::from_secs(60),
            "{remaining:?} remain {:?} after the grant",
            granted.elapsed()
        );
        let moved = seconds_of(&status["lease"]["expires"])? - seconds_of(&ends)?;
        ensure!(moved.abs() < 0.5, "the lease ended at {ends}, now {status}");
    }
    worker.drain()
}
