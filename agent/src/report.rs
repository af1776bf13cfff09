//! The platform's log lines about an invocation, as text and as JSON (CONTRACT 4.11).

use std::time::Duration;

use serde_json::json;
use votive_protocol::InvocationId;

use crate::clock::rfc3339_milliseconds;
use crate::event::{ExtensionState, InitReport, TelemetrySubscription};

#[cfg(test)]
mod tests;

/// How an invocation went, for its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was answered.
    Success,
    /// It failed, with this type of error.
    Error(String),
    /// Its time was up.
    Timeout,
}

/// The figures of a `REPORT` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which invocation.
    pub id: InvocationId,
    /// From the request's first byte to the runtime's next request, by the host's clock.
    pub duration: Duration,
    /// The function's memory in MB.
    pub memory_size_mb: u32,
    /// The most memory that the runtime held, in bytes, as the guest told it.
    pub memory_used_bytes: u64,
    /// The init phase that this invocation waited for.
    pub init: Option<Duration>,
    /// How long extensions went on after the runtime, as the guest told it (`PostRuntimeExtensionsDuration`).
    pub extensions: Duration,
    /// How it went.
    pub status: Status,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// As text, tab separated.
    Text,
    /// One JSON object a line.
    Json,
}

impl Report {
    /// What is charged: the duration in milliseconds, rounded up.
    #[must_use]
    pub fn billed_ms(&self) -> u128 {
        self.duration.as_nanos().div_ceil(1_000_000)
    }

    /// The memory used in MB, rounded up. A guest's word for it cannot exceed what the function has.
    #[must_use]
    pub fn memory_used_mb(&self) -> u64 {
        const MB: u64 = 1024 * 1024;
        self.memory_used_bytes.div_ceil(MB).min(u64::from(self.memory_size_mb))
    }

    /// The `REPORT` line.
    #[must_use]
    pub fn line(&self, format: LogFormat, time: Duration) -> String {
        match format {
            LogFormat::Text => self.text(),
            LogFormat::Json => self.json(time).to_string(),
        }
    }

    fn text(&self) -> String {
        let mut line = format!(
            "REPORT RequestId: {}\tDuration: {} ms\tBilled Duration: {} ms\tMemory Size: {} MB\tMax Memory Used: {} MB\t",
            self.id,
            milliseconds(self.duration),
            self.billed_ms(),
            self.memory_size_mb,
            self.memory_used_mb(),
        );
        if let Some(init) = self.init {
            line.push_str(&format!("Init Duration: {} ms\t", milliseconds(init)));
        }
        match &self.status {
            Status::Success => {}
            Status::Error(error_type) => {
                line.push_str(&format!("Status: error\tError Type: {}\t", shown(error_type)));
            }
            Status::Timeout => line.push_str("Status: timeout\t"),
        }
        line
    }

    /// The figures as JSON.
    #[must_use]
    pub fn metrics(&self) -> serde_json::Value {
        let mut metrics = json!({
            "durationMs": number(self.duration),
            "billedDurationMs": u64::try_from(self.billed_ms()).unwrap_or(u64::MAX),
            "memorySizeMB": self.memory_size_mb,
            "maxMemoryUsedMB": self.memory_used_mb(),
        });
        if let Some(init) = self.init {
            metrics["initDurationMs"] = json!(number(init));
        }
        metrics
    }

    fn json(&self, time: Duration) -> serde_json::Value {
        let metrics = self.metrics();
        let mut record = json!({ "requestId": self.id.to_string(), "metrics": metrics });
        match &self.status {
            Status::Success => record["status"] = json!("success"),
            Status::Error(error_type) => {
                record["status"] = json!("error");
                record["errorType"] = json!(error_type);
            }
            Status::Timeout => record["status"] = json!("timeout"),
        }
        platform("platform.report", time, &record)
    }
}

/// The `START` line.
#[must_use]
pub fn start_line(id: InvocationId, version: &str, format: LogFormat, time: Duration) -> String {
    match format {
        LogFormat::Text => format!("START RequestId: {id} Version: {version}"),
        LogFormat::Json => {
            let record = json!({ "requestId": id.to_string(), "version": version });
            platform("platform.start", time, &record).to_string()
        }
    }
}

