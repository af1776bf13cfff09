//! What a worker refuses, as a gRPC status whose details hold one `google.rpc.ErrorInfo` of the domain "votive".
//!
//! Its reason is the name that AWS Lambda or its emulator has for the error (CONTRACT 4.10). A throttled request also tells
//! which limit was met (`Reason`) and, in a `google.rpc.RetryInfo`, when to try again.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

#[cfg(test)]
mod tests;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "votive";

/// The name of a request that found no room.
pub const TOO_MANY_REQUESTS: &str = "TooManyRequestsException";

/// The key of the limit that was met, in an `ErrorInfo`'s metadata. CONTRACT 4.10 calls it so.
const REASON_KEY: &str = "Reason";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC's kind of error.
    pub code: Code,
    /// AWS Lambda's name for it; empty if whatever refused is not a votive worker.
    pub name: String,
    /// A sentence for people.
    pub message: String,
    /// The limit that was met, if it was one; empty otherwise.
    pub limit: String,
    /// When to try again, if that may help.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal that trying again does not change.
    #[must_use]
    pub fn new(code: Code, name: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            name: name.to_owned(),
            message: message.into(),
            limit: String::new(),
            retry_after: None,
        }
    }

    /// Whether a limit was met: the same request may find room later.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.name == TOO_MANY_REQUESTS
    }

    /// As gRPC carries it.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let mut metadata = HashMap::new();
        if !self.limit.is_empty() {
            metadata.insert(REASON_KEY.to_owned(), self.limit.clone());
        }
        let mut details = ErrorDetails::with_error_info(&self.name, DOMAIN, metadata);
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, &self.message, details)
    }

    /// Reads what gRPC carried. Details that cannot be read are as good as none.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        Self {
            code: status.code(),
            name: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            limit: info.and_then(|info| info.metadata.get(REASON_KEY).cloned()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}
