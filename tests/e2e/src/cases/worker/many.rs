//! Fifty environments on one worker, and what each of them costs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use votive_control::client::Client;
use votive_control::v1;

use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::worker::PATIENCE;
use crate::harness::{Version, VmmMemory, Worker};

pub(crate) const CASES: &[(&str, Case)] = &[("fifty_environments_at_once_each_answer", fifty)];

const ENVIRONMENTS: u32 = 50;
/// How long they may take to boot one after another, on an emulated processor that others want too.
const BOOTS_MAX: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(100);
/// What a VMM may take beside its guest's memory, in KiB.
const PRIVATE_MAX_KIB: u64 = 3 * 1024;

fn fifty() -> Result<()> {
    let worker = Worker::bare(&[("environments.reservation_lifetime", "\"1m\"")])?;
    let version = Version::tell()?.memory(128).arguments(["--version", "1"]);
    let version = worker.register(&version)?;
    let before = resident_kib(worker.pid())?;
    block_on(async {
        let client = worker.connect().await?;
        let started = Instant::now();
        client.set_provisioned(&version, ENVIRONMENTS).await?;
        while client.provisioned(&version).await?.available < ENVIRONMENTS {
            ensure!(started.elapsed() < BOOTS_MAX, "{:#?}", client.provisioned(&version).await?);
            tokio::time::sleep(LOOK).await;
        }
        println!("{ENVIRONMENTS} environments after {:.1?}", started.elapsed());
        let answered = Instant::now();
        answer_all(&client, &version).await?;
        println!("each answered once, after {:.1?}", answered.elapsed());
        Ok(())
    })?;

    let all = worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;
    ensure!(all.len() == ENVIRONMENTS as usize, "{} environments", all.len());
    let mut memory = Vec::new();
    for one in &all {
        memory.push(VmmMemory::of(one.process.context("no process")?)?);
    }
    let agent = resident_kib(worker.pid())?.saturating_sub(before);
    report(&memory, agent, charged_kib(&worker)?)?;
    worker.drain()
}

/// Reserves every environment, and then invokes in all of them at once.
async fn answer_all(client: &Client, version: &str) -> Result<()> {
    let mut under_way = Vec::new();
    for number in 0..ENVIRONMENTS {
        let invocation = format!("00000000-0000-4000-8000-{number:012x}");
        let reserved = client.reserve(version, &invocation).await?;
        ensure!(!reserved.cold, "{reserved:?}");
        let start = v1::InvokeStart {
            token: reserved.token,
            invocation_id: reserved.invocation_id,
            function_version_id: reserved.function_version_id,
            ..Default::default()
        };
        under_way.push((number, reserved.environment_id, start));
    }
    let mut answers = Vec::new();
    for (number, environment, start) in under_way {
        let event = json!({ "echo": number }).to_string().into_bytes();
        let answer = client.invoke(start, event.into(), PATIENCE).await?;
        answers.push((number, environment, answer));
    }
    let (mut boots, mut environments) = (BTreeSet::new(), BTreeSet::new());
    for (number, environment, answer) in answers {
        let outcome = answer.collect(1 << 16).await?;
        let told: Value = serde_json::from_slice(&outcome.payload)?;
        ensure!(told["echo"] == json!(number) && told["invocation"] == json!(1), "{told}");
        boots.insert(told["boot"].to_string());
        environments.insert(environment);
    }
    ensure!(boots.len() == ENVIRONMENTS as usize, "{} guests answered", boots.len());
    ensure!(environments.len() == ENVIRONMENTS as usize, "{} environments", environments.len());
    Ok(())
}

fn report(memory: &[VmmMemory], agent_kib: u64, charged_kib: u64) -> Result<()> {
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
    println!("  {:<44} {charged_kib:>7} KiB", "all that its control group is charged for");
    println!("  {:<44} {:>7} KiB", "the agent's growth", agent_kib / memory.len().max(1) as u64);
    ensure!(private <= PRIVATE_MAX_KIB, "a VMM has {private} KiB of its own");
    Ok(())
}

/// What an environment's control group is charged for on average: its processes' memory, the kernel's for them, and what of the
/// page cache they were the first to read.
fn charged_kib(worker: &Worker) -> Result<u64> {
    let groups = worker.groups()?;
    let mut bytes = 0;
    for group in &groups {
        bytes += std::fs::read_to_string(group.join("memory.current"))?.trim().parse::<u64>()?;
    }
    Ok(bytes / 1024 / (groups.len() as u64).max(1))
}

fn resident_kib(process: rustix::process::Pid) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}
