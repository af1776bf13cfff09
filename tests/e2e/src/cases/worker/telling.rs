//! What a worker tells of itself: metrics that match what was done, health, and logs that hold nothing of a tenant.

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use votive_control::client::ClientError;

use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::{Version, Worker, bounded};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("metrics_match_what_was_done", metrics),
    ("a_log_in_text_holds_nothing_of_a_tenant", || silence("\"text\"")),
    ("a_log_in_json_holds_nothing_of_a_tenant", || silence("\"json\"")),
    ("sigterm_lets_an_invocation_finish", drained),
    ("the_tcp_socket_asks_for_a_role", tcp),
];

/// What no log may hold.
const MARKER: &str = "8c1f-planted-marker-a7e0";

fn metrics() -> Result<()> {
    let worker = Worker::with(&[("capacity.environments", "1")])?;
    ensure!(worker.get("/healthz")? == (200, String::from("alive\n")));
    ensure!(worker.get("/readyz")? == (200, String::from("active\n")));
    let version = worker.register(&Version::tell()?.name("counted"))?;
    for event in [json!({}), json!({ "throw": true }), json!({}), json!({ "exit": 3 })] {
        worker.invoke(&version, &event)?;
    }
    let busy = worker.spawn(&version, &json!({ "sleepMs": 12_000 }), &[])?;
    worker.await_environments(|all| all.iter().any(|one| one.state == "BUSY"))?;
    let labels = "account=\"012345678912\",function=\"counted\",version=\"$LATEST\"";
    let metric = |name: &str| worker.metric(&format!("votive_{name}{{{labels}}}"));
    ensure!(metric("concurrent_executions")? == 1.0);
    await_metric(&worker, "votive_environments{state=\"busy\"}", 1.0)?;
    let refused = worker.spawn(&version, &json!({}), &["--attempts", "1"])?.refusal()?;
    ensure!(refused.0 == 4, "{refused:?}");
    ensure!(busy.answer()?.code == 0);
    worker.await_environments(|all| all.iter().all(|one| one.is_idle()))?;

    let (_, text) = worker.get("/metrics")?;
    let reason = "reason=\"ConcurrentInvocationLimitExceeded\"";
    for (series, value) in [
        (format!("votive_invocations_total{{{labels}}}"), 5.0),
        (format!("votive_errors_total{{{labels}}}"), 2.0),
        (format!("votive_throttles_total{{{labels},{reason}}}"), 1.0),
        (format!("votive_duration_seconds_count{{{labels}}}"), 5.0),
        (format!("votive_concurrent_executions{{{labels}}}"), 0.0),
        (String::from("votive_environments{state=\"idle\"}"), 1.0),
        (String::from("votive_environments{state=\"busy\"}"), 0.0),
        (String::from("votive_environments_created_total{reason=\"cold-start\"}"), 1.0),
        (String::from("votive_capacity_environments{kind=\"used\"}"), 1.0),
        (String::from("votive_capacity_environments{kind=\"total\"}"), 1.0),
        (String::from("votive_function_versions"), 1.0),
        (String::from("votive_worker_state{state=\"active\"}"), 1.0),
    ] {
        let found = await_metric(&worker, &series, value);
        ensure!(found.is_ok(), "{series} is not {value} in\n{text}");
    }
    let all = worker.environments()?;
    let destroyed = all.first().map(|one| one.id.clone()).unwrap_or_default();
    worker.ask(&["environments", "destroy", &destroyed])?;
    worker.await_environments(<[_]>::is_empty)?;
    let ended = "votive_environments_ended_total{reason=\"operator-request\"}";
    ensure!(worker.metric(ended)? == 1.0, "{ended}");
    worker.drain()
}

/// Waits until a series has a value: gauges of the worker are those of its last answer to the pulse, which beats every second.
fn await_metric(worker: &Worker, series: &str, value: f64) -> Result<()> {
    worker.await_some(series, || {
        Ok((worker.metric(series)?.to_bits() == value.to_bits()).then_some(()))
    })
}

