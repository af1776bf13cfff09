//! One key for all chunks of an image: AES-256-GCM, the chunk's index as nonce.
//!
//! The key is derived from a random key of the artifact and the whole image's digest, so that it never meets a second
//! plaintext under one nonce: not even when an interrupted upload goes on with the same random key after what makes images
//! was changed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::manifest::ScopeId;
use crate::seal::secret::{Secret, hmac_key};

/// Bytes of the tag after a chunk's ciphertext.
pub const TAG_BYTES: usize = 16;

/// What keeps this key from being one that is derived for anything else.
const LABEL: &[u8] = b"votive image key 1";

/// The key of one image's chunks.
#[derive(Clone, Debug)]
pub struct ImageKey {
    secret: Secret,
    artifact: ScopeId,
}

impl ImageKey {
    /// The key of the image with this digest, of an artifact with this random key.
    #[must_use]
    pub fn derive(random: &Secret, artifact: ScopeId, image: &Digest) -> ImageKey {
        let secret = hmac_key(random, &[LABEL, &artifact.0, image.as_bytes()]);
        ImageKey { secret, artifact }
    }

    pub(super) fn from_table(secret: Secret, artifact: ScopeId) -> ImageKey {
        ImageKey { secret, artifact }
    }

    /// Which artifact's chunks it is for.
    #[must_use]
    pub fn scope(&self) -> ScopeId {
        self.artifact
    }

    /// The key as it goes into the artifact's table.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Encrypts chunk `index` in place and appends the tag; gives its name.
    ///
    /// # Panics
    /// If `chunk` is not as long as a chunk.
    #[must_use]
    pub fn seal(&self, index: u32, chunk: &mut Vec<u8>) -> Digest {
        assert_eq!(chunk.len(), CHUNK_BYTES, "chunks have one size");
        let (nonce, aad) = self.bound_to(index);
        let sealed = self.cipher().seal_in_place_append_tag(nonce, Aad::from(aad), chunk);
        sealed.expect("a chunk is shorter than what AES-GCM allows");
        Digest::of(chunk)
    }

    /// Decrypts chunk `index`, which was checked, into `chunk`; `false` if the tag is wrong, and then nothing of the
    /// plaintext is in `chunk`.
    pub(super) fn open(&self, index: u32, sealed: &[u8], chunk: &mut [u8; CHUNK_BYTES]) -> bool {
        let (nonce, aad) = self.bound_to(index);
        let Some((ciphertext, tag)) = sealed.split_at_checked(CHUNK_BYTES) else { return false };
        let opened =
            self.cipher().open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, chunk);
        if opened.is_err() {
            chunk.fill(0);
        }
        opened.is_ok()
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, self.secret.expose());
        LessSafeKey::new(key.expect("the key has 32 bytes"))
    }

    /// The nonce, 64 zero bits and the index, and what is authenticated beside the chunk: the artifact and the index.
    fn bound_to(&self, index: u32) -> (Nonce, [u8; 20]) {
        let index = index.to_le_bytes();
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&index);
        let mut aad = [0; 20];
        aad[..16].copy_from_slice(&self.artifact.0);
        aad[16..].copy_from_slice(&index);
        (Nonce::assume_unique_for_key(nonce), aad)
    }
}
