//! How chunks and their keys are encrypted: `docs/artifact-format.md` to the byte.
//!
//! ```text
//!            plaintext chunk ──chunk key──> ciphertext ──SHA-256──> name ──> manifest ──SHA-256──> manifest's id
//!                                │                                                                    │ authenticated
//!                                └──> table of keys ──data key, AES-256-GCM──> artifact <─────────────┘
//!                                                        └──wrapped by the key service──> artifact
//! ```
//!
//! Nothing is decrypted before its name was checked: what decrypts takes [`Checked`] bytes, and only a check makes those.

mod artifact;
mod convergent;
mod opener;
mod secret;
pub(crate) mod table;
mod whole;

pub use artifact::{ARTIFACT_BYTES_MAX, Artifact, ArtifactError, KeyTable, is_name};
pub use convergent::Salt;
pub use opener::{Checked, OpenError, Opener};
pub(crate) use secret::derive;
pub use secret::{Secret, SecretError};
pub use whole::{ImageKey, TAG_BYTES};

use crate::chunk::CHUNK_BYTES;

/// How chunks are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Each chunk under a key that follows from its content and the root's salt, AES-256-CTR: equal chunks of one root are
    /// equal ciphertext. For container images.
    Convergent,
    /// All chunks under one key of the artifact, AES-256-GCM. For ZIPs.
    ServiceKey,
}

impl Method {
    /// Bytes of a chunk's ciphertext.
    #[must_use]
    pub fn sealed_bytes(self) -> usize {
        match self {
            Method::Convergent => CHUNK_BYTES,
            Method::ServiceKey => CHUNK_BYTES + TAG_BYTES,
        }
    }

    /// The number of keys in the table of an artifact with so many stored chunks.
    #[must_use]
    pub fn keys(self, stored: u32) -> u32 {
        match self {
            Method::Convergent => stored,
            Method::ServiceKey => 1,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Method::Convergent => 1,
            Method::ServiceKey => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Method> {
        match code {
            1 => Some(Method::Convergent),
            2 => Some(Method::ServiceKey),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
