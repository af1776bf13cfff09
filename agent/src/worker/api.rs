//! What a worker is asked and what it answers: plain data, no wire format.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use votive_protocol::{InvocationId, LogStream, ResponseMode};

use crate::function::ImageConfig;
use crate::report::{LogFormat, Report};
pub use crate::worker::errors::{
    InvalidId, InvokeError, LeaseError, ProvisionError, RegisterError, ThrottleReason,
    UnknownEnvironment, UnknownFunctionVersion, UnknownInvocation,
};
pub use crate::worker::ids::{EnvironmentId, FunctionVersionId, parse_invocation_id};

/// What the worker is allowed to do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerState {
    /// Nothing yet: it has no lease.
    #[default]
    Unleased,
    /// Everything.
    Active,
    /// Finish what is under way.
    Draining,
    /// End its environments.
    Terminating,
    /// Nothing any more: no environment is left.
    Terminated,
}

/// The worker's lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The worker's state.
    pub state: WorkerState,
    /// The lease's times; `None` before the first grant.
    pub times: Option<LeaseTimes>,
}

/// A lease's times by the time of day, as durations since the Unix epoch. They are for reading: the worker goes by a clock
/// that nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// When it was given.
    pub issued: Duration,
    /// From here on no reservation is given.
    pub drain_at: Duration,
    /// From here on nothing is left of the worker.
    pub expires: Duration,
    /// How long that is from now.
    pub remaining: Duration,
}

/// What the worker is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The worker's own id.
    pub worker_id: String,
    /// Its lease.
    pub lease: LeaseStatus,
    /// Function versions that are known.
    pub function_versions: u32,
    /// Environments whose microVM starts.
    pub creating: u32,
    /// Environments in their init phase.
    pub initialising: u32,
    /// Environments that can take an invocation.
    pub idle: u32,
    /// Environments with an invocation.
    pub busy: u32,
    /// Environments that are being ended.
    pub ending: u32,
    /// What environments may take together.
    pub capacity: Capacity,
    /// What they take now.
    pub used: Capacity,
    /// How long the worker has been running.
    pub uptime: Duration,
}

/// An amount of what environments take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Environments.
    pub environments: u32,
    /// Memory of their microVMs in MiB.
    pub memory_mb: u64,
    /// vCPUs of their microVMs.
    pub vcpus: u32,
}

/// A function version to make known.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionVersionSpec {
    /// Twelve digits.
    pub account: String,
    /// The function's name.
    pub function_name: String,
    /// `$LATEST` or a number.
    pub version: String,
    /// The runtime's identifier.
    pub runtime: String,
    /// The handler, as the runtime understands it.
    pub handler: String,
    /// Its memory in MB.
    pub memory_mb: u32,
    /// How long an invocation may take, in whole seconds.
    pub timeout: Duration,
    /// How long the init phase may take, in whole seconds.
    pub init_timeout: Duration,
    /// Its own environment variables.
    pub environment: BTreeMap<String, String>,
    /// Its code.
    pub code: CodeSource,
    /// Its layers, merged into `/opt` in this order.
    pub layers: Vec<CodeSource>,
    /// What is overridden of a container image: of code that is an artifact, with neither runtime nor handler.
    pub image_config: ImageConfig,
    /// The size of `/tmp` in MB; 0 for 512.
    pub ephemeral_storage_mb: u32,
    /// The most environments of this version at once; 0 for no limit but the worker's.
    pub concurrency_limit: u32,
    /// How its log is written.
    pub log_format: LogFormat,
}

impl fmt::Debug for FunctionVersionSpec {
    /// Without the environment variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionVersionSpec")
            .field("account", &self.account)
            .field("function_name", &self.function_name)
            .field("version", &self.version)
            .field("code", &self.code)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

/// Where code comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeSource {
    /// A ZIP that the worker can read.
    Zip(PathBuf),
    /// An EROFS image that was made of one before.
    Image(PathBuf),
    /// An artifact of the worker's store, by its identity.
    Artifact(String),
}

/// A function version that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionVersion {
    /// Its id.
    pub id: FunctionVersionId,
    /// Twelve digits.
    pub account: String,
    /// The function's name.
    pub function_name: String,
    /// `$LATEST` or a number.
    pub version: String,
    /// The runtime's identifier.
    pub runtime: String,
    /// The handler.
    pub handler: String,
    /// Its memory in MB.
    pub memory_mb: u32,
    /// How long an invocation may take.
    pub timeout: Duration,
    /// SHA-256 of the code and of the layers.
    pub code_sha256: [u8; 32],
    /// Its ARN.
    pub arn: String,
    /// Its environments at the moment.
    pub environments: u32,
}

