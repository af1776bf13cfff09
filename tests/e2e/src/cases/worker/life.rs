//! The life of a worker: leased, given a function, invoked cold and warm, drained; nothing is left.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cases::Case;
use crate::harness::{Version, Worker, write_zip};

pub(crate) const CASES: &[(&str, Case)] =
    &[("a_worker_is_leased_invoked_cold_and_warm_and_drained", whole)];

/// What the orchestrator grants: time for an invocation of a minute.
const GRANT: [&str; 6] = ["lease", "grant", "--duration", "1h", "--longest-invocation", "60s"];

fn whole() -> Result<()> {
    let source = "import os\n\
        count = 0\n\
        print('module loaded')\n\
        def handler(event, context):\n\
        \x20 global count\n\
        \x20 count += 1\n\
        \x20 print('invocation', count)\n\
        \x20 return {'a': event['a'] + 1, 'count': count, 'version': context.function_version,\n\
        \x20         'type': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE']}\n";
    let folder = tempfile::tempdir()?;
    let zip = folder.path().join("python.zip");
    write_zip(&zip, &[("app.py", source.as_bytes(), false)])?;

    let worker = Worker::with(&[("lease.source", "\"orchestrator\"")])?;
    ensure!(worker.ask(&["status"])?["lease"]["state"] == json!("UNLEASED"));
    ensure!(worker.get("/readyz")? == (503, String::from("unleased\n")));
    let python = Version::new("python3.11", "app.handler", &zip);
    let version = worker.register(&python.name("python"))?;
    let (code, said) = worker.spawn(&version, &json!({ "a": 1 }), &[])?.refusal()?;
    ensure!(code == 1 && said.contains("ResourceNotReadyException"), "{code}: {said}");
    ensure!(worker.ask(&GRANT)?["state"] == json!("ACTIVE"));

    let cold = worker.invoke(&version, &json!({ "a": 1 }))?;
    ensure!(cold.code == 0 && cold.outcome == "REUSED", "{cold:?}");
    let answer = json!({ "a": 2, "count": 1, "version": "$LATEST", "type": "on-demand" });
    ensure!(cold.response == answer, "{cold:?}");
    ensure!(cold.line("REPORT ")?.contains("\tInit Duration: "), "{}", cold.log_tail);
    ensure!(!cold.object["release"]["report"]["initDuration"].is_null(), "{cold:?}");
    let [environment] =
        worker.environments()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(environment.id == cold.environment && environment.is_idle(), "{environment:?}");
    ensure!(environment.process.is_some_and(|id| worker.microvms() == [id]), "{environment:?}");

    let warm = worker.invoke(&version, &json!({ "a": 41 }))?;
    let answer = json!({ "a": 42, "count": 2, "version": "$LATEST", "type": "on-demand" });
    ensure!(warm.code == 0 && warm.response == answer, "{warm:?}");
    ensure!(warm.environment == cold.environment, "{warm:?}");
    ensure!(!warm.line("REPORT ")?.contains("Init Duration"), "{}", warm.log_tail);
    ensure!(!warm.log_tail.contains("module loaded"), "{}", warm.log_tail);
    ensure!(warm.object["release"]["report"]["initDuration"].is_null(), "{warm:?}");
    for invoked in [&cold, &warm] {
        let id = invoked.object["release"]["invocationId"].as_str().unwrap_or_default();
        for word in ["START ", "END ", "REPORT "] {
            ensure!(invoked.line(word)?.contains(id), "{}", invoked.log_tail);
        }
    }
    println!("{}\n{}", cold.line("REPORT ")?, warm.line("REPORT ")?);
    let [environment] =
        worker.environments()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(environment.invocations == 2, "{environment:?}");

    let gone = worker.ask(&["environments", "destroy", &environment.id])?;
    ensure!(gone["endingFor"] == json!("operator-request"), "{gone}");
    worker.await_environments(<[_]>::is_empty)?;
    ensure!(worker.microvms().is_empty());
    // The next one starts again, and is there when the worker drains.
    let again = worker.invoke(&version, &json!({ "a": 1 }))?;
    ensure!(again.response["count"] == json!(1), "{again:?}");
    ensure!(again.environment != cold.environment, "{again:?}");
    worker.drain()
}
