//! What the worker refuses, as the channel says it.

use tonic::{Code, Status};
use votive_control::identity::Role;
use votive_control::refusal::Refusal;

use crate::worker::api::{
    InvalidId, InvokeError, LeaseError, ProvisionError, RegisterError, UnknownEnvironment,
    UnknownFunctionVersion, UnknownInvocation,
};

/// The name of a value that is wrong.
const INVALID_PARAMETER: &str = "InvalidParameterValueException";
/// The name of something that is not there.
const NOT_FOUND: &str = "ResourceNotFoundException";
/// The name of a payload that is too long.
const TOO_LARGE: &str = "RequestTooLargeException";
/// The name of a request that is not what it should be.
const INVALID_CONTENT: &str = "InvalidRequestContentException";
/// The name of a failure of the worker's.
const SERVICE: &str = "ServiceException";

/// gRPC's kind of each named error.
fn code_of(name: &str) -> Code {
    match name {
        "ErrReservationExpired" | "ResourceNotReadyException" => Code::FailedPrecondition,
        "ErrAlreadyReserved" | "ErrAlreadyInvocating" | "ResourceConflictException" => {
            Code::AlreadyExists
        }
        "TooManyRequestsException" | "CodeStorageExceededException" => Code::ResourceExhausted,
        NOT_FOUND => Code::NotFound,
        "AccessDeniedException" => Code::PermissionDenied,
        "UnknownOperationException" => Code::Unimplemented,
        SERVICE => Code::Internal,
        name if name.starts_with("KMS") => Code::FailedPrecondition,
        _ => Code::InvalidArgument,
    }
}

fn status(name: &str, message: impl Into<String>) -> Status {
    Refusal::new(code_of(name), name, message).to_status()
}

pub(crate) fn role(needed: Role, held: Role) -> Status {
    status("AccessDeniedException", format!("the call needs the role {needed}, not {held}"))
}

pub(crate) fn unknown_call() -> Status {
    status("UnknownOperationException", "there is no such call")
}

pub(crate) fn bad_deadline() -> Status {
    status(INVALID_CONTENT, "grpc-timeout is not a time")
}

pub(crate) fn slow_request() -> Status {
    status(INVALID_CONTENT, "the request did not come in time")
}

pub(crate) fn too_large(max: usize) -> Status {
    status(TOO_LARGE, format!("the payload is too long: at most {max} bytes are allowed"))
}

pub(crate) fn out_of_order(what: &str) -> Status {
    status(INVALID_CONTENT, what)
}

/// Received payloads fill their share of memory. The reservation is not spent.
pub(crate) fn no_room_for_payload() -> Status {
    let refusal = Refusal {
        limit: String::from("CallerRateLimitExceeded"),
        retry_after: Some(std::time::Duration::from_millis(200)),
        ..Refusal::new(
            Code::ResourceExhausted,
            votive_control::refusal::TOO_MANY_REQUESTS,
            "too many payloads are being received at once",
        )
    };
    refusal.to_status()
}

/// The caller has left: nobody will read this.
pub(crate) fn lost() -> Status {
    Status::cancelled("the caller has left")
}

pub(crate) fn deadline() -> Status {
    Status::deadline_exceeded("the call took too long")
}

/// An answer that ended before its end: the worker's own failure.
pub(crate) fn unfinished() -> Status {
    status(SERVICE, "the worker lost the invocation")
}

pub(crate) fn field(field: &str, what: &str) -> Status {
    status(INVALID_PARAMETER, format!("{field}: {what}"))
}

pub(crate) fn id(name: &str, error: InvalidId) -> Status {
    field(name, &error.to_string())
}

pub(crate) fn lease(error: LeaseError) -> Status {
    let name = match error {
        LeaseError::TooLong { .. }
        | LeaseError::TooShort { .. }
        | LeaseError::LongestInvocation { .. }
        | LeaseError::BeyondLife { .. }
        | LeaseError::Shorter => INVALID_PARAMETER,
        LeaseError::Draining => "ResourceNotReadyException",
        LeaseError::NotKept => SERVICE,
    };
    status(name, error.to_string())
}

pub(crate) fn register(error: &RegisterError) -> Status {
    status(error.name(), error.to_string())
}

pub(crate) fn invoke(error: &InvokeError) -> Status {
    let mut refusal = Refusal::new(code_of(error.name()), error.name(), error.to_string());
    if let InvokeError::TooManyRequests { reason, retry_after } = error {
        refusal.limit = reason.name().to_owned();
        refusal.retry_after = Some(*retry_after);
    }
    refusal.to_status()
}

pub(crate) fn provision(error: ProvisionError) -> Status {
    status(error.name(), error.to_string())
}

pub(crate) fn unknown_version(error: UnknownFunctionVersion) -> Status {
    status(NOT_FOUND, error.to_string())
}

pub(crate) fn unknown_environment(error: UnknownEnvironment) -> Status {
    status(NOT_FOUND, error.to_string())
}

pub(crate) fn unknown_invocation(error: UnknownInvocation) -> Status {
    status(NOT_FOUND, error.to_string())
}