/// Everything that a tenant entrusts to the worker holds the marker, and everything is logged.
fn silence(format: &str) -> Result<()> {
    let mut worker = Worker::with(&[("log.level", "\"trace\""), ("log.format", format)])?;
    let variable = format!("SECRET={MARKER}");
    let version = Version::tell()?.arguments(["--env", &variable]);
    let version = worker.register(&version)?;
    for mut event in [json!({}), json!({ "throw": true }), json!({ "exit": 3 })] {
        event["print"] = json!(MARKER);
        event["echo"] = json!(MARKER);
        event["env"] = json!("SECRET");
        let context = format!("{{\"x\":\"{MARKER}\"}}");
        let told = worker.spawn(&version, &event, &["--client-context", &context])?.answer()?;
        ensure!(told.log_tail.contains(MARKER), "{told:?}");
        if told.code == 0 {
            ensure!(told.response["env"] == json!(MARKER), "{told:?}");
        }
    }
    worker.signal(Signal::TERM)?;
    let ended = worker.wait()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.status);
    ensure!(ended.stderr.lines().count() > 50, "{}", ended.stderr);
    for line in ended.stderr.lines() {
        ensure!(!line.contains(MARKER), "{line}");
        let is_json = serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object());
        ensure!(is_json == (format == "\"json\""), "{line}");
    }
    worker.check_leftovers()
}

fn drained() -> Result<()> {
    let mut worker = Worker::start()?;
    let version = worker.register(&Version::tell()?)?;
    let watch = worker.watch(&["--logs"])?;
    let event = json!({ "print": "under way", "sleepMs": 5000, "echo": 7 });
    let invocation = worker.spawn(&version, &event, &[])?;
    watch.await_log("under way")?;
    block_on(async {
        // Connected before, for all of what follows must be over before the invocation is.
        let client = worker.connect().await?;
        worker.signal(Signal::TERM)?;
        worker.await_some("the drain", || {
            Ok((worker.get("/readyz")? == (503, String::from("draining\n"))).then_some(()))
        })?;
        let refused = client.reserve(&version, "00000000-0000-4000-8000-000000000001").await;
        let refusal = refused.err().context("reserved while draining")?;
        let name = "ResourceNotReadyException";
        ensure!(matches!(&refusal, ClientError::Refused(it) if it.name == name), "{refusal:?}");
        Ok(())
    })?;
    let told = invocation.answer()?;
    ensure!(told.code == 0 && told.response["echo"] == json!(7), "{told:?}");
    let ended = worker.wait()?;
    ensure!(ended.status.code() == Some(0), "{}", ended.status);
    worker.check_leftovers()
}

fn tcp() -> Result<()> {
    let mut worker = Worker::with(&[("control.tcp", "\"127.0.0.1:0\"")])?;
    let ready: Value = serde_json::from_str(&worker.await_words(&["\"ready\""])?)?;
    let addresses = ready["control"].as_str().unwrap_or_default().to_owned();
    let address = addresses.split(", ").find(|address| address.starts_with("https://"));
    let address = address.with_context(|| addresses.clone())?;
    let observer = |words: &[&str]| {
        let mut command = worker.votive_elsewhere(words, address, "observer")?;
        bounded(&mut command, crate::harness::worker::PATIENCE)
    };
    let status = observer(&["status"])?;
    ensure!(status.status.success(), "{addresses}: {}", status.stderr);
    let status: Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status["lease"]["state"] == json!("ACTIVE"), "{status}");
    let refused = observer(&["drain"])?;
    ensure!(refused.status.code() == Some(1), "{}", refused.status);
    ensure!(refused.stderr.contains("AccessDeniedException"), "{}", refused.stderr);
    ensure!(worker.metric("votive_control_connections_refused_total{reason=\"role\"}")? == 1.0);
    worker.drain()
}
