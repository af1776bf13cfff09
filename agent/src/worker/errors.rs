//! Why a worker says no, in the names that AWS Lambda and its emulator have for it (CONTRACT 4.10).

use std::time::Duration;

use crate::function::FunctionError;

/// A text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the text is not an id of this kind")]
pub struct InvalidId;

/// No such function version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the function version is not known")]
pub struct UnknownFunctionVersion;

/// No such environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment is not known")]
pub struct UnknownEnvironment;

/// No such invocation, or it ended too long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the invocation is not known")]
pub struct UnknownInvocation;

/// Why a lease was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Longer than any lease.
    #[error("a lease of {} s: at most {} s are allowed", .asked.as_secs(), .max.as_secs())]
    TooLong {
        /// What was asked for.
        asked: Duration,
        /// The most.
        max: Duration,
    },
    /// No time for an invocation would be left.
    #[error("a lease of {} s leaves no time to serve: it must be longer than {} s", .asked.as_secs(), .min.as_secs())]
    TooShort {
        /// What was asked for.
        asked: Duration,
        /// What drain and shutdown take.
        min: Duration,
    },
    /// The longest invocation is none that AWS Lambda has.
    #[error("a longest invocation of {} s: 1 to 900 s are allowed", .asked.as_secs())]
    LongestInvocation {
        /// What was asked for.
        asked: Duration,
    },
    /// It would end later than the worker may live.
    #[error("the lease would end {} s after the worker's life", .by.as_secs())]
    BeyondLife {
        /// By how much.
        by: Duration,
    },
    /// A lease cannot be shortened; a worker is drained instead.
    #[error("the lease would end earlier than the one that it renews: drain the worker instead")]
    Shorter,
    /// The worker drains or has drained: it does not come back.
    #[error("the worker is draining, its lease cannot be renewed")]
    Draining,
    /// The lease could not be written down, so it does not count.
    #[error("the lease cannot be kept")]
    NotKept,
}

/// Why a function version was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// More layers than a function may have.
    #[error("{count} layers: at most {max} are allowed")]
    TooManyLayers {
        /// What was given.
        count: usize,
        /// The most.
        max: usize,
    },
    /// Its code or a layer cannot be read or is refused.
    #[error("the code cannot be used: {reason}")]
    Code {
        /// What is wrong, causes included; it names no more of the host than the caller did.
        reason: String,
    },
    /// Its artifact cannot be used.
    #[error("the artifact cannot be used: {reason}")]
    Artifact {
        /// The name of the exception that Lambda's API gives for it.
        code: &'static str,
        /// What is wrong; it names no more of the host than the caller did.
        reason: String,
    },
    /// There is no image of its runtime.
    #[error("there is no runtime {runtime:?} here")]
    UnknownRuntime {
        /// The identifier.
        runtime: String,
    },
    /// The number stands for another code or configuration.
    #[error("version {version} stands for another code or configuration already")]
    Conflict {
        /// The version.
        version: String,
    },
    /// The worker knows as many versions as it can.
    #[error("the worker knows {max} function versions already")]
    TooMany {
        /// The most.
        max: usize,
    },
    /// The worker drains, or failed at this.
    #[error("the worker cannot register function versions now")]
    Unavailable,
}

impl RegisterError {
    /// The name that AWS Lambda has for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Function(_) | Self::TooManyLayers { .. } => "InvalidParameterValueException",
            Self::Code { .. } => "InvalidZipFileException",
            Self::Artifact { code, .. } => code,
            Self::UnknownRuntime { .. } => "InvalidRuntimeException",
            Self::Conflict { .. } => "ResourceConflictException",
            Self::TooMany { .. } => "CodeStorageExceededException",
            Self::Unavailable => "ServiceException",
        }
    }
}

