//! A worker whose VMMs are jailed: that they run there, and that nothing is left of them however the agent ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{Function, Version, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("a_workers_vmms_run_in_jails_and_are_replaced_when_they_are_killed", jailed),
    ("an_agent_that_is_killed_leaves_no_jail", agent_killed),
    ("votive_run_puts_its_vmm_in_a_jail", run_jailed),
];

/// More than the environments that the configuration allows.
const USERS: (&str, &str) = ("isolation.uids", "\"2000200000-2000202047\"");
const REQUIRED: (&str, &str) = ("isolation.jail", "\"required\"");
const FIRST_USER: u32 = 2_000_200_000;

fn status(process: Pid, name: &str) -> Result<String> {
    status_in(&PathBuf::from(format!("/proc/{}", process.as_raw_nonzero())), name)
}

/// A field of a process's or a thread's status, whose folder in /proc is given.
fn status_in(folder: &Path, name: &str) -> Result<String> {
    let status = fs::read_to_string(folder.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name}"))?.trim().to_owned())
}

/// Checks that a process is in a jail of its own.
pub(super) fn check_jail(process: Pid) -> Result<()> {
    let user: u32 =
        status(process, "Uid")?.split_whitespace().next().context("no user")?.parse()?;
    ensure!(user >= FIRST_USER, "it is user {user}");
    let place = PathBuf::from(format!("/proc/{}", process.as_raw_nonzero()));
    let mut threads = 0;
    for thread in fs::read_dir(place.join("task"))? {
        let thread = thread?.path();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(status_in(&thread, set)? == "0000000000000000", "{set} of {thread:?}");
        }
        ensure!(status_in(&thread, "NoNewPrivs")? == "1", "no_new_privs is not set: {thread:?}");
        // 2: there is a filter.
        ensure!(status_in(&thread, "Seccomp")? == "2", "{thread:?} has no filter");
        threads += 1;
    }
    // The main one, a vCPU's and a disk's at least.
    ensure!(threads >= 3, "{threads} threads");
    let command = fs::read_to_string(place.join("cmdline"))?;
    let options: Vec<_> = command.split('\0').collect();
    ensure!(options.contains(&"--kvm"), "{options:?}");
    ensure!(
        options.contains(&"--userfaultfd") == Path::new("/dev/userfaultfd").exists(),
        "{options:?}"
    );
    for open in fs::read_dir(place.join("fd"))? {
        let opened = fs::read_link(open?.path())?;
        let opened = opened.to_string_lossy();
        ensure!(!opened.contains("userfault"), "{opened} is still open");
    }
    ensure!(fs::read_dir(place.join("root"))?.next().is_none(), "its root is not empty");
    for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let (own, its) = (format!("/proc/self/ns/{name}"), place.join("ns").join(name));
        ensure!(fs::read_link(own)? != fs::read_link(its)?, "{name} is the host's");
    }
    Ok(())
}

fn jailed() -> Result<()> {
    let worker = Worker::bare(&[USERS, REQUIRED])?;
    let version = worker.register(&Version::tell()?)?;
    let first = worker.invoke(&version, &json!({ "echo": 7 }))?;
    ensure!(first.code == 0 && first.response["echo"] == json!(7), "{first:?}");
    let all = worker.environments()?;
    let process = all.first().and_then(|one| one.process).context("no process")?;
    check_jail(process)?;
    let group = fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero()))?;
    ensure!(group.contains("/votive-environments/"), "it is in {group}");
    // Through the pidfd the agent learns of its end, and reaps it.
    kill_process(process, Signal::KILL)?;
    worker.await_environments(|all| all.iter().all(|one| one.process != Some(process)))?;
    let second = worker.invoke(&version, &json!({ "echo": 8 }))?;
    ensure!(second.code == 0 && second.environment != first.environment, "{second:?}");
    for process in worker.microvms() {
        check_jail(process)?;
    }
    worker.drain()
}

fn agent_killed() -> Result<()> {
    let mut worker = Worker::bare(&[USERS, REQUIRED])?;
    let version = worker.register(&Version::tell()?)?;
    ensure!(worker.invoke(&version, &json!({}))?.code == 0);
    ensure!(worker.microvms().len() == 1, "{:?}", worker.microvms());
    worker.signal(Signal::KILL)?;
    let since = Instant::now();
    worker.wait()?;
    worker
        .await_some("the end of its microVMs", || Ok(worker.microvms().is_empty().then_some(())))?;
    ensure!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    worker.begin()?;
    let again = worker.register(&Version::tell()?)?;
    ensure!(worker.invoke(&again, &json!({}))?.code == 0);
    worker.drain()
}

fn run_jailed() -> Result<()> {
    let function = Function::python("def handler(event, context): return event['a'] + 1");
    let ran = function.arguments(["--jail", "required"]).invoke(&json!({ "a": 1 }))?;
    ensure!(ran.response == json!(2), "{ran:?}");
    Ok(())
}
