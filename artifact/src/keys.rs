//! The key service: makes data keys, wraps them, and unwraps them for the context that they were wrapped for.
//!
//! [`Embedded`] is one for a single machine; with the feature `kms`, `AwsKms` speaks AWS KMS's API. Neither ever lets a key out
//! that it wraps with. [`open`] tells by a text which one is meant.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

pub use audit::{AuditRecord, Outcome};
pub use embedded::{Embedded, KeyInfo};
#[cfg(feature = "kms")]
pub use kms::{AwsKms, KeyState, KmsError, KmsLimits, KmsSpec};
pub use spec::{KeysSpec, OpenKeysError, open};

use crate::seal::{Secret, SecretError};

mod audit;
mod embedded;
#[cfg(feature = "kms")]
mod kms;
mod spec;

/// The key that is used where none is named, unless the service has another.
pub const KEY_DEFAULT: &str = "votive";

/// What a data key is for: pairs of names and values that are authenticated and appear in audit records.
pub type Context = BTreeMap<String, String>;

/// What a key service's answer comes as.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyError>> + Send + 'a>>;

/// A data key, as it is used and as it is kept.
#[derive(Debug)]
pub struct DataKey {
    /// The key.
    pub plain: Secret,
    /// The key as only the key service can read it.
    pub wrapped: Vec<u8>,
}

/// A service that wraps data keys. Every call that reaches it leaves an audit record, whether it is granted or refused.
pub trait KeyService: Send + Sync + fmt::Debug {
    /// A new data key, wrapped with the key of this name for this context.
    fn generate<'a>(&'a self, key: &'a str, context: &'a Context) -> Answer<'a, DataKey>;

    /// The data key that was wrapped with the key of this name for this context.
    fn unwrap<'a>(
        &'a self,
        key: &'a str,
        wrapped: &'a [u8],
        context: &'a Context,
    ) -> Answer<'a, Secret>;

    /// The key that is used where none is named.
    fn default_key(&self) -> &str {
        KEY_DEFAULT
    }
}

/// Why a key service gives no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key was disabled; enabling it makes everything good.
    #[error("the key {key} is disabled")]
    Disabled {
        /// The key.
        key: String,
    },
    /// There is no such key.
    #[error("there is no key {key}")]
    NotFound {
        /// The key.
        key: String,
    },
    /// The caller may not use the key for this.
    #[error("the key {key} may not be used")]
    AccessDenied {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The key is in a state in which it cannot be used, such as that of waiting for its deletion.
    #[error("the key {key} is in a state in which it cannot be used")]
    InvalidState {
        /// The key.
        key: String,
    },
    /// The data key was wrapped with another key, for another context, or altered.
    #[error("the data key was not wrapped with the key {key} for this context")]
    InvalidCiphertext {
        /// The key.
        key: String,
    },
    /// The service cannot be reached, or fails.
    #[error("the key service does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The service's file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The service's file was altered, or belongs to another master key.
    #[error("{path} was altered, or belongs to another master key")]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner can read the master key.
    #[error("{path} has mode {mode:o}: nobody but its owner may read the master key; chmod 600 it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A key of this name exists.
    #[error("there is a key {key} already")]
    Exists {
        /// The key.
        key: String,
    },
    /// A name that no key can have.
    #[error("a key's name is printable ASCII without spaces")]
    Name,
    /// The system gives no random bytes.
    #[error("a key cannot be made")]
    Secret(#[from] SecretError),
}

impl KeyError {
    /// The name of the exception that Lambda's API gives for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            KeyError::Disabled { .. } => "KMSDisabledException",
            KeyError::NotFound { .. } => "KMSNotFoundException",
            KeyError::AccessDenied { .. } => "KMSAccessDeniedException",
            KeyError::InvalidState { .. } | KeyError::InvalidCiphertext { .. } => {
                "KMSInvalidStateException"
            }
            KeyError::Unavailable(_)
            | KeyError::File { .. }
            | KeyError::Altered { .. }
            | KeyError::Exposed { .. }
            | KeyError::Exists { .. }
            | KeyError::Name
            | KeyError::Secret(_) => "ServiceException",
        }
    }
}

#[cfg(test)]
mod tests;
