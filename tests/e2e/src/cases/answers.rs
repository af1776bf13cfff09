//! Real runtimes answer, and `votive run` tells of it as it should.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Case;
use crate::harness::{Function, bounded, images};

pub(super) const CASES: &[(&str, Case)] = &[
    ("python_answers_with_its_context", python),
    ("node_answers_with_its_context", node),
    ("the_demo_functions_answer", demo),
    ("a_custom_runtime_gets_its_event_back", custom),
    ("a_streamed_answer_comes_whole", streamed),
    ("the_log_comes_whole_and_in_order", log),
    ("the_phases_of_a_cold_start_are_all_seen_in_order", phases),
    ("the_console_is_kept_when_that_is_asked_for", console),
    ("nothing_but_the_response_is_printed_when_that_is_asked_for", quiet),
    ("the_doctor_says_that_guests_can_run", doctor),
];

fn python() -> Result<()> {
    let source = "import os\ndef handler(event, context):\n  print('said')\n  return {'a': event['a'] + 1, \
                  'name': context.function_name, 'version': context.function_version, \
                  'memory': context.memory_limit_in_mb, 'left': context.get_remaining_time_in_millis(), \
                  'arn': context.invoked_function_arn, 'id': context.aws_request_id}";
    let ran = Function::python(source).invoke(&json!({ "a": 1 }))?;
    ensure!(ran.code == 0, "{ran:?}");
    ensure!(ran.response["a"] == json!(2), "{ran:?}");
    ensure!(ran.response["name"] == json!("function"), "{ran:?}");
    ensure!(ran.response["version"] == json!("$LATEST"), "{ran:?}");
    ensure!(ran.response["memory"] == json!("128"), "{ran:?}");
    let left = ran.response["left"].as_i64().unwrap_or_default();
    ensure!((1..=61_000).contains(&left), "{left} ms are left of 60 s");
    let arn = "arn:aws:lambda:us-east-1:012345678912:function:function";
    ensure!(ran.response["arn"] == json!(arn), "{ran:?}");
    let id = ran.response["id"].as_str().unwrap_or_default().to_owned();
    for line in ["START", "END", "REPORT"] {
        ensure!(ran.line(line)?.contains(&format!("RequestId: {id}")), "{}", ran.log);
    }
    ensure!(ran.line("said")? == "said", "{}", ran.log);
    Ok(())
}

fn node() -> Result<()> {
    let source = "export const handler = async (event, context) => ({ a: event.a + 1, \
                  name: context.functionName, id: context.awsRequestId, version: process.version });";
    let ran = Function::node(source).invoke(&json!({ "a": 1 }))?;
    ensure!(ran.code == 0, "{ran:?}");
    ensure!(ran.response["a"] == json!(2) && ran.response["name"] == json!("function"), "{ran:?}");
    let version = ran.response["version"].as_str().unwrap_or_default();
    ensure!(version.starts_with("v24."), "Node.js {version}");
    Ok(())
}

fn demo() -> Result<()> {
    for (runtime, handler, zip) in [
        ("python3.11", "app.handler", "python.zip"),
        ("nodejs24", "app.handler", "node.zip"),
        ("provided", "bootstrap", "rust.zip"),
    ] {
        let ran = Function::demo(runtime, handler, zip).invoke(&json!({ "name": "votive" }))?;
        ensure!(ran.code == 0, "{zip}: {ran:?}");
        ensure!(ran.response.is_object(), "{zip}: {ran:?}");
        let report = ran.line("REPORT")?;
        for field in [
            "Duration: ",
            "Billed Duration: ",
            "Memory Size: 128 MB",
            "Max Memory Used: ",
            "Init Duration: ",
        ] {
            ensure!(report.contains(field), "{zip}: no {field:?} in {report}");
        }
    }
    Ok(())
}

