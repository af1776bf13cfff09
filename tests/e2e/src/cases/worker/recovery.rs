//! What is lost is noticed within a second, answered with its error, and replaced.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cases::Case;
use crate::harness::worker::seconds_of;
use crate::harness::{Invocation, Invoked, Version, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("a_vmm_that_is_killed_in_mid_invocation_is_replaced", killed),
    ("a_vmm_that_hangs_in_mid_invocation_is_replaced", hung),
    ("a_vmm_that_hangs_between_invocations_is_replaced", hung_idle),
    ("a_guest_whose_kernel_panics_is_replaced", panicked),
    ("an_agent_that_is_killed_leaves_nothing_and_starts_again", agent_killed),
];

/// How soon a loss must be known to the caller, `votive`'s own end included.
const SOON: Duration = Duration::from_secs(1);

/// An invocation that would take a minute, and the VMM that it is in.
fn under_way(worker: &Worker, version: &str) -> Result<(Invocation, Pid)> {
    let watch = worker.watch(&["--logs"])?;
    let event = json!({ "print": "under way", "sleepMs": 50_000 });
    let invocation = worker.spawn(version, &event, &[])?;
    watch.await_log("under way")?;
    let all = worker.environments()?;
    let process = all.iter().find(|one| one.state == "BUSY").and_then(|one| one.process);
    Ok((invocation, process.with_context(|| format!("{all:?}"))?))
}

/// Checks that the invocation is answered soon with `error`, and that the next one finds a new environment.
fn check_loss(
    worker: &Worker,
    version: &str,
    invocation: Invocation,
    since: Instant,
    error: &str,
) -> Result<()> {
    let told = invocation.answer()?;
    let took = since.elapsed();
    println!("{} after {took:.0?}", told.error_type.as_deref().unwrap_or_default());
    ensure!(told.code == 3 && told.error_type.as_deref() == Some(error), "{told:?}");
    ensure!(told.response["errorType"] == json!(error), "{told:?}");
    ensure!(told.outcome == "DESTROYED", "{told:?}");
    ensure!(took < SOON, "it was known after {took:?}");
    check_replaced(worker, version, &told)
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
    let worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    let (invocation, process) = under_way(&worker, &version)?;
    let since = Instant::now();
    kill_process(process, Signal::KILL)?;
    check_loss(&worker, &version, invocation, since, "Sandbox.Failure")?;
    worker.drain()
}

fn hung() -> Result<()> {
    let worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    let (invocation, process) = under_way(&worker, &version)?;
    let since = Instant::now();
    kill_process(process, Signal::STOP)?;
    check_loss(&worker, &version, invocation, since, "Sandbox.Failure")?;
    worker.drain()
}

/// Nobody asks a VMM anything while its guest is paused: the next invocation finds out.
fn hung_idle() -> Result<()> {
    let worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    ensure!(worker.invoke(&version, &json!({}))?.code == 0);
    let all = worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;
    let process = all.first().and_then(|one| one.process).context("no process")?;
    kill_process(process, Signal::STOP)?;
    let watch = worker.watch(&[])?;
    let told = worker.invoke(&version, &json!({}))?;
    ensure!(told.code == 3 && told.error_type.as_deref() == Some("Sandbox.Failure"), "{told:?}");
    // From the invocation's begin on, which is a while after `votive`'s own.
    let is = |event: &Value, ended: bool| {
        event["invocation"].is_object() && event["invocation"]["report"].is_null() != ended
    };
    let begun = watch.await_event("of the begin", |event| is(event, false))?;
    let ended = watch.await_event("of the end", |event| is(event, true))?;
    let took = seconds_of(&ended["time"])? - seconds_of(&begun["time"])?;
    println!("Sandbox.Failure after {took:.3} s");
    ensure!(took < SOON.as_secs_f64(), "it was known after {took} s");
    check_replaced(&worker, &version, &told)?;
    worker.drain()
}

/// The guest's kernel is told to panic when a function's memory is full, where it would kill the function.
fn panicked() -> Result<()> {
    let worker = Worker::with_kernel_words("sysctl.vm.panic_on_oom=2")?;
    let version = worker.register(&Version::tell()?.memory(128))?;
    let invocation = worker.spawn(&version, &json!({ "fill": true }), &[])?;
    let consoles = worker.await_some("a panic", || {
        let said = worker.consoles();
        Ok(said.contains("Kernel panic").then_some(said))
    });
    let since = Instant::now();
    ensure!(consoles?.contains("panic_on_oom"), "another panic");
    check_loss(&worker, &version, invocation, since, "Sandbox.Failure")?;
    worker.drain()
}

fn agent_killed() -> Result<()> {
    let mut worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    let (invocation, _) = under_way(&worker, &version)?;
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
    let (code, said) = invocation.refusal()?;
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
