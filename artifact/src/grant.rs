//! Grants: what lets one worker load one artifact until a given minute.
//!
//! A grant is signed with Ed25519 and not with a MAC, because those who check it (whatever stands before the store and the keys,
//! and the worker that wants to know when to renew) must not be able to make one. It is worth nothing to another worker: who
//! presents it is known from the channel that it comes over, and compared. It is refused when it lives longer than
//! [`LIFETIME_MAX_S`], whoever signed it.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::digest::Digest;
use crate::limits::NAME_TEXT_MAX;
use crate::manifest::RootId;
use crate::seal::is_name;

/// What a grant begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveG\x01";

/// Bytes before the names, and after them.
const HEAD_BYTES: usize = 80;
const SIGNATURE_BYTES: usize = 64;

/// The most bytes of a grant.
pub const GRANT_BYTES_MAX: usize = HEAD_BYTES + 2 * NAME_TEXT_MAX + SIGNATURE_BYTES;

/// The longest that a grant may be good, in seconds: a stolen one is soon worth nothing, and renewing costs a message.
pub const LIFETIME_MAX_S: u64 = 15 * 60;

/// How much earlier than its first second a grant is taken, in seconds: clocks of a fleet differ.
pub const SKEW_S: u64 = 30;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading the artifact, its manifest and its chunks.
    Read,
    /// Unwrapping its data key.
    Unwrap,
}

/// Which operations a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operations(u8);

impl Operations {
    /// What loading an artifact takes.
    pub const LOAD: Operations = Operations(3);
    /// Reading alone: for going on with what was opened before.
    pub const READ: Operations = Operations(1);

    /// Whether an operation is among them.
    #[must_use]
    pub fn allow(self, operation: Operation) -> bool {
        let bit = match operation {
            Operation::Read => 1,
            Operation::Unwrap => 2,
        };
        self.0 & bit != 0
    }
}

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The worker, by the name in its certificate.
    pub worker: String,
    /// The artifact.
    pub identity: String,
    /// Its manifest.
    pub manifest: Digest,
    /// The root that the manifest was sealed in.
    pub root: RootId,
    /// The first second, since 1970, in which it is good.
    pub not_before_s: u64,
    /// The first second in which it is not any more.
    pub expires_s: u64,
    /// What may be done.
    pub operations: Operations,
}

/// Why a grant is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is no grant.
    #[error("not a grant of version 1")]
    Malformed,
    /// Nobody that is trusted signed it, or it was altered.
    #[error("the grant's signature is wrong")]
    Signature,
    /// It is another worker's.
    #[error("the grant is another worker's")]
    OtherWorker,
    /// It is for another artifact, or another manifest of it.
    #[error("the grant is for another artifact")]
    OtherArtifact,
    /// It does not allow this.
    #[error("the grant does not allow this")]
    Operation,
    /// It is not good yet.
    #[error("the grant is not good yet")]
    NotYet,
    /// It is not good any more.
    #[error("the grant has expired")]
    Expired,
    /// It would be good for longer than any grant may.
    #[error("the grant is good for more than {LIFETIME_MAX_S} seconds")]
    TooLong,
}

/// What signs grants. It stays with who decides where functions run.
pub struct Issuer(Ed25519KeyPair);

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer")
    }
}

impl Issuer {
    /// An issuer with a new key; none if the system gives no random bytes.
    #[must_use]
    pub fn generate() -> Option<Issuer> {
        Ed25519KeyPair::generate().ok().map(Issuer)
    }

    /// The issuer with this key, PKCS#8; none if it is no Ed25519 key.
    #[must_use]
    pub fn from_pkcs8(key: &[u8]) -> Option<Issuer> {
        Ed25519KeyPair::from_pkcs8(key).ok().map(Issuer)
    }

    /// Its public key, for [`Verifier::new`].
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("Ed25519's public keys have 32 bytes")
    }

    /// Signs a grant; none if it could not be good: names that are none, a time that ends before it begins or is too long.
    #[must_use]
    pub fn sign(&self, grant: &Grant) -> Option<Vec<u8>> {
        let lifetime = grant.expires_s.checked_sub(grant.not_before_s)?;
        let names = is_name(&grant.worker) && is_name(&grant.identity);
        if !names || lifetime == 0 || lifetime > LIFETIME_MAX_S {
            return None;
        }
        let mut bytes = grant.encode();
        let signature = self.0.sign(&bytes);
        bytes.extend(signature.as_ref());
        Some(bytes)
    }
}

/// What checks grants: it knows public keys alone.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Vec<[u8; 32]>,
}

