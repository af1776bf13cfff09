//! The manifest: which chunks an image is made of. It is public to whoever runs the store, and holds no key.
//!
//! Its id is the SHA-256 of its bytes, and there is one way to write each manifest: no field can be derived from the others,
//! no length is written down twice, nothing may follow.

use std::fmt;

use crate::chunk::{CHUNK_BYTES, ZeroMap, chunks_of, map_bytes};
use crate::digest::{DIGEST_BYTES, Digest, parse_hex, write_hex};
use crate::limits::CHUNKS_MAX;
use crate::seal::Method;

/// What a manifest begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveM\x01";

/// Bytes before the map of zeros.
const HEAD_BYTES: usize = 56;

/// The most bytes of a manifest.
pub const MANIFEST_BYTES_MAX: usize =
    HEAD_BYTES + CHUNKS_MAX as usize / 8 + 1 + CHUNKS_MAX as usize * DIGEST_BYTES;

/// Sixteen bytes as a name.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<$name, NotAnId> {
                parse_hex(text).map($name).ok_or(NotAnId)
            }
        }
    };
}

/// Text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 32 hexadecimal digits in lower case")]
pub struct NotAnId;

id! {
    /// A root: a namespace of chunks and manifests that is retired and deleted as a whole. The first six bytes are when it
    /// was opened, in milliseconds since 1970, big-endian, so that roots sort by age.
    RootId
}

id! {
    /// Within which chunks are encrypted alike: a root's salt ([`Method::Convergent`]) or one artifact
    /// ([`Method::ServiceKey`]).
    ScopeId
}

/// Which chunks an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    method: Method,
    image_bytes: u64,
    root: RootId,
    scope: ScopeId,
    zeros: ZeroMap,
    names: Vec<Digest>,
    /// How many chunks before each 64th are stored, so that finding a chunk's place takes a step and not a walk.
    ranks: Vec<u32>,
}

/// Why bytes are no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It does not begin as one, or is of another version.
    #[error("not a manifest of version 1")]
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
    /// It is not the manifest that was asked for.
    #[error("the manifest's digest is not its name")]
    Name,
}

impl Manifest {
    /// The manifest of an image of so many bytes with chunks of these names, those that are all zeros left out; none if
    /// these do not fit together.
    #[must_use]
    pub fn new(
        method: Method,
        image_bytes: u64,
        (root, scope): (RootId, ScopeId),
        zeros: ZeroMap,
        names: Vec<Digest>,
    ) -> Option<Manifest> {
        let fits =
            chunks_of(image_bytes)? == zeros.chunks() && names.len() == zeros.stored() as usize;
        let ranks = ranks(&zeros);
        fits.then_some(Manifest { method, image_bytes, root, scope, zeros, names, ranks })
    }

    /// How its chunks are encrypted.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Size of the image, in bytes.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// The root that it was sealed in, which is part of what its keys are wrapped for; it may have been copied to another.
    #[must_use]
    pub fn root(&self) -> RootId {
        self.root
    }

    /// Within which its chunks are encrypted.
    #[must_use]
    pub fn scope(&self) -> ScopeId {
        self.scope
    }

    /// Which chunks are all zeros.
    #[must_use]
    pub fn zeros(&self) -> &ZeroMap {
        &self.zeros
    }

    /// The names of the chunks that are stored, in order; one may be there several times.
    #[must_use]
    pub fn names(&self) -> &[Digest] {
        &self.names
    }

    /// The place of chunk `index` among those that are stored; none if it is all zeros or not there.
    #[must_use]
    pub fn place(&self, index: u32) -> Option<usize> {
        if index >= self.zeros.chunks() || self.zeros.is_zero(index) {
            return None;
        }
        let before = (index / 64 * 64..index).filter(|before| !self.zeros.is_zero(*before)).count();
        Some(*self.ranks.get(index as usize / 64)? as usize + before)
    }

    /// The name of chunk `index`; none if it is all zeros or not there.
    #[must_use]
    pub fn name(&self, index: u32) -> Option<Digest> {
        self.names.get(self.place(index)?).copied()
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let map = self.zeros.as_bits();
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + map.len() + self.names.len() * DIGEST_BYTES);
        bytes.extend(MAGIC);
        bytes.extend([self.method.code(), 0, 0, 0]);
        bytes.extend(u32::try_from(CHUNK_BYTES).expect("512 KiB").to_le_bytes());
        bytes.extend(self.image_bytes.to_le_bytes());
        bytes.extend(self.root.0);
        bytes.extend(self.scope.0);
        bytes.extend(map);
        self.names.iter().for_each(|name| bytes.extend(name.as_bytes()));
        bytes
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads the manifest that has this id.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse_named(bytes: &[u8], id: &Digest) -> Result<Manifest, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Length);
        }
        if Digest::of(bytes) != *id {
            return Err(ManifestError::Name);
        }
        Manifest::parse(bytes)
    }

    /// Reads a manifest whose id is not known. Memory and time are bounded by the bytes that are there.
    ///
    /// # Errors
    /// [`ManifestError`]
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let (magic, rest) = take::<8>(bytes)?;
        if magic != MAGIC {
            return Err(ManifestError::Magic);
        }
        let ([code, reserved @ ..], rest) = take::<4>(rest)?;
        let method = Method::from_code(code).ok_or(ManifestError::Field { field: "method" })?;
        if reserved != [0; 3] {
            return Err(ManifestError::Field { field: "reserved" });
        }
        let (chunk_bytes, rest) = take::<4>(rest)?;
        if u32::from_le_bytes(chunk_bytes) as usize != CHUNK_BYTES {
            return Err(ManifestError::Field { field: "chunk_bytes" });
        }
        let (image_bytes, rest) = take::<8>(rest)?;
        let image_bytes = u64::from_le_bytes(image_bytes);
        let chunks = chunks_of(image_bytes).ok_or(ManifestError::Field { field: "image_bytes" })?;
        let (root, rest) = take::<16>(rest)?;
        let (scope, rest) = take::<16>(rest)?;
        let (map, names) = rest.split_at_checked(map_bytes(chunks)).ok_or(ManifestError::Length)?;
        let zeros =
            ZeroMap::from_bits(map, chunks).ok_or(ManifestError::Field { field: "zeros" })?;
        let (names, rest) = names.as_chunks::<DIGEST_BYTES>();
        if !rest.is_empty() || names.len() != zeros.stored() as usize {
            return Err(ManifestError::Length);
        }
        let names = names.iter().map(|name| Digest::from_bytes(*name)).collect();
        let within = (RootId(root), ScopeId(scope));
        Manifest::new(method, image_bytes, within, zeros, names).ok_or(ManifestError::Length)
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), ManifestError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(ManifestError::Length)?;
    Ok((*head, rest))
}

fn ranks(zeros: &ZeroMap) -> Vec<u32> {
    let mut stored = 0;
    let mut ranks = Vec::with_capacity(zeros.chunks() as usize / 64 + 1);
    for index in 0..zeros.chunks() {
        if index % 64 == 0 {
            ranks.push(stored);
        }
        stored += u32::from(!zeros.is_zero(index));
    }
    ranks
}

#[cfg(test)]
mod tests;
