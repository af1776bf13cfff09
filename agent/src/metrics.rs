//! Every metric of the worker: one table of names, kinds, units and help, and what counts them.
//!
//! The names of CONTRACT 4.12 are in Prometheus's spelling. Its rules hold here: an invocation counts when it is accepted, whatever
//! becomes of it; a request that is throttled or refused is neither an invocation nor an error; a function that fails is an error,
//! as is an invocation that the worker lost.
//!
//! A function's error type is the function's own text and never becomes a label; neither do identifiers of invocations and
//! environments, of which there is no end. Series by function are limited to [`FUNCTIONS_MAX`].

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

pub mod artifacts;
pub mod exporter;
pub mod function;
pub mod host;
pub mod worker;

#[cfg(test)]
mod tests;

/// What a metric does with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl Kind {
    /// The name in the text format.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does with values.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// The most functions that have series of their own; those that come later share the series whose `function` is
/// [`OTHER_FUNCTION`]. A worker that meets more in its 14 hours would cost its Prometheus more than they are worth.
pub const FUNCTIONS_MAX: usize = 1000;
/// The label of functions beyond [`FUNCTIONS_MAX`]. No function can have this name.
pub const OTHER_FUNCTION: &str = "(other)";

const FUNCTION: &[&str] = &["account", "function", "version"];

macro_rules! metrics {
    ($($constant:ident $name:literal $kind:ident $unit:ident $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric, in the order of `docs/metrics.md`.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: $labels,
            help: $help,
        }),*];
    };
}

metrics! {
    INVOCATIONS "votive_invocations_total" Counter Count FUNCTION,
        "Invocations that were accepted, whatever became of them (Invocations).";
    ERRORS "votive_errors_total" Counter Count FUNCTION,
        "Accepted invocations that ended in an error of the function, its time limit or its environment (Errors).";
    THROTTLES "votive_throttles_total" Counter Count &["account", "function", "version", "reason"],
        "Requests that found no room: neither invocations nor errors (Throttles).";
    DURATION "votive_duration_seconds" Histogram Seconds FUNCTION,
        "How long the function's code ran for an invocation (Duration).";
    BILLED "votive_billed_milliseconds_total" Counter Milliseconds FUNCTION,
        "The sum of the Billed Duration of every REPORT line.";
    POST_RUNTIME_EXTENSIONS_DURATION "votive_post_runtime_extensions_duration_seconds" Histogram Seconds &[],
        "How long extensions ran on after the function's code was done (PostRuntimeExtensionsDuration).";
    CONCURRENT_EXECUTIONS "votive_concurrent_executions" Gauge Count FUNCTION,
        "Invocations under way (ConcurrentExecutions).";
    PROVISIONED_CONCURRENT_EXECUTIONS "votive_provisioned_concurrent_executions" Gauge Count FUNCTION,
        "Invocations under way in environments of provisioned concurrency (ProvisionedConcurrentExecutions).";
    PROVISIONED_INVOCATIONS "votive_provisioned_concurrency_invocations_total" Counter Count FUNCTION,
        "Invocations in environments of provisioned concurrency (ProvisionedConcurrencyInvocations).";
    PROVISIONED_SPILLOVER "votive_provisioned_concurrency_spillover_invocations_total" Counter Count FUNCTION,
        "Invocations that found all provisioned concurrency in use (ProvisionedConcurrencySpilloverInvocations).";
    PROVISIONED_ENVIRONMENTS "votive_provisioned_concurrency_environments" Gauge Count &["account", "function", "version", "state"],
        "Provisioned concurrency: requested, allocated, available (ProvisionedConcurrencyUtilization is executions over allocated).";
    REFUSED "votive_refused_requests_total" Counter Count &["error"],
        "Requests that were refused for another reason than want of room, by the error's name.";

    ENVIRONMENTS "votive_environments" Gauge Count &["state"],
        "Execution environments by state: creating, initialising, idle, busy, ending.";
    ENVIRONMENTS_CREATED "votive_environments_created_total" Counter Count &["reason"],
        "Execution environments that were made, by reason.";
    ENVIRONMENTS_ENDED "votive_environments_ended_total" Counter Count &["reason"],
        "Execution environments that ended, by reason.";
    ENVIRONMENT_START "votive_environment_start_seconds" Histogram Seconds &[],
        "From the decision to make an environment to the end of its init phase.";
    INIT_DURATION "votive_init_duration_seconds" Histogram Seconds &[],
        "How long the init phase of runtime and extensions took (Init Duration).";
    SHELLS "votive_shells" Gauge Count &[],
        "VMM processes that were started ahead and wait for an environment.";
    SHELLS_TAKEN "votive_shells_taken_total" Counter Count &[],
        "Environments that found one of them.";
    SHELLS_MISSED "votive_shells_missed_total" Counter Count &[],
        "Environments that found none of their size.";
    SHELLS_LOST "votive_shells_lost_total" Counter Count &[],
        "VMM processes that ended while they waited, or could not be started ahead.";
    CAPACITY_ENVIRONMENTS "votive_capacity_environments" Gauge Count &["kind"],
        "Execution environments: total and used.";
    CAPACITY_MEMORY "votive_capacity_memory_bytes" Gauge Bytes &["kind"],
        "Memory for functions: total and used.";
    CAPACITY_VCPUS "votive_capacity_vcpus" Gauge Count &["kind"],
        "vCPUs for functions: total and used.";
    FUNCTION_VERSIONS "votive_function_versions" Gauge Count &[],
        "Function versions that are registered.";

    HOST_FLAWS "votive_host_flaws" Gauge Count &["flaw"],
        "Flaws of the host's posture: 1 for each that the host has, accepted or not.";

    ARTIFACT_IMAGES "votive_artifact_images" Gauge Count &[],
        "Images of artifacts in memory.";
    ARTIFACT_DISKS "votive_artifact_disks" Gauge Count &[],
        "Disks of microVMs whose chunks come when they are read.";
    ARTIFACT_MEMORY "votive_artifact_memory_bytes" Gauge Bytes &[],
        "Memory of all images of artifacts.";
    ARTIFACT_CHUNKS "votive_artifact_chunks_fetched_total" Counter Count &[],
        "Chunks that came from the store and were what they should be.";
    ARTIFACT_BYTES "votive_artifact_fetched_bytes_total" Counter Bytes &[],
        "Their bytes.";
    ARTIFACT_LIES "votive_artifact_chunks_refused_total" Counter Count &[],
        "Answers of the store that were not the chunks that were asked for.";
    ARTIFACT_CACHE_SIZE "votive_artifact_cache_bytes" Gauge Bytes &[],
        "What the cache of chunks takes of its disk.";
    ARTIFACT_CACHE_HITS "votive_artifact_cache_hits_total" Counter Count &[],
        "Chunks that the cache had.";
    ARTIFACT_CACHE_MISSES "votive_artifact_cache_misses_total" Counter Count &[],
        "Chunks that the cache did not have.";
    ARTIFACT_CACHE_DAMAGED "votive_artifact_cache_damaged_total" Counter Count &[],
        "Files of the cache that were not what their names say; they are gone.";
    ARTIFACT_CACHE_EVICTED "votive_artifact_cache_evicted_total" Counter Count &[],
        "Chunks of the cache that made room for others.";

    LEASE_REMAINING "votive_worker_lease_remaining_seconds" Gauge Seconds &[],
        "How long the lease still lasts, by the worker's own clock; negative on a worker that outlives it.";
    LEASE_DURATION "votive_worker_lease_duration_seconds" Gauge Seconds &[],
        "How long the lease lasts in all, at most 14 hours.";
    WORKER_STATE "votive_worker_state" Gauge Count &["state"],
        "1 for the state that the worker is in, 0 for the others: unleased, active, draining, terminating, terminated.";
    WORKER_ANSWER_AGE "votive_worker_loop_answer_age_seconds" Gauge Seconds &[],
        "How long ago the worker's loop last answered; it is asked every second.";
    WORKER_UPTIME "votive_worker_uptime_seconds" Gauge Seconds &[],
        "How long the process runs.";
    BUILD_INFO "votive_build_info" Gauge Count &["version"],
        "Always 1; the version is a label.";

    CONTROL_CONNECTIONS "votive_control_connections" Gauge Count &[],
        "Open connections of the control channel.";
    CONTROL_CONNECTIONS_ACCEPTED "votive_control_connections_accepted_total" Counter Count &[],
        "Connections of the control channel whose peer proved who it is.";
    CONTROL_CONNECTIONS_REFUSED "votive_control_connections_refused_total" Counter Count &["reason"],
        "Connections of the control channel that were refused or cut, by reason.";
    CONTROL_CALLS "votive_control_calls_total" Counter Count &["method", "code"],
        "Calls of the control channel, by method and gRPC status code.";

    METRICS_REQUESTS "votive_metrics_requests_total" Counter Count &["path", "status"],
        "Requests of the metrics endpoint.";
    METRICS_CONNECTIONS_REFUSED "votive_metrics_connections_refused_total" Counter Count &[],
        "Connections of the metrics endpoint that found all places taken.";
}