impl Verifier {
    /// Trusts the issuers with these public keys: one, and its successor while keys change.
    #[must_use]
    pub fn new(keys: Vec<[u8; 32]>) -> Verifier {
        Verifier { keys }
    }

    /// Checks a grant that `worker`, known from its channel, presents at `now_s` seconds since 1970. What it allows is the
    /// caller's to compare: [`Grant::check`].
    ///
    /// # Errors
    /// [`GrantError`]
    pub fn verify(&self, bytes: &[u8], worker: &str, now_s: u64) -> Result<Grant, GrantError> {
        let grant = self.signed(bytes)?;
        grant.check_now(worker, now_s)?;
        Ok(grant)
    }

    /// Checks who signed a grant: what stays true of the same bytes. The rest is [`Grant::check_now`]'s.
    pub(crate) fn signed(&self, bytes: &[u8]) -> Result<Grant, GrantError> {
        let body = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(GrantError::Malformed)?;
        if bytes.len() > GRANT_BYTES_MAX {
            return Err(GrantError::Malformed);
        }
        let (body, signature) = bytes.split_at(body);
        let signed = |key: &[u8; 32]| UnparsedPublicKey::new(&ED25519, key).verify(body, signature);
        if !self.keys.iter().any(|key| signed(key).is_ok()) {
            return Err(GrantError::Signature);
        }
        Grant::parse(body).ok_or(GrantError::Malformed)
    }
}

impl Grant {
    /// Whether it is this worker's and good at `now_s` seconds since 1970.
    ///
    /// # Errors
    /// [`GrantError::OtherWorker`], [`GrantError::TooLong`], [`GrantError::NotYet`], [`GrantError::Expired`]
    pub(crate) fn check_now(&self, worker: &str, now_s: u64) -> Result<(), GrantError> {
        if self.worker != worker {
            return Err(GrantError::OtherWorker);
        }
        let lifetime = self.expires_s.checked_sub(self.not_before_s);
        if lifetime.ok_or(GrantError::Malformed)? > LIFETIME_MAX_S {
            return Err(GrantError::TooLong);
        }
        if now_s.saturating_add(SKEW_S) < self.not_before_s {
            return Err(GrantError::NotYet);
        }
        if now_s >= self.expires_s {
            return Err(GrantError::Expired);
        }
        Ok(())
    }

    /// Whether it allows an operation on an artifact with this manifest.
    ///
    /// # Errors
    /// [`GrantError::OtherArtifact`], [`GrantError::Operation`]
    pub fn check(
        &self,
        operation: Operation,
        identity: &str,
        manifest: &Digest,
    ) -> Result<(), GrantError> {
        if self.identity != identity || self.manifest != *manifest {
            return Err(GrantError::OtherArtifact);
        }
        if !self.operations.allow(operation) {
            return Err(GrantError::Operation);
        }
        Ok(())
    }

    /// What is signed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(GRANT_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend(self.manifest.as_bytes());
        bytes.extend(self.root.0);
        bytes.extend(self.not_before_s.to_le_bytes());
        bytes.extend(self.expires_s.to_le_bytes());
        bytes.extend([self.operations.0, 0]);
        for name in [&self.worker, &self.identity] {
            bytes.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        }
        bytes.extend([0; 2]);
        bytes.extend(self.worker.as_bytes());
        bytes.extend(self.identity.as_bytes());
        bytes
    }

    /// Reads what was signed.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Grant> {
        let (head, names) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (manifest, rest) = rest.split_first_chunk::<32>()?;
        let (root, rest) = rest.split_first_chunk::<16>()?;
        let (not_before, rest) = rest.split_first_chunk::<8>()?;
        let (expires, rest) = rest.split_first_chunk::<8>()?;
        let [operations, reserved, w0, w1, i0, i1, more @ ..] = rest else { return None };
        let (operations, reserved, w0, w1, i0, i1) = (*operations, *reserved, *w0, *w1, *i0, *i1);
        let worker = u16::from_le_bytes([w0, w1]) as usize;
        let (worker, identity) = names.split_at_checked(worker)?;
        let text = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).ok().filter(|text| is_name(text));
            text.map(str::to_owned)
        };
        let sane = *magic == MAGIC
            && reserved == 0
            && more == [0; 2]
            && (1..=3).contains(&operations)
            && identity.len() == u16::from_le_bytes([i0, i1]) as usize;
        sane.then_some(Grant {
            worker: text(worker)?,
            identity: text(identity)?,
            manifest: Digest::from_bytes(*manifest),
            root: RootId(*root),
            not_before_s: u64::from_le_bytes(*not_before),
            expires_s: u64::from_le_bytes(*expires),
            operations: Operations(operations),
        })
    }
}

#[cfg(test)]
mod tests;