/// The right to one invocation.
#[derive(Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Good once, for this version and this invocation. Text without spaces.
    pub token: String,
    /// The invocation.
    pub invocation: InvocationId,
    /// The version.
    pub version: FunctionVersionId,
    /// The environment that waits for it.
    pub environment: EnvironmentId,
    /// Whether the invocation will wait for the environment's start.
    pub cold: bool,
    /// How long the invocation may take.
    pub function_timeout: Duration,
    /// How long the token is good.
    pub expires_in: Duration,
}

impl fmt::Debug for Reservation {
    /// Leaves the token out: it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("invocation", &self.invocation)
            .field("version", &self.version)
            .field("environment", &self.environment)
            .field("cold", &self.cold)
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// A reservation being spent. Neither its token nor its payload is ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct InvokeRequest {
    /// The reservation's.
    pub token: String,
    /// The invocation.
    pub invocation: InvocationId,
    /// The version.
    pub version: FunctionVersionId,
    /// The event, at most 6 MiB.
    pub payload: Vec<u8>,
    /// `Content-Type`; empty for `application/json`.
    pub content_type: String,
    /// `Lambda-Runtime-Client-Context`, JSON; may be empty.
    pub client_context: String,
    /// `Lambda-Runtime-Cognito-Identity`, JSON; may be empty.
    pub cognito_identity: String,
    /// `Lambda-Runtime-Trace-Id`; made up if empty.
    pub trace_id: String,
    /// Whether the release brings the end of the log.
    pub log_tail: bool,
}

impl fmt::Debug for InvokeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InvokeRequest")
            .field("invocation", &self.invocation)
            .field("version", &self.version)
            .field("payload_len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// An invocation under way.
#[derive(Debug)]
pub struct Answer {
    /// Where it runs.
    pub environment: EnvironmentId,
    /// Head, pieces, end, release, in this order. The channel holds a few pieces: a reader that is slow slows the function's
    /// answer down, and one that stops is given up a while after the function is done.
    pub parts: mpsc::Receiver<AnswerPart>,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerPart {
    /// The first one.
    Head {
        /// Buffered ones begin when they are whole.
        mode: ResponseMode,
        /// Its `Content-Type`; may be empty.
        content_type: String,
        /// Whether the payload is the function's error.
        function_error: bool,
    },
    /// A piece of the payload.
    Bytes(Vec<u8>),
    /// The payload is over.
    End {
        /// Whether it is whole.
        end_of_response: EndOfResponse,
        /// `Runtime.ExitError`, `Sandbox.Timedout`, ...
        error_type: Option<String>,
        /// Whether the function failed, also after a streamed answer had begun.
        function_error: bool,
        /// The error's JSON, if a streamed answer had begun: the payload of others is the error.
        error_details: Vec<u8>,
    },
    /// The environment is done with the invocation. The last one.
    Release(Release),
}

/// `End-Of-Response` of CONTRACT 4.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfResponse {
    /// Whole.
    Complete,
    /// Cut short.
    Truncated,
    /// Cut at its limit.
    Oversized,
}

/// The end of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Which one.
    pub invocation: InvocationId,
    /// Where it ran.
    pub environment: EnvironmentId,
    /// What became of the environment.
    pub outcome: ReleaseOutcome,
    /// The figures of the `REPORT` line.
    pub report: Report,
    /// The last 4 KB of its log, if they were asked for.
    pub log_tail: Vec<u8>,
}

/// What becomes of an environment after an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// It waits for the next one.
    Reused,
    /// Its runtime was killed; the next invocation starts a new one in it.
    Reset,
    /// It is gone.
    Destroyed,
}

/// How many initialised environments of a version there are and should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// The version.
    pub version: FunctionVersionId,
    /// How many there should be.
    pub requested: u32,
    /// How many were started for it.
    pub allocated: u32,
    /// How many of those are initialised.
    pub available: u32,
    /// Whether that is enough.
    pub status: ProvisionedStatus,
    /// Why it is not; empty otherwise.
    pub status_reason: String,
}

/// The status of CONTRACT 4.9's `PutProvisionedConcurrencyConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvisionedStatus {
    /// Environments are being started.
    InProgress,
    /// All are initialised.
    Ready,
    /// They do not start, or there is no room for them; it is tried again.
    Failed,
}

impl ProvisionedStatus {
    /// `IN_PROGRESS`, `READY`, `FAILED`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InProgress => "IN_PROGRESS",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }
}

/// An execution environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentInfo {
    /// Its id.
    pub id: EnvironmentId,
    /// The version that it is for.
    pub version: FunctionVersionId,
    /// What it does.
    pub state: EnvironmentState,
    /// `AWS_LAMBDA_INITIALIZATION_TYPE`
    pub initialization: Initialization,
    /// Why it was made.
    pub created_for: CreateReason,
    /// Why it ends or ended.
    pub ending_for: Option<EndReason>,
    /// The VMM's process, while there is one.
    pub process_id: Option<u32>,
    /// How old it is.
    pub age: Duration,
    /// How many invocations it was given.
    pub invocations: u64,
}

