//! What a function sees of its environment (CONTRACT 4.4 and 4.5). One microVM serves all of these tests.

use std::sync::OnceLock;

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};

use super::Case;
use crate::harness::Function;

pub(super) const CASES: &[(&str, Case)] = &[
    ("the_environment_variables_are_those_of_the_contract", variables),
    ("the_request_has_its_headers", headers),
    ("everything_but_tmp_is_read_only", read_only),
    ("tmp_holds_512_mb_and_can_be_written", tmp),
    ("the_function_runs_as_an_unprivileged_user", user),
    ("what_a_function_tries_against_its_microvm_is_refused", attacks),
    ("the_function_sees_one_interface_and_no_descriptors", surroundings),
    ("a_function_of_1770_mb_sees_two_processors", processors),
    ("a_function_of_10240_mb_starts", largest_memory),
    ("a_full_tmp_is_an_error_and_no_more", full_disk),
    ("processes_are_limited_to_1024", process_limit),
];

/// The probe's report, from one microVM.
fn report() -> Result<&'static Value> {
    static REPORT: OnceLock<Result<Value, String>> = OnceLock::new();
    let made = REPORT.get_or_init(|| {
        let function = Function::probe("inspect").env("OWN", "my own").env("PATH_OF_MINE", "a:b");
        match function.invoke(&json!({ "hello": 1 })) {
            Ok(ran) if ran.code == 0 => Ok(ran.response),
            Ok(ran) => Err(format!("{ran:?}")),
            Err(error) => Err(format!("{error:#}")),
        }
    });
    made.as_ref().map_err(|error| anyhow!("{error}"))
}

fn variables() -> Result<()> {
    let environment = &report()?["environment"];
    for (key, value) in [
        ("_HANDLER", "inspect"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_LAMBDA_FUNCTION_NAME", "function"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/function"),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin"),
        ("OWN", "my own"),
        ("PATH_OF_MINE", "a:b"),
    ] {
        ensure!(environment[key] == json!(value), "{key} is {}", environment[key]);
    }
    let zone = environment["TZ"].as_str().unwrap_or_default();
    ensure!(zone == "UTC" || zone == ":UTC", "TZ is {zone:?}");
    let stream = environment["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().unwrap_or_default();
    let (date, rest) = stream.split_once("/[$LATEST]").unwrap_or_default();
    ensure!(date.len() == 10 && rest.len() == 32, "the log stream is {stream:?}");
    ensure!(
        environment["AWS_EXECUTION_ENV"].is_null(),
        "a custom runtime has no AWS_EXECUTION_ENV"
    );
    let libraries = environment["LD_LIBRARY_PATH"].as_str().unwrap_or_default();
    ensure!(libraries.ends_with(":/var/task:/var/task/lib:/opt/lib"), "{libraries}");
    Ok(())
}

fn headers() -> Result<()> {
    let headers = &report()?["headers"];
    let text = |name: &str| headers[name].as_str().unwrap_or_default();
    ensure!(text("lambda-runtime-aws-request-id").len() == 36, "{headers}");
    ensure!(
        text("lambda-runtime-invoked-function-arn").ends_with(":function:function"),
        "{headers}"
    );
    ensure!(text("lambda-runtime-trace-id").starts_with("Root=1-"), "{headers}");
    ensure!(text("content-type") == "application/json", "{headers}");
    let deadline: u64 = text("lambda-runtime-deadline-ms").parse()?;
    ensure!(deadline > 1_700_000_000_000, "{headers}");
    ensure!(headers["lambda-runtime-client-context"].is_null(), "{headers}");
    Ok(())
}

fn read_only() -> Result<()> {
    const EROFS: i64 = 30;
    const EACCES: i64 = 13;
    let writes = report()?["writes"].as_object().ok_or_else(|| anyhow!("no writes"))?.clone();
    ensure!(writes.len() == 7, "{writes:?}");
    for (path, errno) in writes {
        let errno = errno.as_i64().unwrap_or_default();
        // Permissions are looked at before the file system is; either way nothing is written.
        ensure!(errno == EROFS || errno == EACCES, "writing to {path}: errno {errno}");
    }
    let mounts = report()?["mounts"].as_str().unwrap_or_default();
    let options = |target: &str| {
        mounts.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>()).find_map(|words| {
            (words.get(1) == Some(&target))
                .then(|| words.get(3).copied().unwrap_or_default().to_owned())
        })
    };
    for target in ["/", "/var/task"] {
        let options = options(target).unwrap_or_default();
        ensure!(options.split(',').any(|option| option == "ro"), "{target}: {options}: {mounts}");
    }
    Ok(())
}

