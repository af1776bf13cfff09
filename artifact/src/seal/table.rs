//! AES-256-GCM over what is small and secret: tables of keys, and keys under keys. The nonce is random, and its place is first.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::seal::secret::{Secret, SecretError};

/// Bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 12;

/// Bytes that sealing adds: nonce and tag.
pub(crate) const SEAL_BYTES: usize = NONCE_BYTES + 16;

/// A random nonce. AES-GCM allows 2^32 of them for one key; a data key has one, and so has every key's version in its file.
pub(crate) fn nonce() -> Result<[u8; NONCE_BYTES], SecretError> {
    let mut nonce = [0; NONCE_BYTES];
    rand::fill(&mut nonce).map_err(|_| SecretError::NoEntropy)?;
    Ok(nonce)
}

/// Encrypts `plaintext` with a nonce that was never used with this key: nonce, ciphertext, tag.
pub(crate) fn seal(
    key: &Secret,
    nonce: [u8; NONCE_BYTES],
    aad: &[u8],
    plaintext: &[u8],
) -> Vec<u8> {
    let mut sealed = nonce.to_vec();
    let payload = Payload { msg: plaintext, aad };
    let ciphertext = Aes256Gcm::new(key.expose().into()).encrypt(&Nonce::from(nonce), payload);
    sealed.extend(ciphertext.expect("it is shorter than what AES-GCM allows"));
    sealed
}

/// Decrypts what [`seal`] made; none if a bit of it, of `aad` or of the key is another.
pub(crate) fn open(key: &Secret, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let payload = Payload { msg: ciphertext, aad };
    let opened = Aes256Gcm::new(key.expose().into()).decrypt(&Nonce::from(*nonce), payload);
    opened.ok().map(Zeroizing::new)
}
