//! Tests of what is counted, event by event.

use std::time::Duration;

use metrics::with_local_recorder;
use votive_protocol::InvocationId;

use super::WorkerMetrics;
use crate::metrics::exporter::builder;
use crate::report::{Report, Status};
use crate::worker::api::{
    CreateReason, EndReason, EnvironmentId, EnvironmentInfo, EnvironmentState, FunctionVersion,
    FunctionVersionId, Initialization, InvokeError, Provisioned, ProvisionedStatus, ThrottleReason,
    WorkerEventKind,
};

const VERSION: FunctionVersionId = FunctionVersionId([7; 16]);
const ENVIRONMENT: EnvironmentId = EnvironmentId(1);

fn version() -> FunctionVersion {
    FunctionVersion {
        id: VERSION,
        account: String::from("012345678912"),
        function_name: String::from("told"),
        version: String::from("3"),
        runtime: String::from("provided"),
        handler: String::from("h"),
        memory_mb: 128,
        timeout: Duration::from_secs(3),
        code_sha256: [0; 32],
        arn: String::new(),
        environments: 0,
    }
}

fn environment(state: EnvironmentState, initialization: Initialization) -> WorkerEventKind {
    let created_for = match initialization {
        Initialization::OnDemand => CreateReason::ColdStart,
        Initialization::Provisioned => CreateReason::ProvisionedConcurrency,
    };
    WorkerEventKind::Environment(EnvironmentInfo {
        id: ENVIRONMENT,
        version: VERSION,
        state,
        initialization,
        created_for,
        ending_for: (state == EnvironmentState::Gone).then_some(EndReason::IdleTimeout),
        process_id: None,
        age: Duration::from_millis(80),
        invocations: 0,
    })
}

fn invocation(report: Option<Report>, failed: bool) -> WorkerEventKind {
    WorkerEventKind::Invocation {
        invocation: InvocationId([1; 16]),
        version: VERSION,
        environment: ENVIRONMENT,
        report,
        error_type: failed.then(|| String::from("Function.Unknown")),
    }
}

fn report() -> Report {
    Report {
        id: InvocationId([1; 16]),
        duration: Duration::from_micros(1200),
        memory_size_mb: 128,
        memory_used_bytes: 1,
        init: Some(Duration::from_millis(60)),
        extensions: Duration::from_millis(4),
        status: Status::Success,
    }
}

