//! An artifact: who it is, its manifest's id, the wrapped data key, and the table of keys sealed under it.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::digest::{DIGEST_BYTES, Digest};
use crate::limits::{CHUNKS_MAX, CONFIG_BYTES_MAX, NAME_TEXT_MAX, WRAPPED_KEY_MAX};
use crate::manifest::{Manifest, RootId};
use crate::seal::secret::{SECRET_BYTES, Secret, SecretError};
use crate::seal::table::{self, NONCE_BYTES, SEAL_BYTES};

/// What an artifact begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveA\x01";

/// Bytes before the identity.
const HEAD_BYTES: usize = 52;

/// The most bytes of an opened table.
const TABLE_BYTES_MAX: usize = 8 + CHUNKS_MAX as usize * SECRET_BYTES + CONFIG_BYTES_MAX;

/// The most bytes of an artifact.
pub const ARTIFACT_BYTES_MAX: usize =
    HEAD_BYTES + 2 * NAME_TEXT_MAX + WRAPPED_KEY_MAX + SEAL_BYTES + TABLE_BYTES_MAX;

/// The keys of an artifact's chunks, and the configuration that goes with the image.
///
/// The keys lie in one piece of memory that is overwritten when it is dropped.
pub struct KeyTable {
    keys: Zeroizing<Vec<u8>>,
    config: Zeroizing<Vec<u8>>,
}

/// An artifact as it is stored. What it holds is public, or sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Whose it is: the ARN of a function version, or a name that was given to it. Data keys are wrapped for it alone.
    pub identity: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Which key of the key service wraps the data key.
    pub key: String,
    /// The data key, wrapped.
    pub wrapped: Vec<u8>,
    /// The table, sealed under the data key.
    sealed: Vec<u8>,
}

/// Why bytes are no artifact, or one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// It does not begin as one, or is of another version.
    #[error("not an artifact of version 1")]
    Magic,
    /// A field has a value that it cannot have.
    #[error("the field {field} cannot have this value")]
    Field {
        /// Its name in `docs/artifact-format.md`.
        field: &'static str,
    },
    /// Its length is not what its fields say.
    #[error("the length is not what the fields say")]
    Length,
    /// The table, the manifest, the identity or the data key is not what was sealed.
    #[error("the table of keys does not belong to this data key, manifest and identity")]
    Seal,
    /// The system gives no random bytes.
    #[error("a table cannot be sealed")]
    Secret(#[from] SecretError),
}

impl KeyTable {
    /// A table of these keys, in the order of the manifest's names.
    #[must_use]
    pub fn new(keys: &[Secret], config: &[u8]) -> KeyTable {
        let mut bytes = Zeroizing::new(Vec::with_capacity(keys.len() * SECRET_BYTES));
        keys.iter().for_each(|key| bytes.extend(key.expose()));
        KeyTable { keys: bytes, config: Zeroizing::new(config.to_vec()) }
    }

    /// The number of keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len() / SECRET_BYTES
    }

    /// The configuration that was sealed with the keys; what it means is not the table's to know.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    pub(super) fn key(&self, place: usize) -> Option<Secret> {
        let (keys, _) = self.keys.as_chunks::<SECRET_BYTES>();
        keys.get(place).and_then(|key| Secret::from_slice(key).ok())
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        // In one piece from the start: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(8 + self.keys.len() + self.config.len()));
        for length in [self.keys(), self.config.len()] {
            bytes.extend(u32::try_from(length).expect("tables are small").to_le_bytes());
        }
        bytes.extend(self.keys.as_slice());
        bytes.extend(self.config.as_slice());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<KeyTable> {
        let (keys, rest) = bytes.split_first_chunk::<4>()?;
        let (config, rest) = rest.split_first_chunk::<4>()?;
        let keys = (u32::from_le_bytes(*keys) as usize).checked_mul(SECRET_BYTES)?;
        let (keys, rest) = rest.split_at_checked(keys)?;
        (u32::from_le_bytes(*config) as usize == rest.len()).then(|| KeyTable {
            keys: Zeroizing::new(keys.to_vec()),
            config: Zeroizing::new(rest.to_vec()),
        })
    }
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyTable").field("keys", &self.keys()).finish_non_exhaustive()
    }
}

impl Artifact {
    /// Seals a table under a data key that is used for nothing else.
    ///
    /// # Errors
    /// [`ArtifactError`]; a name or a table that is too large is one.
    pub fn seal(
        (identity, manifest): (&str, Digest),
        (key, wrapped, data_key): (&str, &[u8], &Secret),
        table: &KeyTable,
    ) -> Result<Artifact, ArtifactError> {
        let nonce = table::nonce()?;
        Artifact::seal_with((identity, manifest), (key, wrapped, data_key), table, nonce)
    }

