//! Convergent encryption: a chunk's key is an HMAC of its content under the root's salt.
//!
//! AES-256-CTR always starts at counter zero here. That is sound for one reason alone: a key encrypts one plaintext, the one
//! that it was made from. So a key never leaves this module but inside a table, and nothing else is ever encrypted with it.

use aes::Aes256;
use ctr::Ctr64BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::seal::secret::{Secret, hmac_key};

/// What keeps keys of chunks from being the same chunk's elsewhere, put before the chunk.
const LABEL: &[u8] = b"k";

/// The secret of a root: without it nobody can tell from a chunk's content what its key or its name is.
#[derive(Clone, Debug)]
pub struct Salt(Secret);

impl Salt {
    /// The salt with these bytes.
    #[must_use]
    pub fn new(secret: Secret) -> Salt {
        Salt(secret)
    }

    /// Encrypts a chunk in place; gives its key and its name.
    #[must_use]
    pub fn seal(&self, chunk: &mut [u8; CHUNK_BYTES]) -> (Secret, Digest) {
        let key = hmac_key(&self.0, &[LABEL, chunk.as_slice()]);
        cipher(&key).apply_keystream(chunk);
        let name = Digest::of(chunk.as_slice());
        (key, name)
    }
}

/// Decrypts `sealed`, which was checked, into `chunk`.
pub(super) fn open(key: &Secret, sealed: &[u8], chunk: &mut [u8; CHUNK_BYTES]) {
    cipher(key).apply_keystream_b2b(sealed, chunk);
}

/// The key stream from counter zero. A counter of 64 bits does not wrap within a chunk, so it is the one of 128 bits.
fn cipher(key: &Secret) -> Ctr64BE<Aes256> {
    Ctr64BE::new(key.expose().into(), &[0; 16].into())
}
