//! What is lost is noticed within a second, answered with its error, and replaced.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::harness::worker::{now, seconds_of};
use crate::harness::{Invocation, Invoked, Version, Watch, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("a_vmm_that_is_killed_in_mid_invocation_is_replaced", killed),
    ("a_vmm_that_hangs_in_mid_invocation_is_replaced", hung),
    ("a_vmm_that_hangs_between_invocations_is_replaced", hung_idle),
    ("a_guest_whose_kernel_panics_is_replaced", panicked),
    ("an_agent_that_is_killed_leaves_nothing_and_starts_again", agent_killed),
];

/// How soon a loss must be known to the worker, by its own clock.
const SOON: f64 = 1.0;
/// A hang is known 900 ms after it began at the latest, which leaves an emulated machine on a crowded host 100 ms to be late: it has
/// several tries to be on time, and is never later than this.
const LATE: f64 = 3.0;
const TRIES: usize = 4;
/// As long as an operator's agent waits for a VMM's answer; those of other tests wait longer.
const HANG_TIMEOUT: (&str, &str) = ("environments.hang_timeout", "\"500ms\"");

/// An invocation that would take most of a minute.
struct UnderWay {
    invocation: Invocation,
    /// The VMM that it is in.
    process: Pid,
    watch: Watch,
}

impl UnderWay {
    fn begin(worker: &Worker, version: &str) -> Result<Self> {
        let watch = worker.watch(&["--logs"])?;
        let event = json!({ "print": "under way", "sleepMs": 50_000 });
        let invocation = worker.spawn(version, &event, &[])?;
        watch.await_log("under way")?;
        let all = worker.environments()?;
        let process = all.iter().find(|one| one.state == "BUSY").and_then(|one| one.process);
        Ok(Self { invocation, process: process.with_context(|| format!("{all:?}"))?, watch })
    }

    /// Checks that the caller was told, and that the next invocation finds a new environment; gives the seconds from `since` on
    /// after which the worker knew.
    fn check_lost(self, worker: &Worker, version: &str, since: f64) -> Result<f64> {
        let told = self.invocation.answer()?;
        check_answer(&told)?;
        let took = seconds_of(&ended(&self.watch)?["time"])? - since;
        println!("known after {took:.3} s");
        check_replaced(worker, version, &told)?;
        Ok(took)
    }
}

/// The event of an invocation's begin.
fn begun(watch: &Watch) -> Result<Value> {
    watch.await_event("of the begin", |event| {
        event["invocation"].is_object() && event["invocation"]["report"].is_null()
    })
}

/// The event of an invocation's end.
fn ended(watch: &Watch) -> Result<Value> {
    watch.await_event("of the end", |event| event["invocation"]["report"].is_object())
}

fn check_answer(told: &Invoked) -> Result<()> {
    let error = "Sandbox.Failure";
    ensure!(told.code == 3 && told.error_type.as_deref() == Some(error), "{told:?}");
    ensure!(told.response["errorType"] == json!(error), "{told:?}");
    ensure!(told.outcome == "DESTROYED", "{told:?}");
    Ok(())
}

fn check_soon(since: f64, event: &Value) -> Result<()> {
    let took = seconds_of(&event["time"])? - since;
    println!("known after {took:.3} s");
    ensure!(took < SOON, "it was known after {took} s");
    Ok(())
}

/// Checks that the next invocation finds a new environment, and that nothing is left of the other.
fn check_replaced(worker: &Worker, version: &str, told: &Invoked) -> Result<()> {
    let next = worker.invoke(version, &json!({}))?;
    ensure!(next.code == 0 && next.environment != told.environment, "{next:?}");
    ensure!(next.response["invocation"] == json!(1), "{next:?}");
    worker.await_environments(|all| all.len() == 1)?;
    ensure!(worker.microvms().len() == 1, "{:?}", worker.microvms());
    Ok(())
}

fn killed() -> Result<()> {
    let worker = Worker::with(&[HANG_TIMEOUT])?;
    let version = worker.register(&Version::tell()?)?;
    let took = lose(&worker, &version, Signal::KILL)?;
    ensure!(took < SOON, "it was known after {took} s");
    worker.drain()
}

