//! What a worker says, as JSON and as text. The JSON is protobuf's own mapping: `lowerCamelCase`, durations as `"3.5s"`, times
//! in RFC 3339, enumerations by name, 64-bit numbers as numbers.

use std::time::Duration;

use serde_json::{Value, json};
use votive_control::v1;

use crate::clock::rfc3339_milliseconds;

/// `"3.5s"`
fn duration(value: Option<&prost_types::Duration>) -> Value {
    let Some(value) = value else { return Value::Null };
    let nanoseconds = u32::try_from(value.nanos).unwrap_or(0);
    if nanoseconds == 0 {
        return json!(format!("{}s", value.seconds));
    }
    let fraction = format!("{nanoseconds:09}");
    json!(format!("{}.{}s", value.seconds, fraction.trim_end_matches('0')))
}

fn time(value: Option<&prost_types::Timestamp>) -> Value {
    let Some(value) = value else { return Value::Null };
    let seconds = u64::try_from(value.seconds).unwrap_or(0);
    let nanoseconds = u32::try_from(value.nanos).unwrap_or(0);
    json!(rfc3339_milliseconds(
        Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds.into())
    ))
}

pub(crate) fn lease(lease: &v1::Lease) -> Value {
    json!({
        "state": state_name(lease.state().as_str_name()),
        "issued": time(lease.issued.as_ref()),
        "drainAt": time(lease.drain_at.as_ref()),
        "expires": time(lease.expires.as_ref()),
        "remaining": duration(lease.remaining.as_ref()),
    })
}

/// An enumeration's own word, without its type: `WORKER_STATE_ACTIVE` is `ACTIVE`.
fn state_name(name: &str) -> &str {
    ["WORKER_STATE_", "ENVIRONMENT_STATE_", "RELEASE_OUTCOME_", "END_OF_RESPONSE_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

fn capacity(capacity: Option<&v1::Capacity>) -> Value {
    let capacity = capacity.copied().unwrap_or_default();
    json!({
        "environments": capacity.environments,
        "memoryMb": capacity.memory_mb,
        "vcpus": capacity.vcpus,
    })
}

pub(crate) fn status(status: &v1::Status) -> Value {
    json!({
        "workerId": status.worker_id,
        "version": status.version,
        "lease": status.lease.as_ref().map(lease),
        "functionVersions": status.function_versions,
        "creating": status.creating,
        "initialising": status.initialising,
        "idle": status.idle,
        "busy": status.busy,
        "ending": status.ending,
        "capacity": capacity(status.capacity.as_ref()),
        "used": capacity(status.used.as_ref()),
        "uptime": duration(status.uptime.as_ref()),
    })
}

pub(crate) fn function_version(version: &v1::FunctionVersion) -> Value {
    json!({
        "id": version.id,
        "account": version.account,
        "functionName": version.function_name,
        "version": version.version,
        "runtime": version.runtime,
        "handler": version.handler,
        "memoryMb": version.memory_mb,
        "timeout": duration(version.timeout.as_ref()),
        "codeSha256": version.code_sha256,
        "arn": version.arn,
        "environments": version.environments,
    })
}

pub(crate) fn environment(environment: &v1::Environment) -> Value {
    json!({
        "id": environment.id,
        "functionVersionId": environment.function_version_id,
        "state": state_name(environment.state().as_str_name()),
        "initializationType": environment.initialization_type,
        "createdFor": environment.created_for,
        "endingFor": environment.ending_for,
        "processId": environment.process_id,
        "age": duration(environment.age.as_ref()),
        "invocations": environment.invocations,
    })
}

pub(crate) fn provisioned(provisioned: &v1::ProvisionedConcurrency) -> Value {
    json!({
        "functionVersionId": provisioned.function_version_id,
        "requested": provisioned.requested,
        "allocated": provisioned.allocated,
        "available": provisioned.available,
        "status": provisioned.status,
        "statusReason": provisioned.status_reason,
    })
}

pub(crate) fn report(report: &v1::Report) -> Value {
    json!({
        "duration": duration(report.duration.as_ref()),
        "billedDurationMs": report.billed_duration_ms,
        "memorySizeMb": report.memory_size_mb,
        "maxMemoryUsedMb": report.max_memory_used_mb,
        "initDuration": duration(report.init_duration.as_ref()),
        "status": report.status,
    })
}

pub(crate) fn release(release: &v1::Release) -> Value {
    json!({
        "invocationId": release.invocation_id,
        "environmentId": release.environment_id,
        "outcome": state_name(release.outcome().as_str_name()),
        "report": release.report.as_ref().map(report),
        "logTail": String::from_utf8_lossy(&release.log_tail),
    })
}

pub(crate) fn end_of_response(end: &v1::InvokeEnd) -> String {
    state_name(end.end_of_response().as_str_name()).to_owned()
}

pub(crate) fn event(event: &v1::Event) -> Value {
    use v1::event::Event;
    let (name, what) = match &event.event {
        Some(Event::Lease(value)) => ("lease", lease(value)),
        Some(Event::Environment(value)) => ("environment", environment(value)),
        Some(Event::Invocation(value)) => (
            "invocation",
            json!({
                "invocationId": value.invocation_id,
                "functionVersionId": value.function_version_id,
                "environmentId": value.environment_id,
                "report": value.report.as_ref().map(report),
                "errorType": value.error_type,
            }),
        ),
        Some(Event::Log(value)) => (
            "log",
            json!({
                "environmentId": value.environment_id,
                "invocationId": value.invocation_id,
                "line": String::from_utf8_lossy(&value.line),
            }),
        ),
        Some(Event::Missed(value)) => ("missed", json!(value)),
        None => ("unknown", Value::Null),
    };
    json!({ "time": time(event.time.as_ref()), name: what })
}

/// An object as `key  value` lines, a list as one such block each; what is empty is left out.
pub(crate) fn to_text(value: &Value) -> String {
    match value {
        Value::Array(items) if items.is_empty() => String::from("(none)"),
        Value::Array(items) => items.iter().map(to_text).collect::<Vec<_>>().join("\n\n"),
        Value::Object(_) => {
            let mut lines = Vec::new();
            collect(&mut lines, "", value);
            let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
            let line = |(key, value): &(String, String)| format!("{key:<width$}  {value}");
            lines.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        other => plain(other),
    }
}

fn collect(lines: &mut Vec<(String, String)>, prefix: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                collect(lines, &key, value);
            }
        }
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        value => lines.push((prefix.to_owned(), plain(value))),
    }
}

/// A value on one line. What a function wrote may hold anything; it does not steer a terminal.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        }
        other => other.to_string(),
    }
}