/// What an environment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnvironmentState {
    /// Its microVM starts.
    Creating,
    /// Its runtime starts.
    Initialising,
    /// It waits for an invocation.
    Idle,
    /// It has one.
    Busy,
    /// It is being ended.
    Ending,
    /// Nothing is left of it.
    Gone,
}

impl EnvironmentState {
    /// `creating`, `initialising`, `idle`, `busy`, `ending`, `gone`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Initialising => "initialising",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Ending => "ending",
            Self::Gone => "gone",
        }
    }
}

/// How an environment came to be initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Initialization {
    /// For an invocation that found none.
    OnDemand,
    /// Ahead of any.
    Provisioned,
}

impl Initialization {
    /// `on-demand`, `provisioned-concurrency`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Provisioned => "provisioned-concurrency",
        }
    }
}

/// Why an environment was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CreateReason {
    /// An invocation arrived and no suitable one was there.
    ColdStart,
    /// Provisioned concurrency was asked for.
    ProvisionedConcurrency,
    /// A provisioned one was lost, or its lease ends.
    Replacement,
}

impl CreateReason {
    /// `cold-start`, `provisioned-concurrency`, `replacement`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ColdStart => "cold-start",
            Self::ProvisionedConcurrency => "provisioned-concurrency",
            Self::Replacement => "replacement",
        }
    }
}

/// Why an environment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndReason {
    /// It was idle for too long.
    IdleTimeout,
    /// Its room was needed for another one.
    Evicted,
    /// Its function version was removed, or replaced under the same name.
    VersionRetired,
    /// Provisioned concurrency was lowered.
    ProvisionedConcurrencyLowered,
    /// Its lease, or the worker's, comes to its end.
    LeaseEnding,
    /// The worker was told to drain: a deployment, or a rebalancing of load.
    WorkerDraining,
    /// An operator ended it.
    OperatorRequest,
    /// Its init phase failed, and it was to be ready ahead of any invocation.
    InitFailed,
    /// Its microVM could not be started.
    LaunchFailed,
    /// The guest ended by itself: power-off, panic, a fault of PID 1.
    GuestEnded,
    /// The guest broke the protocol, or did not answer in time.
    GuestViolation,
    /// The VMM's process failed, hung or was killed.
    VmmLost,
}

impl EndReason {
    /// Every one, for tables and metrics.
    pub const ALL: [Self; 12] = [
        Self::IdleTimeout,
        Self::Evicted,
        Self::VersionRetired,
        Self::ProvisionedConcurrencyLowered,
        Self::LeaseEnding,
        Self::WorkerDraining,
        Self::OperatorRequest,
        Self::InitFailed,
        Self::LaunchFailed,
        Self::GuestEnded,
        Self::GuestViolation,
        Self::VmmLost,
    ];

    /// `idle-timeout`, `evicted`, ...
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle-timeout",
            Self::Evicted => "evicted",
            Self::VersionRetired => "version-retired",
            Self::ProvisionedConcurrencyLowered => "provisioned-concurrency-lowered",
            Self::LeaseEnding => "lease-ending",
            Self::WorkerDraining => "worker-draining",
            Self::OperatorRequest => "operator-request",
            Self::InitFailed => "init-failed",
            Self::LaunchFailed => "launch-failed",
            Self::GuestEnded => "guest-ended",
            Self::GuestViolation => "guest-violation",
            Self::VmmLost => "vmm-lost",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerEvent {
    /// The time of day, since the Unix epoch.
    pub time: Duration,
    /// What.
    pub kind: WorkerEventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerEventKind {
    /// The lease is another, or its state is.
    Lease(LeaseStatus),
    /// An environment is new, or its state is.
    Environment(EnvironmentInfo),
    /// An invocation began (no report) or ended.
    Invocation {
        /// Which one.
        invocation: InvocationId,
        /// Of which version.
        version: FunctionVersionId,
        /// Where.
        environment: EnvironmentId,
        /// Its figures, at its end.
        report: Option<Report>,
        /// The error that it ended with.
        error_type: Option<String>,
    },
    /// A line of a function's log, the platform's own lines included.
    Log {
        /// Where it was written.
        environment: EnvironmentId,
        /// During which invocation.
        invocation: Option<InvocationId>,
        /// Where it comes from; `None` for the platform's own lines.
        stream: Option<LogStream>,
        /// The line without its end, cut at 64 KiB.
        line: Vec<u8>,
    },
    /// The watcher was too slow for this many.
    Missed(u64),
}
