//! Shells: an invocation is served in one that was made ahead, and one that is killed is replaced.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::jail::check_jail;
use crate::cases::Case;
use crate::harness::{Version, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("an_invocation_is_served_in_a_shell_that_was_made_ahead", served),
    ("a_shell_that_is_killed_is_replaced", replaced),
];

const USERS: (&str, &str) = ("isolation.uids", "\"2000200000-2000202047\"");
const REQUIRED: (&str, &str) = ("isolation.jail", "\"required\"");
/// A shell has no guest memory yet: most of what it takes are the kernel's and KVM's objects.
const MEMORY_MAX: u64 = 8 << 20;
const SHELLS: (&str, &str) = ("isolation.shells", "2");

fn options(process: Pid) -> Vec<String> {
    let path = PathBuf::from(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
    // It may have ended.
    let line = fs::read_to_string(path).unwrap_or_default();
    line.split('\0').map(str::to_owned).collect()
}

/// What the control group of a process takes.
fn memory_bytes(process: Pid) -> Result<u64> {
    let group = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero()))?;
    let group = group.trim().strip_prefix("0::/").context("no group")?;
    let path = PathBuf::from("/sys/fs/cgroup").join(group).join("memory.current");
    Ok(fs::read_to_string(path)?.trim().parse()?)
}

/// The shells that wait or waited: VMMs that were told their size only.
fn shells(worker: &Worker) -> Vec<Pid> {
    let is_shell = |process: &Pid| {
        let options = options(*process);
        options[0].ends_with("votive-vmm") && options.iter().any(|option| option == "--shell")
    };
    worker.microvms().into_iter().filter(is_shell).collect()
}

/// Waits until so many shells wait, beside those that have become microVMs.
fn await_shells(worker: &Worker, taken: &[Pid]) -> Result<Vec<Pid>> {
    worker.await_some("two shells", || {
        let ready = worker.metric("votive_shells")?;
        let mut waiting = shells(worker);
        waiting.retain(|process| !taken.contains(process));
        Ok((ready >= 2.0 && waiting.len() == 2).then_some(waiting))
    })
}

fn served() -> Result<()> {
    let worker = Worker::bare(&[USERS, REQUIRED, SHELLS])?;
    let version = worker.register(&Version::tell()?)?;
    // Nobody knew the size.
    let first = worker.invoke(&version, &json!({ "echo": 7 }))?;
    ensure!(first.code == 0 && first.response["echo"] == json!(7), "{first:?}");
    let process = worker.environments()?.first().and_then(|one| one.process);
    let process = process.context("no process")?;
    ensure!(!options(process).iter().any(|option| option == "--shell"), "it was a shell");
    let started = || worker.metric("votive_environment_start_seconds_sum");
    let without = started()?;
    let waiting = await_shells(&worker, &[])?;
    for shell in &waiting {
        let memory = memory_bytes(*shell)?;
        eprintln!("a shell that waits takes {memory} bytes");
        ensure!(memory < MEMORY_MAX, "{memory} bytes");
    }
    kill_process(process, Signal::KILL)?;
    worker.await_environments(|all| all.iter().all(|one| one.process != Some(process)))?;
    let second = worker.invoke(&version, &json!({ "echo": 8 }))?;
    ensure!(second.code == 0 && second.response["echo"] == json!(8), "{second:?}");
    let process = worker.environments()?.first().and_then(|one| one.process);
    let process = process.context("no process")?;
    ensure!(waiting.contains(&process), "{process:?} is none of {waiting:?}");
    let with = started()? - without;
    eprintln!("an environment was started in {without:.4} s, in a shell in {with:.4} s");
    check_jail(process)?;
    let group = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero()))?;
    ensure!(group.contains("/votive-environments/shell-"), "it is in {group}");
    // It is as warm as any, and throttled as any.
    let third = worker.invoke(&version, &json!({ "echo": 9 }))?;
    ensure!(third.code == 0 && third.environment == second.environment, "{third:?}");
    let (taken, missed) =
        (worker.metric("votive_shells_taken_total")?, worker.metric("votive_shells_missed_total")?);
    ensure!((taken, missed) == (1.0, 1.0), "{taken} taken, {missed} missed");
    let again = await_shells(&worker, &[process])?;
    ensure!(again.iter().any(|one| !waiting.contains(one)), "{again:?} are {waiting:?}");
    worker.drain()
}

fn replaced() -> Result<()> {
    let mut worker = Worker::bare(&[USERS, REQUIRED, SHELLS])?;
    let version = worker.register(&Version::tell()?)?;
    let first = worker.invoke(&version, &json!({}))?;
    ensure!(first.code == 0, "{first:?}");
    let waiting = await_shells(&worker, &[])?;
    for shell in &waiting {
        kill_process(*shell, Signal::KILL)?;
    }
    worker.await_some("the loss of both", || {
        Ok((worker.metric("votive_shells_lost_total")? >= 2.0).then_some(()))
    })?;
    let others = await_shells(&worker, &[])?;
    ensure!(others.iter().all(|shell| !waiting.contains(shell)), "{others:?} are {waiting:?}");
    // The groups of those that were killed are gone: there are those of the environment and of two shells.
    worker.await_some("the end of their groups", || {
        Ok((worker.groups()?.len() == 3).then_some(()))
    })?;
    // Nor does one outlive its agent.
    worker.signal(Signal::KILL)?;
    worker.wait()?;
    worker.await_some("the end of all", || Ok(worker.microvms().is_empty().then_some(())))?;
    worker.begin()?;
    worker.drain()
}