fn custom() -> Result<()> {
    let event = json!({ "text": "äöü \u{1f56f}", "list": [1, 2.5, null, true] });
    let ran = Function::probe("echo").invoke(&event)?;
    ensure!(ran.code == 0 && ran.response == event, "{ran:?}");
    ensure!(ran.object["functionError"].is_null(), "{ran:?}");
    let report = ran.line("REPORT RequestId: ")?;
    let fields: Vec<_> = report.split('\t').collect();
    for (place, start, end) in [
        (1, "Duration: ", " ms"),
        (2, "Billed Duration: ", " ms"),
        (3, "Memory Size: 128 MB", ""),
        (4, "Max Memory Used: ", " MB"),
        (5, "Init Duration: ", " ms"),
    ] {
        let field = fields.get(place).copied().unwrap_or_default();
        ensure!(field.starts_with(start) && field.ends_with(end), "{report}");
    }
    let metrics = &ran.object["report"];
    let duration = metrics["durationMs"].as_f64().unwrap_or_default();
    let billed = metrics["billedDurationMs"].as_f64().unwrap_or_default();
    ensure!(duration > 0.0 && (duration.ceil() - billed).abs() < 0.5, "{metrics}");
    let used = metrics["maxMemoryUsedMB"].as_u64().unwrap_or_default();
    ensure!((1..=128).contains(&used), "{metrics}");
    Ok(())
}

fn streamed() -> Result<()> {
    let ran = Function::probe("streaming").invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response == json!("streaming"), "{ran:?}");
    Ok(())
}

fn log() -> Result<()> {
    let ran = Function::probe("log").invoke(&json!({}))?;
    ensure!(ran.code == 0, "{ran:?}");
    let lines: Vec<_> = ran.log.lines().filter(|line| line.starts_with("line ")).collect();
    ensure!(lines.len() == 5000, "{} lines of 5000", lines.len());
    for (number, line) in lines.iter().enumerate() {
        ensure!(
            *line == format!("line {number:04} of the log"),
            "{line} in place of line {number}"
        );
    }
    ensure!(ran.line("no end")? == "no end", "{}", ran.log);
    let (start, end) = (ran.log.find("START ").unwrap_or(usize::MAX), ran.log.find("END "));
    ensure!(Some(start) < end && ran.log.find("no end") < end, "the order of the log");

    let arguments = ["--log-format", "json"];
    let ran = Function::probe("echo").arguments(arguments).invoke(&json!({}))?;
    let kinds: Vec<_> = ran
        .log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|object| object["type"].as_str().map(str::to_owned))
        .collect();
    ensure!(
        kinds == ["platform.start", "platform.runtimeDone", "platform.report"],
        "{kinds:?} in {}",
        ran.log
    );
    Ok(())
}

fn phases() -> Result<()> {
    let ran = Function::probe("echo").invoke(&json!({}))?;
    let names =
        ["images", "process start", "KVM set-up", "kernel", "PID 1", "runtime init", "handler"];
    let mut sum = 0.0;
    for name in names {
        let Some(ms) = ran.phase_ms(name) else {
            anyhow::bail!("no phase {name}: {}", ran.object["coldStart"]);
        };
        ensure!(ms >= 0.0, "{name} took {ms} ms");
        sum += if name == "images" { 0.0 } else { ms };
    }
    let total = ran.object["coldStart"]["totalMs"].as_f64().unwrap_or_default();
    // What lies between two phases is the sending of one message.
    ensure!(sum <= total && total - sum < 0.2 * total, "{sum} ms of {total} ms are told");
    Ok(())
}

fn console() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let function = Function::probe("echo").directory(folder.path()).arguments(["--keep-logs"]);
    let ran = function.invoke(&json!({}))?;
    ensure!(ran.code == 0, "{ran:?}");
    let kept: Vec<_> = std::fs::read_dir(folder.path())?.collect::<Result<_, _>>()?;
    let [kept] = kept.as_slice() else { anyhow::bail!("{kept:?} is kept") };
    let name = kept.file_name().to_string_lossy().into_owned();
    ensure!(name.starts_with("votive-logs-"), "{name}");
    let console = std::fs::read_to_string(kept.path().join("console.log"))?;
    ensure!(console.contains("Linux version 6.12"), "the console says: {console}");
    Ok(())
}

fn quiet() -> Result<()> {
    let ended = Function::probe("log").run(&["--quiet", "--event", "[1]"])?;
    ensure!(ended.status.success(), "{ended:?}");
    ensure!(ended.stdout == b"null\n" && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

fn doctor() -> Result<()> {
    let mut command = std::process::Command::new(images()?.join("bin/votive"));
    let ended = bounded(command.arg("doctor"), std::time::Duration::from_secs(60))?;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(ended.status.success() && text.contains("This host can run guests."), "{text}");
    ensure!(text.contains("python3.11"), "{text}");
    Ok(())
}