    /// As [`Artifact::seal`], with a nonce that was never used with this data key.
    pub(super) fn seal_with(
        (identity, manifest): (&str, Digest),
        (key, wrapped, data_key): (&str, &[u8], &Secret),
        table: &KeyTable,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Artifact, ArtifactError> {
        let aad = aad(&manifest, identity);
        let sealed = table::seal(data_key, nonce, &aad, &table.encode());
        let artifact = Artifact {
            identity: identity.to_owned(),
            manifest,
            key: key.to_owned(),
            wrapped: wrapped.to_vec(),
            sealed,
        };
        // What is written can be read.
        Artifact::parse(&artifact.encode())
    }

    /// Opens the table with the data key, and makes sure that it is this manifest's.
    ///
    /// # Errors
    /// [`ArtifactError::Seal`], or the field of the table that does not fit the manifest.
    pub fn open(&self, data_key: &Secret, manifest: &Manifest) -> Result<KeyTable, ArtifactError> {
        let id = manifest.id();
        let opened = table::open(data_key, &aad(&id, &self.identity), &self.sealed);
        let opened = opened.filter(|_| id == self.manifest).ok_or(ArtifactError::Seal)?;
        let table = KeyTable::parse(&opened).ok_or(ArtifactError::Field { field: "table" })?;
        if table.keys() != manifest.method().keys(manifest.zeros().stored()) as usize {
            return Err(ArtifactError::Field { field: "keys" });
        }
        Ok(table)
    }

    /// What the key service must be told to unwrap the data key: the same as when it was wrapped.
    #[must_use]
    pub fn context(identity: &str, root: RootId) -> BTreeMap<String, String> {
        let pairs = [("votive:artifact", identity.to_owned()), ("votive:root", root.to_string())];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            HEAD_BYTES
                + self.identity.len()
                + self.key.len()
                + self.wrapped.len()
                + self.sealed.len(),
        );
        bytes.extend(MAGIC);
        bytes.extend(self.manifest.as_bytes());
        for length in [self.identity.len(), self.key.len(), self.wrapped.len()] {
            // A length that does not fit is refused when it is read back.
            bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        }
        bytes.extend([0; 2]);
        bytes.extend(u32::try_from(self.sealed.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.identity.as_bytes());
        bytes.extend(self.key.as_bytes());
        bytes.extend(&self.wrapped);
        bytes.extend(&self.sealed);
        bytes
    }

    /// Reads an artifact. Memory and time are bounded by the bytes that are there.
    ///
    /// # Errors
    /// [`ArtifactError`]
    pub fn parse(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        if bytes.len() > ARTIFACT_BYTES_MAX {
            return Err(ArtifactError::Length);
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(ArtifactError::Length)?;
        if head[..8] != MAGIC {
            return Err(ArtifactError::Magic);
        }
        let name: [u8; DIGEST_BYTES] = head[8..40].try_into().map_err(|_| ArtifactError::Length)?;
        let length = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]) as usize;
        if head[46..48] != [0; 2] {
            return Err(ArtifactError::Field { field: "reserved" });
        }
        let sealed = u32::from_le_bytes([head[48], head[49], head[50], head[51]]) as usize;
        let mut rest = rest;
        let mut next = |field, length, most| {
            if length == 0 || length > most {
                return Err(ArtifactError::Field { field });
            }
            let (taken, left) = rest.split_at_checked(length).ok_or(ArtifactError::Length)?;
            rest = left;
            Ok(taken)
        };
        let identity = next("identity", length(40), NAME_TEXT_MAX)?;
        let key = next("key", length(42), NAME_TEXT_MAX)?;
        let wrapped = next("wrapped", length(44), WRAPPED_KEY_MAX)?.to_vec();
        let sealed = next("sealed", sealed, TABLE_BYTES_MAX + SEAL_BYTES)?;
        if !rest.is_empty() {
            return Err(ArtifactError::Length);
        }
        if sealed.len() < SEAL_BYTES + 8 {
            return Err(ArtifactError::Field { field: "sealed" });
        }
        Ok(Artifact {
            identity: name_text("identity", identity)?,
            manifest: Digest::from_bytes(name),
            key: name_text("key", key)?,
            wrapped,
            sealed: sealed.to_vec(),
        })
    }

    /// Where in the encoded artifact the sealed table's nonce is, for the test that changes each part.
    #[cfg(test)]
    pub(super) fn nonce(&self) -> &[u8] {
        &self.sealed[..NONCE_BYTES]
    }
}

/// What a table is sealed for. The digest has one length, so what follows it is the identity.
fn aad(manifest: &Digest, identity: &str) -> Vec<u8> {
    [manifest.as_bytes(), identity.as_bytes()].concat()
}

/// A name as people may write one: printable ASCII without spaces, which logs and audit records can show as it is.
fn name_text(field: &'static str, bytes: &[u8]) -> Result<String, ArtifactError> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| is_name(text));
    text.map(str::to_owned).ok_or(ArtifactError::Field { field })
}

/// Whether a text can name an artifact, a key or a worker.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=NAME_TEXT_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
