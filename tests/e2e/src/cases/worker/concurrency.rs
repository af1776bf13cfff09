//! Several invocations at once: an environment each, within the caps; and environments that are there before anyone asks.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{Version, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("each_of_several_invocations_at_once_has_an_environment", several),
    ("provisioned_environments_are_there_before_anyone_asks", provisioned),
];

fn several() -> Result<()> {
    let worker = Worker::with(&[("capacity.environments", "3")])?;
    let limited = Version::tell()?.name("limited").arguments(["--concurrency-limit", "2"]);
    let limited = worker.register(&limited)?;
    let other = worker.register(&Version::tell()?.name("other"))?;
    let busy = |version: &str| {
        let event = json!({ "sleepMs": 12_000, "echo": version });
        worker.spawn(version, &event, &["--attempts", "1"])
    };
    let first = [busy(&limited)?, busy(&limited)?];
    worker.await_environments(|all| all.len() == 2)?;
    let (code, said) = busy(&limited)?.refusal()?;
    ensure!(code == 4 && said.contains("TooManyRequestsException"), "{code}: {said}");
    ensure!(said.contains("ReservedFunctionConcurrentInvocationLimitExceeded"), "{said}");
    let third = busy(&other)?;
    worker.await_environments(|all| all.len() == 3)?;
    let (code, said) = busy(&other)?.refusal()?;
    ensure!(code == 4 && said.contains("TooManyRequestsException"), "{code}: {said}");
    ensure!(said.contains(" ConcurrentInvocationLimitExceeded"), "{said}");

    let mut boots = BTreeSet::new();
    let mut environments = BTreeSet::new();
    for invocation in first.into_iter().chain([third]) {
        let told = invocation.answer()?;
        ensure!(told.code == 0, "{told:?}");
        boots.insert(told.response["boot"].to_string());
        environments.insert(told.environment);
    }
    ensure!(boots.len() == 3 && environments.len() == 3, "{boots:?} in {environments:?}");
    // There is room again, and one of the three takes it.
    let again = worker.invoke(&limited, &json!({}))?;
    ensure!(environments.contains(&again.environment), "{again:?}");
    worker.drain()
}

fn provisioned() -> Result<()> {
    let worker = Worker::start()?;
    // $LATEST cannot have any.
    let version = worker.register(&Version::tell()?.arguments(["--version", "1"]))?;
    worker.ask(&["provisioned", "set", &version, "2"])?;
    let ready = || {
        worker.await_some("provisioned concurrency", || {
            let state = worker.ask(&["provisioned", "get", &version])?;
            Ok((state["status"] == json!("READY") && state["available"] == json!(2)).then_some(()))
        })
    };
    ready()?;
    let before = worker.environments()?;
    let provisioned = json!("provisioned-concurrency");
    for one in &before {
        ensure!(one.is_idle() && one.object["createdFor"] == provisioned, "{one:?}");
    }
    both_provisioned(&worker, &version)?;

    // One is lost, and replaced before anyone waits for it.
    let lost = before.first().context("no environment")?;
    kill_process(lost.process.context("no process")?, Signal::KILL)?;
    worker.await_environments(|all| all.iter().all(|one| one.id != lost.id))?;
    ready()?;
    let after = worker.environments()?;
    let replacement = after.iter().find(|one| before.iter().all(|other| other.id != one.id));
    let replacement = replacement.with_context(|| format!("{after:?}"))?;
    ensure!(replacement.object["createdFor"] == json!("replacement"), "{replacement:?}");
    both_provisioned(&worker, &version)?;

    worker.ask(&["provisioned", "set", &version, "0"])?;
    worker.await_environments(<[_]>::is_empty)?;
    worker.drain()
}

/// Two invocations at once find an initialised environment each.
fn both_provisioned(worker: &Worker, version: &str) -> Result<()> {
    let event = json!({ "sleepMs": 6000 });
    let under_way = [worker.spawn(version, &event, &[])?, worker.spawn(version, &event, &[])?];
    let mut environments = BTreeSet::new();
    for invocation in under_way {
        let told = invocation.answer()?;
        let kind = &told.response["initialization"];
        ensure!(told.code == 0 && *kind == json!("provisioned-concurrency"), "{told:?}");
        ensure!(!told.line("REPORT ")?.contains("Init Duration"), "{}", told.log_tail);
        environments.insert(told.environment);
    }
    ensure!(environments.len() == 2, "{environments:?}");
    Ok(())
}
