//! Keys in memory: overwritten when dropped, and never shown.

use std::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Bytes of every key, AES-256's and HMAC's.
pub(crate) const SECRET_BYTES: usize = 32;

/// A key of 256 bits. It has no `Debug` that shows it, no comparison, and its place in memory does not move with it.
#[derive(Clone)]
pub struct Secret(Box<Zeroizing<[u8; SECRET_BYTES]>>);

/// Why there is no new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoEntropy,
    /// A key has another size.
    #[error("a key has {SECRET_BYTES} bytes")]
    Size,
}

impl Secret {
    /// A new random key.
    ///
    /// # Errors
    /// [`SecretError::NoEntropy`]
    pub fn random() -> Result<Secret, SecretError> {
        Secret::fill(|bytes| rand::fill(bytes).map_err(|_| SecretError::NoEntropy))
    }

    /// The key that `bytes` are; they are the caller's to overwrite.
    ///
    /// # Errors
    /// [`SecretError::Size`]
    pub fn from_slice(bytes: &[u8]) -> Result<Secret, SecretError> {
        if bytes.len() != SECRET_BYTES {
            return Err(SecretError::Size);
        }
        Secret::fill(|key| {
            key.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// A key that `write` writes in place.
    fn fill<E>(write: impl FnOnce(&mut [u8; SECRET_BYTES]) -> Result<(), E>) -> Result<Secret, E> {
        let mut secret = Secret(Box::new(Zeroizing::new([0; SECRET_BYTES])));
        write(&mut secret.0)?;
        Ok(secret)
    }

    /// Its bytes, for what encrypts with it. Copies of them are the caller's to overwrite.
    #[must_use]
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A key for one purpose, from one that is for several.
pub(crate) fn derive(key: &Secret, purpose: &[u8]) -> Secret {
    hmac_key(key, &[purpose])
}

/// HMAC-SHA-256 of all `parts`, one after the other, as a key.
pub(crate) fn hmac_key(key: &Secret, parts: &[&[u8]]) -> Secret {
    use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};
    let mut context = Context::with_key(&Key::new(HMAC_SHA256, key.expose()));
    parts.iter().for_each(|part| context.update(part));
    let mut tag = Zeroizing::new([0; SECRET_BYTES]);
    tag.copy_from_slice(context.sign().as_ref());
    Secret::from_slice(tag.as_ref()).expect("HMAC-SHA-256 has 32 bytes")
}
