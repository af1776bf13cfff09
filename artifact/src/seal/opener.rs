//! From checked ciphertext back to an image's chunks.

use std::fmt;

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::manifest::Manifest;
use crate::seal::artifact::{ArtifactError, KeyTable};
use crate::seal::whole::ImageKey;
use crate::seal::{Method, convergent};

/// Ciphertext whose digest was compared with its name in this process, after it was last written to.
#[derive(Clone, Copy)]
pub struct Checked<'a> {
    name: Digest,
    bytes: &'a [u8],
}

impl<'a> Checked<'a> {
    /// Checks ciphertext; none if it is not what `name` names.
    #[must_use]
    pub fn new(name: Digest, bytes: &'a [u8]) -> Option<Checked<'a>> {
        (Digest::of(bytes) == name).then_some(Checked { name, bytes })
    }

    /// For ciphertext that was checked in a buffer that nobody can have written to since.
    pub(crate) fn trusted(name: Digest, bytes: &'a [u8]) -> Checked<'a> {
        Checked { name, bytes }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl fmt::Debug for Checked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checked").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a chunk is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The image has no such chunk, or it is all zeros and not stored.
    #[error("the image stores no chunk {index}")]
    NoChunk {
        /// The chunk.
        index: u32,
    },
    /// It is another chunk than the manifest names here.
    #[error("this is not chunk {index}")]
    Name {
        /// The chunk.
        index: u32,
    },
    /// It was sealed with another key, or as another chunk.
    #[error("chunk {index} was not sealed with this key")]
    Seal {
        /// The chunk.
        index: u32,
    },
}

/// Decrypts an artifact's chunks: a manifest and its keys.
#[derive(Debug)]
pub struct Opener {
    manifest: Manifest,
    keys: Keys,
}

enum Keys {
    Each(KeyTable),
    Whole(ImageKey),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Opener {
    /// The opener of an artifact whose table was opened for this manifest.
    ///
    /// # Errors
    /// A table with fewer keys than the manifest has chunks.
    pub fn new(manifest: Manifest, table: KeyTable) -> Result<Opener, ArtifactError> {
        if table.keys() != manifest.method().keys(manifest.zeros().stored()) as usize {
            return Err(ArtifactError::Field { field: "keys" });
        }
        let keys = match manifest.method() {
            Method::Convergent => Keys::Each(table),
            Method::ServiceKey => {
                let key = table.key(0).ok_or(ArtifactError::Field { field: "keys" })?;
                Keys::Whole(ImageKey::from_table(key, manifest.scope()))
            }
        };
        Ok(Opener { manifest, keys })
    }

    /// Which chunks there are.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Decrypts chunk `index` into `chunk`, the whole of it: zeros follow the image's end. On an error nothing of it is
    /// there.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(
        &self,
        index: u32,
        sealed: Checked<'_>,
        chunk: &mut [u8; CHUNK_BYTES],
    ) -> Result<(), OpenError> {
        let place = self.manifest.place(index).ok_or(OpenError::NoChunk { index })?;
        let expected = self.manifest.names().get(place).ok_or(OpenError::NoChunk { index })?;
        let length = self.manifest.method().sealed_bytes();
        if *expected != sealed.name || sealed.bytes.len() != length {
            return Err(OpenError::Name { index });
        }
        match &self.keys {
            Keys::Each(table) => {
                let key = table.key(place).ok_or(OpenError::NoChunk { index })?;
                convergent::open(&key, sealed.bytes, chunk);
            }
            Keys::Whole(key) if key.open(index, sealed.bytes, chunk) => {}
            Keys::Whole(_) => return Err(OpenError::Seal { index }),
        }
        Ok(())
    }
}