/// The upper bounds of a function's durations in seconds: a millisecond is what is billed, 900 s what is allowed.
pub const DURATION_BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 900.0];
/// The upper bounds of starts and init phases in seconds: 10 s is the init phase's limit.
pub const START_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// The bounds of a histogram's buckets in seconds.
#[must_use]
pub fn bounds(name: &str) -> &'static [f64] {
    match name {
        ENVIRONMENT_START | INIT_DURATION => &START_BOUNDS,
        _ => &DURATION_BOUNDS,
    }
}

const PREAMBLE: &str = "\
# Metrics

`votive-agent` serves Prometheus's text format at `/metrics`, on `127.0.0.1:9464` unless `metrics.listen` says otherwise, over plain
HTTP and without authentication: whoever reaches the address reads names of functions, and nothing else of tenants.
Beside it, `/healthz` answers 200 while the worker's loop does, and `/readyz` while the worker takes invocations; otherwise
503 with the worker's state. `packaging/votive-alerts.yml` holds alerts on them.

- An invocation counts when it is accepted, whatever becomes of it. A request that is throttled or refused is neither an
  invocation nor an error. An error is an accepted invocation that ended in a function's error, its time limit or the loss of
  its environment. In parentheses: the name that AWS Lambda has for a metric.
- A function's error type, identifiers of invocations and of environments are never labels. The first 1000 functions have
  series of their own; later ones share the series whose `function` is `(other)`.
- A function's series appear when its version is registered, those without labels at the start, all others with their first
  value.

This page is made by `votive-agent metrics-reference` from the table in `agent/src/metrics.rs`; a test fails if they differ.

| metric | type | labels | what it tells |
| --- | --- | --- | --- |
";

/// The table as `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(PREAMBLE);
    for metric in ALL {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        out.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    out
}

/// Tells the recorder what every metric means, and shows those without labels from the start.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
    for metric in ALL.iter().filter(|metric| metric.labels.is_empty()) {
        match metric.kind {
            Kind::Counter => counter!(metric.name).increment(0),
            Kind::Gauge => gauge!(metric.name).increment(0.0),
            // A histogram is shown once it has a value.
            Kind::Histogram => drop(histogram!(metric.name)),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}