/// Why an invocation was not reserved or not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// The id is not the reservation's.
    #[error("the reservation is for another invocation")]
    InvalidInvokeId,
    /// The token is none, or was used.
    #[error("the reservation token is not valid")]
    InvalidReservationToken,
    /// The version is not the reservation's.
    #[error("the reservation is for another function version")]
    InvalidFunctionVersion,
    /// The token was not used in time.
    #[error("the reservation has expired")]
    ReservationExpired,
    /// The invocation has a reservation.
    #[error("the invocation is reserved already")]
    AlreadyReserved,
    /// The invocation is under way, or was.
    #[error("the invocation has begun already")]
    AlreadyInvocating,
    /// A limit is reached.
    #[error("rate exceeded: {}", .reason.name())]
    TooManyRequests {
        /// Which one.
        reason: ThrottleReason,
        /// When to try again.
        retry_after: Duration,
    },
    /// The function version is not known.
    #[error("the function version is not known")]
    ResourceNotFound,
    /// The worker has no lease, or drains.
    #[error("the worker takes no invocation: {why}")]
    ResourceNotReady {
        /// Which of them.
        why: &'static str,
    },
    /// The payload is over 6 MiB.
    #[error("a payload of {len} bytes: at most {max} are allowed")]
    RequestTooLarge {
        /// Its length.
        len: u64,
        /// The most.
        max: u64,
    },
    /// A field beside the payload cannot be passed on.
    #[error("{field} cannot be passed on: too long, or it holds control characters")]
    InvalidRequestContent {
        /// Which one.
        field: &'static str,
    },
    /// The worker failed.
    #[error("the worker failed: {what}")]
    ServiceException {
        /// At what.
        what: &'static str,
    },
}

impl InvokeError {
    /// The name that AWS Lambda or its emulator has for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::InvalidInvokeId => "ErrInvalidInvokeID",
            Self::InvalidReservationToken => "ErrInvalidReservationToken",
            Self::InvalidFunctionVersion => "ErrInvalidFunctionVersion",
            Self::ReservationExpired => "ErrReservationExpired",
            Self::AlreadyReserved => "ErrAlreadyReserved",
            Self::AlreadyInvocating => "ErrAlreadyInvocating",
            Self::TooManyRequests { .. } => "TooManyRequestsException",
            Self::ResourceNotFound => "ResourceNotFoundException",
            Self::ResourceNotReady { .. } => "ResourceNotReadyException",
            Self::RequestTooLarge { .. } => "RequestTooLargeException",
            Self::InvalidRequestContent { .. } => "InvalidRequestContentException",
            Self::ServiceException { .. } => "ServiceException",
        }
    }

    /// The limit that was reached, if it was one.
    #[must_use]
    pub fn reason(&self) -> Option<ThrottleReason> {
        match self {
            Self::TooManyRequests { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// Which limit an invocation met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThrottleReason {
    /// The worker's.
    ConcurrentInvocationLimitExceeded,
    /// The function version's own.
    ReservedFunctionConcurrentInvocationLimitExceeded,
    /// Reservations that wait to be spent.
    CallerRateLimitExceeded,
}

impl ThrottleReason {
    /// The name of CONTRACT 4.10.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConcurrentInvocationLimitExceeded => "ConcurrentInvocationLimitExceeded",
            Self::ReservedFunctionConcurrentInvocationLimitExceeded => {
                "ReservedFunctionConcurrentInvocationLimitExceeded"
            }
            Self::CallerRateLimitExceeded => "CallerRateLimitExceeded",
        }
    }
}

/// Why provisioned concurrency was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// No such function version.
    #[error("the function version is not known")]
    UnknownFunctionVersion,
    /// `$LATEST` changes under its environments.
    #[error("$LATEST cannot have provisioned concurrency")]
    Latest,
    /// More than the version or the worker may have.
    #[error("{asked} environments: at most {max} are allowed")]
    TooMany {
        /// What was asked for.
        asked: u32,
        /// The most.
        max: u32,
    },
    /// The worker has no lease, or drains.
    #[error("the worker starts no environment: {why}")]
    NotReady {
        /// Which of them.
        why: &'static str,
    },
}

impl ProvisionError {
    /// The name that AWS Lambda has for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnknownFunctionVersion => "ResourceNotFoundException",
            Self::Latest | Self::TooMany { .. } => "InvalidParameterValueException",
            Self::NotReady { .. } => "ResourceNotReadyException",
        }
    }
}