/// The `END` line.
#[must_use]
pub fn end_line(outcome: &Report, format: LogFormat, time: Duration) -> String {
    match format {
        LogFormat::Text => format!("END RequestId: {}", outcome.id),
        LogFormat::Json => {
            let status = match &outcome.status {
                Status::Success => "success",
                Status::Error(_) => "error",
                Status::Timeout => "timeout",
            };
            let record = json!({ "requestId": outcome.id.to_string(), "status": status });
            platform("platform.runtimeDone", time, &record).to_string()
        }
    }
}

/// The `INIT_REPORT` line of an init phase that failed.
#[must_use]
pub fn init_report_line(report: &InitReport, format: LogFormat, time: Duration) -> String {
    let phase = if report.inside_invocation { "invoke" } else { "init" };
    let status = if report.timed_out { "timeout" } else { "error" };
    match format {
        LogFormat::Text => {
            let duration = milliseconds(report.duration);
            let mut line = format!(
                "INIT_REPORT Init Duration: {duration} ms\tPhase: {phase}\tStatus: {status}"
            );
            if !report.error_type.is_empty() {
                line.push_str(&format!("\tError Type: {}", shown(&report.error_type)));
            }
            line
        }
        LogFormat::Json => {
            let mut record = json!({
                "initializationType": "on-demand",
                "phase": phase,
                "status": status,
                "metrics": { "durationMs": number(report.duration) },
            });
            if !report.error_type.is_empty() {
                record["errorType"] = json!(report.error_type);
            }
            platform("platform.initReport", time, &record).to_string()
        }
    }
}

/// The line about an extension at the end of the init phase.
#[must_use]
pub fn extension_line(extension: &ExtensionState, format: LogFormat, time: Duration) -> String {
    let mut events = Vec::new();
    if extension.events.invoke {
        events.push("INVOKE");
    }
    if extension.events.shutdown {
        events.push("SHUTDOWN");
    }
    let (name, state) = (shown(&extension.name), shown(&extension.state));
    match format {
        LogFormat::Text => {
            let events = events.join(", ");
            let mut line = format!("EXTENSION\tName: {name}\tState: {state}\tEvents: [{events}]");
            if !extension.error_type.is_empty() {
                line.push_str(&format!("\tError Type: {}", shown(&extension.error_type)));
            }
            line
        }
        LogFormat::Json => {
            let mut record = json!({ "name": name, "state": state, "events": events });
            if !extension.error_type.is_empty() {
                record["errorType"] = json!(extension.error_type);
            }
            platform("platform.extension", time, &record).to_string()
        }
    }
}

/// The line about a subscription to telemetry.
#[must_use]
pub fn subscription_line(
    subscription: &TelemetrySubscription,
    format: LogFormat,
    time: Duration,
) -> String {
    let types = subscription.types;
    let named = [
        (types.platform, "platform"),
        (types.function, "function"),
        (types.extension, "extension"),
    ];
    let types: Vec<_> = named.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    let name = shown(&subscription.name);
    match format {
        LogFormat::Text => {
            let kind = if subscription.legacy { "LOGS" } else { "TELEMETRY" };
            format!("{kind}\tName: {name}\tState: Subscribed\tTypes: [{}]", types.join(", "))
        }
        LogFormat::Json => {
            let kind = if subscription.legacy {
                "platform.logsSubscription"
            } else {
                "platform.telemetrySubscription"
            };
            let record = json!({ "name": name, "state": "Subscribed", "types": types });
            platform(kind, time, &record).to_string()
        }
    }
}

fn platform(kind: &str, time: Duration, record: &serde_json::Value) -> serde_json::Value {
    json!({ "time": rfc3339_milliseconds(time), "type": kind, "record": record })
}

/// An error's type comes from the guest: nothing in it may pass for another line or field.
fn shown(error_type: &str) -> String {
    error_type.chars().filter(|c| !c.is_control()).collect()
}

/// Milliseconds with two digits after the point, as AWS prints them.
fn milliseconds(duration: Duration) -> String {
    let hundredths = duration.as_nanos().div_ceil(10_000);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The same as a JSON number.
fn number(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
