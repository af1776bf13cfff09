//! The worker's words in the channel's messages, and the other way round.

use std::time::Duration;

use prost_types::Timestamp;
use tonic::Status;
use votive_artifact::seal::is_name;
use votive_control::v1;
use votive_protocol::ResponseMode;

use crate::control::refused;
use crate::function::ImageConfig;
use crate::limits::{INIT_TIMEOUT_DEFAULT_S, TIMEOUT_DEFAULT_S};
use crate::report::{LogFormat, Report, Status as Outcome};
use crate::worker::api::{
    AnswerPart, Capacity, CodeSource, EndOfResponse, EnvironmentInfo, EnvironmentState,
    FunctionVersion, FunctionVersionSpec, LeaseStatus, Provisioned, Release, ReleaseOutcome,
    Reservation, WorkerEvent, WorkerEventKind, WorkerState, WorkerStatus,
};

#[cfg(test)]
mod tests;

/// What the channel calls a function's failure: AWS Lambda knows no other kind today.
const UNHANDLED: &str = "Unhandled";

pub(crate) fn duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        // Below 1e9.
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// A time of day, from its distance to the Unix epoch.
fn timestamp(since_epoch: Duration) -> Timestamp {
    let prost_types::Duration { seconds, nanos } = duration(since_epoch);
    Timestamp { seconds, nanos }
}

/// A duration that a caller sent; `default` if it sent none.
pub(crate) fn read_duration(
    field: &str,
    value: Option<prost_types::Duration>,
    default: Duration,
) -> Result<Duration, Status> {
    let Some(value) = value else { return Ok(default) };
    // Not by prost's own conversion, which overflows at the least value that a message can hold.
    let seconds = u64::try_from(value.seconds);
    let nanoseconds = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanoseconds) {
        (Ok(seconds), Some(nanoseconds)) => Ok(Duration::new(seconds, nanoseconds)),
        _ => Err(refused::field(field, "it is not a positive duration")),
    }
}

pub(crate) fn lease(status: &LeaseStatus) -> v1::Lease {
    let times = status.times;
    v1::Lease {
        state: worker_state(status.state).into(),
        issued: times.map(|times| timestamp(times.issued)),
        drain_at: times.map(|times| timestamp(times.drain_at)),
        expires: times.map(|times| timestamp(times.expires)),
        remaining: times.map(|times| duration(times.remaining)),
    }
}

fn worker_state(state: WorkerState) -> v1::WorkerState {
    match state {
        WorkerState::Unleased => v1::WorkerState::Unleased,
        WorkerState::Active => v1::WorkerState::Active,
        WorkerState::Draining => v1::WorkerState::Draining,
        WorkerState::Terminating => v1::WorkerState::Terminating,
        WorkerState::Terminated => v1::WorkerState::Terminated,
    }
}

pub(crate) fn status(status: WorkerStatus) -> v1::Status {
    v1::Status {
        lease: Some(lease(&status.lease)),
        worker_id: status.worker_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        function_versions: status.function_versions,
        creating: status.creating,
        initialising: status.initialising,
        idle: status.idle,
        busy: status.busy,
        ending: status.ending,
        capacity: Some(capacity(status.capacity)),
        used: Some(capacity(status.used)),
        uptime: Some(duration(status.uptime)),
    }
}

fn capacity(capacity: Capacity) -> v1::Capacity {
    v1::Capacity {
        environments: capacity.environments,
        memory_mb: capacity.memory_mb,
        vcpus: capacity.vcpus,
    }
}

