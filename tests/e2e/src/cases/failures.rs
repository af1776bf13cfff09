//! Functions that fail: each ends in the error that CONTRACT 4.6 documents, in bounded time.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Case;
use crate::harness::{Function, Ran};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_handler_that_does_not_exist", no_handler),
    ("a_module_that_does_not_exist", no_module),
    ("a_handler_that_throws", throws),
    ("a_handler_that_exits", exits),
    ("a_handler_that_is_killed", killed),
    ("a_handler_that_loops_for_ever", hangs),
    ("a_handler_that_fills_the_memory", fills_memory),
    ("a_response_of_6_mib_and_101_bytes", oversized),
    ("a_handler_that_answers_twice", twice),
    ("a_runtime_that_ends_after_its_answer", ends_after_answer),
    ("an_init_phase_that_fails_is_run_again", init_failures),
    ("an_init_phase_that_hangs_is_ended", init_hangs),
    ("a_zip_without_a_bootstrap", no_bootstrap),
    ("an_event_that_is_not_json", bad_event),
];

const PYTHON: &str = "import os, sys, time\n\
    def throws(event, context): raise ValueError('thrown ' + event['a'])\n\
    def exits(event, context): os._exit(3)\n\
    def leaves(event, context): sys.exit(1)\n";

/// Checks the error of a function: its type and message as the caller gets them, and the status of its report.
fn check(ran: &Ran, error_type: &str, message: &str, status: &str) -> Result<()> {
    ensure!(ran.code == 3, "exit code {}: {ran:?}", ran.code);
    ensure!(ran.object["functionError"] == json!("Unhandled"), "{ran:?}");
    ensure!(ran.response["errorType"] == json!(error_type), "{ran:?}");
    let told = ran.response["errorMessage"].as_str().unwrap_or_default();
    let told = match told.split_once(" Error: ") {
        Some((id, rest)) if id.starts_with("RequestId: ") => rest,
        _ => told,
    };
    ensure!(told == message, "the message is {told:?}");
    let report = ran.line("REPORT")?;
    ensure!(report.contains(status), "{report}");
    Ok(())
}

fn no_handler() -> Result<()> {
    let ran = Function::python(PYTHON).handler("app.missing").invoke(&json!({}))?;
    let message = "Handler 'missing' missing on module 'app'";
    check(&ran, "Runtime.HandlerNotFound", message, "Error Type: Runtime.HandlerNotFound")?;
    ensure!(ran.line("INIT_REPORT")?.contains("Phase: init\tStatus: error"), "{}", ran.log);
    Ok(())
}

fn no_module() -> Result<()> {
    let ran = Function::python(PYTHON).handler("nowhere.handler").invoke(&json!({}))?;
    let message = "Unable to import module 'nowhere': No module named 'nowhere'";
    check(&ran, "Runtime.ImportModuleError", message, "Error Type: Runtime.ImportModuleError")
}

fn throws() -> Result<()> {
    let ran = Function::python(PYTHON).handler("app.throws").invoke(&json!({ "a": "x" }))?;
    check(&ran, "ValueError", "thrown x", "Status: error")?;
    ensure!(ran.response["stackTrace"].is_array(), "{ran:?}");
    let ran = Function::probe("throw").invoke(&json!({}))?;
    check(&ran, "Thrown", "thrown", "Error Type: Function.Thrown")
}

fn exits() -> Result<()> {
    let ran = Function::python(PYTHON).handler("app.exits").invoke(&json!({}))?;
    let message = "Runtime exited with error: exit status 3";
    check(&ran, "Runtime.ExitError", message, "Error Type: Runtime.ExitError")?;
    let ran = Function::probe("exit-0").invoke(&json!({}))?;
    let message = "Runtime exited without providing a reason";
    check(&ran, "Runtime.ExitError", message, "Status: error\tError Type: Runtime.ExitError")
}

fn killed() -> Result<()> {
    let ran = Function::probe("killed").invoke(&json!({}))?;
    let message = "Runtime exited with error: signal: killed";
    check(&ran, "Runtime.ExitError", message, "Error Type: Runtime.ExitError")?;
    let ran = Function::probe("aborted").invoke(&json!({}))?;
    let message = "Runtime exited with error: signal: aborted";
    check(&ran, "Runtime.ExitError", message, "Error Type: Runtime.ExitError")
}