fn hung() -> Result<()> {
    let worker = Worker::with(&[HANG_TIMEOUT])?;
    let version = worker.register(&Version::tell()?)?;
    let mut all = Vec::new();
    while all.len() < TRIES && all.iter().all(|took| *took >= SOON) {
        let took = lose(&worker, &version, Signal::STOP)?;
        ensure!(took < LATE, "it was known after {took} s");
        all.push(took);
    }
    ensure!(all.iter().any(|took| *took < SOON), "it was known after {all:.3?} s");
    worker.drain()
}

/// Has a VMM lose its invocation by a signal; gives the seconds after which the worker knew.
fn lose(worker: &Worker, version: &str, signal: Signal) -> Result<f64> {
    let under_way = UnderWay::begin(worker, version)?;
    let since = now();
    kill_process(under_way.process, signal)?;
    under_way.check_lost(worker, version, since)
}

/// Nobody asks a VMM anything while its guest is paused: the next invocation finds out.
fn hung_idle() -> Result<()> {
    let worker = Worker::with(&[HANG_TIMEOUT])?;
    let version = worker.register(&Version::tell()?)?;
    ensure!(worker.invoke(&version, &json!({}))?.code == 0);
    let all = worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;
    let process = all.first().and_then(|one| one.process).context("no process")?;
    kill_process(process, Signal::STOP)?;
    let watch = worker.watch(&[])?;
    let told = worker.invoke(&version, &json!({}))?;
    check_answer(&told)?;
    check_soon(seconds_of(&begun(&watch)?["time"])?, &ended(&watch)?)?;
    check_replaced(&worker, &version, &told)?;
    worker.drain()
}

/// The guest's kernel is told to panic when a function's memory is full, where it would kill the function.
fn panicked() -> Result<()> {
    // One line is enough of its console, and with the share of 128 MB filling them takes a minute.
    let words = "sysctl.vm.panic_on_oom=2 panic_print=0";
    let worker = Worker::with_kernel_words(words, &[("environments.cgroups", "\"off\"")])?;
    let version = worker.register(&Version::tell()?.memory(128))?;
    let watch = worker.watch(&[])?;
    let invocation = worker.spawn(&version, &json!({ "fill": true }), &[])?;
    begun(&watch)?;
    // From the VMM's end on: what its kernel says before takes time that only this console costs.
    let since =
        worker.await_some("the microVM's end", || Ok(worker.microvms().is_empty().then(now)))?;
    let said = worker.consoles();
    ensure!(said.contains("Kernel panic") && said.contains("panic_on_oom"), "it said {said}");
    let told = invocation.answer()?;
    check_answer(&told)?;
    check_soon(since, &ended(&watch)?)?;
    check_replaced(&worker, &version, &told)?;
    worker.drain()
}

fn agent_killed() -> Result<()> {
    let mut worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    let under_way = UnderWay::begin(&worker, &version)?;
    ensure!(worker.invoke(&version, &json!({}))?.code == 0);
    ensure!(worker.microvms().len() == 2, "{:?}", worker.microvms());
    let remaining = worker.remaining()?;
    let since = Instant::now();
    worker.signal(Signal::KILL)?;
    let ended = worker.wait()?;
    ensure!(ended.status.code().is_none(), "{}", ended.status);
    // The kernel ends them; what takes time is the freeing of their memory.
    worker
        .await_some("the end of its microVMs", || Ok(worker.microvms().is_empty().then_some(())))?;
    let gone = since.elapsed();
    ensure!(gone < Duration::from_secs(2), "its microVMs were gone after {gone:?}");
    let (code, said) = under_way.invocation.refusal()?;
    ensure!(code == 1, "{code}: {said}");

    worker.begin()?;
    // The lease goes on; what was registered is to be registered again.
    let left = worker.remaining()?;
    ensure!(
        left + since.elapsed() <= remaining + Duration::from_secs(1),
        "{remaining:?}, {left:?}"
    );
    ensure!(worker.environments()?.is_empty());
    let again = worker.register(&Version::tell()?)?;
    ensure!(again == version, "{version} is {again} now");
    ensure!(worker.invoke(&version, &json!({}))?.code == 0);
    worker.drain()
}