/// A registration, as far as its form goes; what its values mean the worker knows.
pub(crate) fn function_version_spec(
    request: v1::RegisterFunctionVersionRequest,
) -> Result<FunctionVersionSpec, Status> {
    let timeout = Duration::from_secs(TIMEOUT_DEFAULT_S.into());
    let init_timeout = Duration::from_secs(INIT_TIMEOUT_DEFAULT_S.into());
    let log_format = match v1::LogFormat::try_from(request.log_format) {
        Ok(v1::LogFormat::Unspecified | v1::LogFormat::Text) => LogFormat::Text,
        Ok(v1::LogFormat::Json) => LogFormat::Json,
        Err(_) => return Err(refused::field("log_format", "there is no such format")),
    };
    let code = request.code.ok_or_else(|| refused::field("code", "it is missing"))?;
    Ok(FunctionVersionSpec {
        account: request.account,
        function_name: request.function_name,
        version: request.version,
        runtime: request.runtime,
        handler: request.handler,
        memory_mb: request.memory_mb,
        timeout: read_duration("timeout", request.timeout, timeout)?,
        init_timeout: read_duration("init_timeout", request.init_timeout, init_timeout)?,
        environment: request.environment.into_iter().collect(),
        code: code_source("code", code)?,
        layers: request
            .layers
            .into_iter()
            .map(|layer| code_source("layers", layer))
            .collect::<Result<_, _>>()?,
        image_config: request.image_config.map(image_config).unwrap_or_default(),
        ephemeral_storage_mb: request.ephemeral_storage_mb,
        concurrency_limit: request.concurrency_limit,
        log_format,
    })
}

fn image_config(config: v1::ImageConfig) -> ImageConfig {
    ImageConfig {
        entry_point: config.entry_point,
        command: config.command,
        working_directory: config.working_directory,
    }
}

fn code_source(field: &str, code: v1::Code) -> Result<CodeSource, Status> {
    let path = match code.source {
        Some(v1::code::Source::ZipPath(path)) => path,
        Some(v1::code::Source::Artifact(identity)) if is_name(&identity) => {
            return Ok(CodeSource::Artifact(identity));
        }
        Some(v1::code::Source::Artifact(_)) => {
            return Err(refused::field(field, "it is no identity that an artifact can have"));
        }
        None => return Err(refused::field(field, "it names no source")),
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(refused::field(field, "an absolute path on the worker is needed"));
    }
    Ok(CodeSource::Zip(path.into()))
}

pub(crate) fn function_version(version: FunctionVersion) -> v1::FunctionVersion {
    v1::FunctionVersion {
        id: version.id.to_string(),
        account: version.account,
        function_name: version.function_name,
        version: version.version,
        runtime: version.runtime,
        handler: version.handler,
        memory_mb: version.memory_mb,
        timeout: Some(duration(version.timeout)),
        code_sha256: base64(&version.code_sha256),
        arn: version.arn,
        environments: version.environments,
    }
}

