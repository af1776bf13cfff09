//! Fifty environments on one worker, and what each of them costs.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{Version, VmmMemory, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[("fifty_environments_at_once_each_answer", fifty)];

const ENVIRONMENTS: usize = 50;
/// What a VMM may take beside its guest's memory, in KiB.
const PRIVATE_MAX_KIB: u64 = 3 * 1024;

fn fifty() -> Result<()> {
    let worker = Worker::bare(&[])?;
    let version = Version::tell()?.memory(128).arguments(["--version", "1"]);
    let version = worker.register(&version)?;
    let agent_before = resident_kib(worker.pid())?;
    let started = Instant::now();
    let wanted = ENVIRONMENTS.to_string();
    worker.ask(&["provisioned", "set", &version, &wanted])?;
    // Fifty guests boot on one emulated processor.
    let mut available = 0;
    while available < ENVIRONMENTS as u64 {
        available = worker.await_some("one more environment", || {
            let state = worker.ask(&["provisioned", "get", &version])?;
            let now = state["available"].as_u64().context("no number")?;
            Ok((now > available).then_some(now))
        })?;
    }
    println!("{ENVIRONMENTS} environments after {:.1?}", started.elapsed());

    let answered = Instant::now();
    let mut under_way = Vec::new();
    for number in 0..ENVIRONMENTS {
        // Long enough that the last one has begun before the first is over: no environment serves two.
        let event = json!({ "echo": number, "sleepMs": 30_000 });
        under_way.push((number, worker.spawn(&version, &event, &[])?));
    }
    let (mut boots, mut environments) = (BTreeSet::new(), BTreeSet::new());
    for (number, invocation) in under_way {
        let told = invocation.answer()?;
        ensure!(told.code == 0 && told.response["echo"] == json!(number), "{told:?}");
        ensure!(told.response["invocation"] == json!(1), "{told:?}");
        boots.insert(told.response["boot"].to_string());
        environments.insert(told.environment);
    }
    ensure!(boots.len() == ENVIRONMENTS, "{} guests answered", boots.len());
    ensure!(environments.len() == ENVIRONMENTS, "{} environments answered", environments.len());
    println!("each answered once, {:.1?}", answered.elapsed());

    let all = worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;
    ensure!(all.len() == ENVIRONMENTS, "{} environments", all.len());
    let mut memory = Vec::new();
    for one in &all {
        memory.push(VmmMemory::of(one.process.context("no process")?)?);
    }
    let agent = resident_kib(worker.pid())?.saturating_sub(agent_before);
    report(&memory, agent)?;
    worker.drain()
}

fn report(memory: &[VmmMemory], agent_kib: u64) -> Result<()> {
    let figures = |name: &str, of: fn(&VmmMemory) -> u64| {
        let all: Vec<u64> = memory.iter().map(of).collect();
        let sum: u64 = all.iter().sum();
        let (least, most) = (all.iter().min().copied(), all.iter().max().copied());
        let (least, most) = (least.unwrap_or_default(), most.unwrap_or_default());
        println!("{name:<46} {:>7} KiB ({least} to {most})", sum / all.len().max(1) as u64);
        most
    };
    println!("an idle environment of a 128 MB function, of {}:", memory.len());
    figures("  touched of the guest's memory", |one| one.guest);
    let private = figures("  the VMM's own beside it", |one| one.private);
    figures("  the VMM's proportional share beside it", |one| one.proportional);
    println!("  {:<44} {:>7} KiB", "the agent's growth", agent_kib / memory.len().max(1) as u64);
    ensure!(private <= PRIVATE_MAX_KIB, "a VMM has {private} KiB of its own");
    Ok(())
}

fn resident_kib(process: rustix::process::Pid) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