/// What is told after these steps.
fn told(steps: impl FnOnce(&mut WorkerMetrics)) -> impl Fn(&str) -> Option<f64> {
    let recorder = builder().unwrap().build_recorder();
    let handle = recorder.handle();
    with_local_recorder(&recorder, || {
        let mut metrics = WorkerMetrics::default();
        metrics.registered(&version());
        steps(&mut metrics);
    });
    let text = handle.render();
    move |series: &str| {
        let labels = r#"account="012345678912",function="told",version="3""#;
        let series = series.replace("{}", &format!("{{{labels}}}"));
        let line = text.lines().find_map(|line| line.strip_prefix(&series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}

#[test]
fn a_cold_start_and_its_invocation() {
    use EnvironmentState::{Busy, Creating, Gone, Idle, Initialising};
    let value = told(|metrics| {
        for state in [Creating, Initialising, Busy] {
            metrics.event(&environment(state, Initialization::OnDemand));
        }
        metrics.event(&invocation(None, false));
        metrics.event(&invocation(Some(report()), false));
        metrics.event(&environment(Idle, Initialization::OnDemand));
        metrics.event(&invocation(None, false));
        metrics.event(&invocation(Some(Report { init: None, ..report() }), true));
        metrics.event(&environment(Gone, Initialization::OnDemand));
    });
    assert_eq!(value("votive_invocations_total{}"), Some(2.0));
    assert_eq!(value("votive_errors_total{}"), Some(1.0));
    assert_eq!(value("votive_billed_milliseconds_total{}"), Some(4.0));
    assert_eq!(value("votive_concurrent_executions{}"), Some(0.0));
    assert_eq!(value("votive_environments_created_total{reason=\"cold-start\"}"), Some(1.0));
    assert_eq!(value("votive_environments_ended_total{reason=\"idle-timeout\"}"), Some(1.0));
    assert_eq!(value("votive_environment_start_seconds_count"), Some(1.0));
    assert_eq!(value("votive_environment_start_seconds_sum"), Some(0.08));
    assert_eq!(value("votive_init_duration_seconds_count"), Some(1.0));
    assert_eq!(value("votive_post_runtime_extensions_duration_seconds_count"), Some(2.0));
}

#[test]
fn an_invocation_that_is_lost_with_its_environment_has_ended_in_an_error() {
    let value = told(|metrics| {
        metrics.event(&environment(EnvironmentState::Busy, Initialization::OnDemand));
        metrics.event(&invocation(None, false));
        metrics.event(&environment(EnvironmentState::Gone, Initialization::OnDemand));
    });
    assert_eq!(value("votive_invocations_total{}"), Some(1.0));
    assert_eq!(value("votive_errors_total{}"), Some(1.0));
    assert_eq!(value("votive_concurrent_executions{}"), Some(0.0));
    assert_eq!(value("votive_duration_seconds_count{}"), Some(0.0));
}

#[test]
fn an_invocation_that_ends_without_having_begun_counts_once() {
    let value = told(|metrics| {
        metrics.event(&environment(EnvironmentState::Creating, Initialization::OnDemand));
        metrics.event(&invocation(Some(report()), true));
    });
    assert_eq!(value("votive_invocations_total{}"), Some(1.0));
    assert_eq!(value("votive_errors_total{}"), Some(1.0));
    assert_eq!(value("votive_concurrent_executions{}"), Some(0.0));
}

#[test]
fn refusals_are_neither_invocations_nor_errors() {
    let value = told(|metrics| {
        let reason = ThrottleReason::ConcurrentInvocationLimitExceeded;
        let retry_after = Duration::from_secs(1);
        metrics.refused(VERSION, &InvokeError::TooManyRequests { reason, retry_after });
        metrics.refused(VERSION, &InvokeError::InvalidReservationToken);
        metrics.refused(FunctionVersionId([9; 16]), &InvokeError::ResourceNotFound);
    });
    assert_eq!(value("votive_invocations_total{}"), Some(0.0));
    assert_eq!(value("votive_errors_total{}"), Some(0.0));
    let throttles = "votive_throttles_total{account=\"012345678912\",function=\"told\",version=\"3\",\
                     reason=\"ConcurrentInvocationLimitExceeded\"}";
    assert_eq!(value(throttles), Some(1.0));
    let refused = "votive_refused_requests_total{error=\"ErrInvalidReservationToken\"}";
    assert_eq!(value(refused), Some(1.0));
}

#[test]
fn spillover_is_on_demand_beside_provisioned_concurrency() {
    let provisioned = Provisioned {
        version: VERSION,
        requested: 1,
        allocated: 1,
        available: 1,
        status: ProvisionedStatus::Ready,
        status_reason: String::new(),
    };
    let value = told(|metrics| {
        metrics.provisioned(&provisioned);
        metrics.event(&environment(EnvironmentState::Idle, Initialization::Provisioned));
        metrics.event(&invocation(None, false));
        metrics.event(&invocation(Some(report()), false));
        metrics.event(&environment(EnvironmentState::Gone, Initialization::Provisioned));
        metrics.event(&environment(EnvironmentState::Busy, Initialization::OnDemand));
        metrics.event(&invocation(None, false));
    });
    assert_eq!(value("votive_provisioned_concurrency_invocations_total{}"), Some(1.0));
    assert_eq!(value("votive_provisioned_concurrency_spillover_invocations_total{}"), Some(1.0));
    assert_eq!(value("votive_provisioned_concurrent_executions{}"), Some(0.0));
    assert_eq!(value("votive_concurrent_executions{}"), Some(1.0));
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let recorder = builder().unwrap().build_recorder();
    with_local_recorder(&recorder, || {
        let mut metrics = WorkerMetrics::default();
        metrics.registered(&version());
        metrics.event(&environment(EnvironmentState::Busy, Initialization::OnDemand));
        metrics.removed(VERSION);
        assert_eq!(metrics.versions.len(), 1);
        metrics.event(&environment(EnvironmentState::Gone, Initialization::OnDemand));
        assert!(metrics.versions.is_empty());
        assert!(metrics.environments.is_empty());
        assert!(metrics.removed.is_empty());
    });
}