fn tmp() -> Result<()> {
    let tmp = &report()?["tmp"];
    ensure!(tmp["same"] == json!(true), "{tmp}");
    let bytes = tmp["bytes"].as_u64().unwrap_or_default();
    ensure!((480 << 20..=512 << 20).contains(&bytes), "/tmp has {bytes} bytes");
    Ok(())
}

fn user() -> Result<()> {
    let report = report()?;
    ensure!(report["uid"] == json!(993) && report["gid"] == json!(990), "{report}");
    ensure!(report["groups"] == json!([]) || report["groups"] == json!([990]), "{report}");
    ensure!(report["capabilities"] == json!("0000000000000000"), "{report}");
    ensure!(report["cwd"] == json!("/var/task"), "{report}");
    ensure!(report["files"] == json!(1024), "{report}");
    Ok(())
}

fn attacks() -> Result<()> {
    const EPERM: i64 = 1;
    const ENOENT: i64 = 2;
    const EACCES: i64 = 13;
    const EAFNOSUPPORT: i64 = 97;
    let report = report()?;
    ensure!(report["seccomp"] == json!("2"), "Seccomp: {}", report["seccomp"]);
    let attacks = report["attacks"].as_object().ok_or_else(|| anyhow!("no attacks"))?;
    for (attack, errno) in attacks {
        let errno = errno.as_i64().unwrap_or_default();
        let allowed: &[i64] = match attack.as_str() {
            "local socket" | "IPv4 socket" => &[0],
            // Not there at all, or not for this user.
            path if path.starts_with('/') => &[ENOENT, EACCES, EPERM],
            socket if socket.starts_with("vsock") || socket.ends_with("socket") => &[EAFNOSUPPORT],
            "see PID 1" => &[ENOENT, EACCES],
            _ => &[EPERM],
        };
        ensure!(allowed.contains(&errno), "{attack}: errno {errno}, not {allowed:?}");
    }
    ensure!(attacks.len() == 30, "{} attacks: {attacks:?}", attacks.len());
    Ok(())
}

fn surroundings() -> Result<()> {
    let report = report()?;
    ensure!(report["interfaces"] == json!(["lo"]), "{}", report["interfaces"]);
    ensure!(report["processors"] == json!(1), "{}", report["processors"]);
    let descriptors = report["descriptors"].as_array().cloned().unwrap_or_default();
    let names: Vec<_> = descriptors.iter().filter_map(Value::as_str).collect();
    // Standard input, output and error, and nothing of PID 1's.
    let own = |name: &&str| name.starts_with("pipe:") || *name == "/dev/null";
    ensure!(names.len() == 3 && names.iter().all(own), "{names:?}");
    ensure!(report["year"].as_u64() >= Some(2026), "the year is {}", report["year"]);
    ensure!(report["random"].as_str().is_some_and(|text| text.len() == 36), "{}", report["random"]);
    Ok(())
}

fn processors() -> Result<()> {
    let ran = Function::probe("inspect").memory(1770).invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response["processors"] == json!(2), "{ran:?}");
    ensure!(ran.line("REPORT")?.contains("Memory Size: 1770 MB"), "{}", ran.log);
    Ok(())
}

fn largest_memory() -> Result<()> {
    let ran = Function::probe("inspect").memory(10_240).invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response["processors"] == json!(6), "{ran:?}");
    let memory = &ran.response["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"];
    ensure!(*memory == json!("10240"), "{memory}");
    Ok(())
}

fn full_disk() -> Result<()> {
    const ENOSPC: i64 = 28;
    let ran = Function::probe("disk").timeout(120).invoke(&json!({}))?;
    ensure!(ran.code == 0 && ran.response["errno"] == json!(ENOSPC), "{ran:?}");
    let written = ran.response["written"].as_u64().unwrap_or_default();
    ensure!((450 << 20..=512 << 20).contains(&written), "{written} bytes were written");
    Ok(())
}

fn process_limit() -> Result<()> {
    let ran = Function::probe("processes").memory(256).invoke(&json!({}))?;
    let threads = ran.response["threads"].as_u64().unwrap_or_default();
    ensure!(ran.code == 0 && (1000..1024).contains(&threads), "{ran:?}");
    Ok(())
}