/// Base64 with padding (RFC 4648), as AWS Lambda tells hashes. A hash has 32 bytes: no library is needed for that.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            let digit = DIGITS.get(digit as usize).copied().unwrap_or(b'=');
            text.push(if place as usize <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

pub(crate) fn reservation(reservation: Reservation) -> v1::Reservation {
    v1::Reservation {
        token: reservation.token,
        invocation_id: reservation.invocation.to_string(),
        function_version_id: reservation.version.to_string(),
        environment_id: reservation.environment.to_string(),
        cold: reservation.cold,
        function_timeout: Some(duration(reservation.function_timeout)),
        expires_in: Some(duration(reservation.expires_in)),
    }
}

pub(crate) fn answer_part(part: AnswerPart) -> v1::invoke_response::Part {
    use v1::invoke_response::Part;
    match part {
        AnswerPart::Head { mode, content_type, function_error } => Part::Head(v1::InvokeHead {
            mode: match mode {
                ResponseMode::Buffered => v1::ResponseMode::Buffered,
                ResponseMode::Streaming => v1::ResponseMode::Streaming,
            }
            .into(),
            content_type,
            function_error: function_error_name(function_error),
        }),
        AnswerPart::Bytes(bytes) => Part::Payload(bytes.into()),
        AnswerPart::End { end_of_response, error_type, function_error, error_details } => {
            Part::End(v1::InvokeEnd {
                end_of_response: match end_of_response {
                    EndOfResponse::Complete => v1::EndOfResponse::Complete,
                    EndOfResponse::Truncated => v1::EndOfResponse::Truncated,
                    EndOfResponse::Oversized => v1::EndOfResponse::Oversized,
                }
                .into(),
                function_error: function_error_name(function_error),
                error_type: error_type.unwrap_or_default(),
                error_details: error_details.into(),
            })
        }
        AnswerPart::Release(value) => Part::Release(release(value)),
    }
}

fn function_error_name(is_error: bool) -> String {
    if is_error { UNHANDLED.to_owned() } else { String::new() }
}

pub(crate) fn release(release: Release) -> v1::Release {
    v1::Release {
        invocation_id: release.invocation.to_string(),
        environment_id: release.environment.to_string(),
        outcome: match release.outcome {
            ReleaseOutcome::Reused => v1::ReleaseOutcome::Reused,
            ReleaseOutcome::Reset => v1::ReleaseOutcome::Reset,
            ReleaseOutcome::Destroyed => v1::ReleaseOutcome::Destroyed,
        }
        .into(),
        report: Some(report(&release.report)),
        log_tail: release.log_tail.into(),
    }
}

fn report(report: &Report) -> v1::Report {
    v1::Report {
        duration: Some(duration(report.duration)),
        billed_duration_ms: u64::try_from(report.billed_ms()).unwrap_or(u64::MAX),
        memory_size_mb: report.memory_size_mb,
        max_memory_used_mb: report.memory_used_mb(),
        init_duration: report.init.map(duration),
        status: match report.status {
            Outcome::Success => "success",
            Outcome::Error(_) => "error",
            Outcome::Timeout => "timeout",
        }
        .to_owned(),
    }
}

pub(crate) fn provisioned(provisioned: Provisioned) -> v1::ProvisionedConcurrency {
    v1::ProvisionedConcurrency {
        function_version_id: provisioned.version.to_string(),
        requested: provisioned.requested,
        allocated: provisioned.allocated,
        available: provisioned.available,
        status: provisioned.status.name().to_owned(),
        status_reason: provisioned.status_reason,
    }
}

pub(crate) fn environment(info: EnvironmentInfo) -> v1::Environment {
    v1::Environment {
        id: info.id.to_string(),
        function_version_id: info.version.to_string(),
        state: match info.state {
            EnvironmentState::Creating => v1::EnvironmentState::Creating,
            EnvironmentState::Initialising => v1::EnvironmentState::Initialising,
            EnvironmentState::Idle => v1::EnvironmentState::Idle,
            EnvironmentState::Busy => v1::EnvironmentState::Busy,
            EnvironmentState::Ending => v1::EnvironmentState::Ending,
            EnvironmentState::Gone => v1::EnvironmentState::Gone,
        }
        .into(),
        initialization_type: info.initialization.name().to_owned(),
        created_for: info.created_for.name().to_owned(),
        ending_for: info.ending_for.map(|reason| reason.name().to_owned()).unwrap_or_default(),
        process_id: info.process_id.unwrap_or(0),
        age: Some(duration(info.age)),
        invocations: info.invocations,
    }
}

pub(crate) fn event(event: WorkerEvent) -> v1::Event {
    use v1::event::Event;
    let what = match event.kind {
        WorkerEventKind::Lease(status) => Event::Lease(lease(&status)),
        WorkerEventKind::Environment(info) => Event::Environment(environment(info)),
        WorkerEventKind::Invocation {
            invocation,
            version,
            environment,
            report: figures,
            error_type,
        } => Event::Invocation(v1::InvocationEvent {
            invocation_id: invocation.to_string(),
            function_version_id: version.to_string(),
            environment_id: environment.to_string(),
            report: figures.as_ref().map(report),
            error_type: error_type.unwrap_or_default(),
        }),
        WorkerEventKind::Log { environment, invocation, stream: _, line } => {
            Event::Log(v1::LogLine {
                environment_id: environment.to_string(),
                invocation_id: invocation.map(|id| id.to_string()).unwrap_or_default(),
                line: line.into(),
            })
        }
        WorkerEventKind::Missed(missed) => Event::Missed(missed),
    };
    v1::Event { time: Some(timestamp(event.time)), event: Some(what) }
}