fn hangs() -> Result<()> {
    let ran = Function::probe("hang").timeout(2).invoke(&json!({}))?;
    check(&ran, "Sandbox.Timedout", "Task timed out after 2.00 seconds", "Status: timeout")?;
    let report = ran.line("REPORT")?;
    ensure!(report.contains("Duration: 2000.00 ms\tBilled Duration: 2000 ms"), "{report}");
    ensure!(ran.line("hanging")? == "hanging", "{}", ran.log);
    Ok(())
}

fn fills_memory() -> Result<()> {
    let ran = Function::probe("fill").invoke(&json!({}))?;
    let message = "Runtime exited with error: signal: killed";
    check(&ran, "Runtime.ExitError", message, "Error Type: Runtime.OutOfMemory")?;
    let used = ran.object["report"]["maxMemoryUsedMB"].as_u64().unwrap_or_default();
    ensure!((120..=128).contains(&used), "it used {used} MB");
    Ok(())
}

fn oversized() -> Result<()> {
    let message = "Response payload size exceeded maximum allowed payload size (6291556 bytes).";
    let ran = Function::probe("oversized").invoke(&json!({}))?;
    check(&ran, "Function.ResponseSizeTooLarge", message, "Status: error")?;
    ensure!(ran.line("oversized: ")? == "oversized: 413", "{}", ran.log);
    Ok(())
}

fn twice() -> Result<()> {
    let ran = Function::probe("twice").invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response == json!("first"), "{ran:?}");
    let second = ran.line("second answer: ")?;
    ensure!(second == "second answer: 400" || second == "second answer: 403", "{second}");
    Ok(())
}

fn ends_after_answer() -> Result<()> {
    let ran = Function::probe("exit-after-answer").invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response == json!("answered"), "{ran:?}");
    ensure!(ran.line("REPORT")?.contains("Error Type: Runtime.ExitError"), "{}", ran.log);
    Ok(())
}

fn init_failures() -> Result<()> {
    let ran = Function::probe("init-error").invoke(&json!({}))?;
    check(&ran, "Function.NoSuchThing", "no such thing", "Error Type: Function.NoSuchThing")?;
    let phases: Vec<_> = ran.log.lines().filter(|line| line.starts_with("INIT_REPORT")).collect();
    ensure!(phases.len() == 2, "{}", ran.log);
    for (line, phase) in phases.iter().zip(["init", "invoke"]) {
        let tail = format!("Phase: {phase}\tStatus: error\tError Type: Function.NoSuchThing");
        ensure!(line.ends_with(&tail), "{line}");
    }
    let ran = Function::probe("init-exit").invoke(&json!({}))?;
    let message = "Runtime exited with error: exit status 4";
    check(&ran, "Runtime.ExitError", message, "Error Type: Runtime.ExitError")
}

fn init_hangs() -> Result<()> {
    let ran = Function::probe("init-hang").init_timeout(2).timeout(2).invoke(&json!({}))?;
    check(&ran, "Sandbox.Timedout", "Task timed out after 2.00 seconds", "Status: timeout")?;
    ensure!(ran.line("INIT_REPORT")?.contains("Phase: init\tStatus: timeout"), "{}", ran.log);
    Ok(())
}

fn no_bootstrap() -> Result<()> {
    let ran = Function::python(PYTHON).runtime("provided").invoke(&json!({}))?;
    ensure!(ran.code == 3, "{ran:?}");
    ensure!(ran.response["errorType"] == json!("Runtime.InvalidEntrypoint"), "{ran:?}");
    Ok(())
}

fn bad_event() -> Result<()> {
    let ended = Function::probe("echo").run(&["--event", "{'a': 1}"])?;
    ensure!(ended.status.code() == Some(2), "{ended:?}");
    ensure!(ended.stderr.starts_with("InvalidRequestContent: "), "{}", ended.stderr);
    ensure!(ended.stdout.is_empty() && ended.took.as_secs() < 5, "{ended:?}");
    Ok(())
}
