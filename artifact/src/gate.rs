//! What stands before the store and the key service: no grant, no byte and no key.
//!
//! On one machine it is part of the worker, whose own lease issues grants; in a fleet it is what the store's and the key
//! service's owner runs. It gives a worker only the chunks that the granted artifact's manifest names.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::digest::Digest;
use crate::grant::{Grant, GrantError, Operation, Verifier};
use crate::keys::{KeyError, KeyService};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, RootId};
use crate::seal::{ARTIFACT_BYTES_MAX, Artifact, ArtifactError, Secret};
use crate::store::root::{Root, RootError, RootState};
use crate::store::{READS_BYTES_MAX, Store, StoreError};

/// How long a root's state is believed. Deleting a root begins later than this after it expired, so that every reader has
/// asked again by then.
pub const STATE_AGE_MAX: Duration = Duration::from_secs(60);

/// Manifests whose names are remembered, so that each chunk need not be looked up in a new copy: about a worker's functions.
const MANIFESTS_MAX: usize = 256;

/// Grants whose signatures are remembered: a signature is checked once and not for each chunk, of whose cost it is 7 %.
const GRANTS_MAX: usize = 1024;

/// What tells the time in seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Store and keys behind grants.
pub struct Gate {
    store: Store,
    keys: Arc<dyn KeyService>,
    verifier: Verifier,
    clock: Clock,
    known: Mutex<Known>,
}

/// What was found out before.
#[derive(Default)]
struct Known {
    manifests: HashMap<Digest, Arc<Located>>,
    states: HashMap<RootId, (Instant, RootState)>,
    /// When an alarm was raised.
    raised: HashMap<RootId, Instant>,
    /// What was signed by somebody who is trusted, by its bytes. Worker and time are compared each time.
    grants: HashMap<Box<[u8]>, Grant>,
}

/// A manifest, the names in it, and the root where it lies now.
#[derive(Debug)]
struct Located {
    names: HashSet<Digest>,
    sealed_bytes: usize,
    root: RootId,
}

/// A grant as a worker presents it.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The worker, as its channel's certificate names it.
    pub worker: &'a str,
    /// The grant.
    pub grant: &'a [u8],
}

/// Why the gate gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The grant is refused.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The roots cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The key service refused, or failed.
    #[error("{}: the artifact's key cannot be unwrapped", .0.code())]
    Key(#[from] KeyError),
    /// The store's artifact is damaged.
    #[error("the store's artifact is damaged")]
    Artifact(#[from] ArtifactError),
    /// The store's manifest is damaged.
    #[error("the store's manifest is damaged")]
    Manifest(#[from] ManifestError),
    /// No root has the artifact.
    #[error("there is no artifact {identity}")]
    NoArtifact {
        /// The artifact.
        identity: String,
    },
    /// A read list is larger than any.
    #[error("a read list of {bytes} bytes is more than the {READS_BYTES_MAX} allowed")]
    Reads {
        /// What it has.
        bytes: usize,
    },
    /// The artifact's manifest names no such chunk.
    #[error("the granted artifact has no chunk {name}")]
    NoChunk {
        /// The chunk.
        name: Digest,
    },
}

impl Gate {
    /// A gate for the grants that `verifier` takes.
    #[must_use]
    pub fn new(store: Store, keys: Arc<dyn KeyService>, verifier: Verifier) -> Gate {
        let clock =
            Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        Gate { store, keys, verifier, clock, known: Mutex::default() }
    }

    /// As it is, by another clock.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Gate {
        Gate { clock, ..self }
    }

    fn admit(&self, presented: Presented<'_>, operation: Operation) -> Result<Grant, GateError> {
        let now = (self.clock)();
        let known = self.lock().grants.get(presented.grant).cloned();
        let grant = match known {
            Some(grant) => grant,
            None => {
                let grant = self.verifier.signed(presented.grant)?;
                self.remember_grant(presented.grant, &grant, now);
                grant
            }
        };
        grant.check_now(presented.worker, now)?;
        if !grant.operations.allow(operation) {
            return Err(GrantError::Operation.into());
        }
        Ok(grant)
    }

    fn remember_grant(&self, bytes: &[u8], grant: &Grant, now_s: u64) {
        let mut known = self.lock();
        if known.grants.len() >= GRANTS_MAX {
            known.grants.retain(|_, grant| grant.expires_s > now_s);
        }
        // With so many that are good at once, each is checked when it comes.
        if known.grants.len() < GRANTS_MAX {
            known.grants.insert(bytes.into(), grant.clone());
        }
    }

    /// The granted artifact and its manifest.
    ///
    /// # Errors
    /// [`GateError`]
    pub async fn artifact(
        &self,
        presented: Presented<'_>,
    ) -> Result<(Artifact, Manifest), GateError> {
        let grant = self.admit(presented, Operation::Read)?;
        let (artifact, manifest, _) = self.open(&grant).await?;
        Ok((artifact, manifest))
    }

    async fn open(&self, grant: &Grant) -> Result<(Artifact, Manifest, Arc<Located>), GateError> {
        let (root, bytes) = self.locate(&grant.identity).await?;
        let artifact = Artifact::parse(&bytes)?;
        grant.check(Operation::Read, &artifact.identity, &artifact.manifest)?;
        let path = self.store.manifest_path(root, &artifact.manifest);
        let bytes = self.store.get(&path, MANIFEST_BYTES_MAX).await?;
        let manifest = Manifest::parse_named(&bytes, &artifact.manifest)?;
        if manifest.root() != grant.root {
            return Err(GrantError::OtherArtifact.into());
        }
        let located = self.remember(artifact.manifest, &manifest, root);
        Ok((artifact, manifest, located))
    }

    /// The data key of the granted artifact.
    ///
    /// # Errors
    /// [`GateError`]
    pub async fn data_key(
        &self,
        presented: Presented<'_>,
        artifact: &Artifact,
    ) -> Result<Secret, GateError> {
        let grant = self.admit(presented, Operation::Unwrap)?;
        grant.check(Operation::Unwrap, &artifact.identity, &artifact.manifest)?;
        // The context is the grant's: an artifact that claims to be another's is not unwrapped.
        let context = Artifact::context(&grant.identity, grant.root);
        Ok(self.keys.unwrap(&artifact.key, &artifact.wrapped, &context).await?)
    }

    /// A chunk of the granted artifact, as the store gives it: it is not checked.
    ///
    /// # Errors
    /// [`GateError`]
    pub async fn chunk(&self, presented: Presented<'_>, name: &Digest) -> Result<Bytes, GateError> {
        let grant = self.admit(presented, Operation::Read)?;
        let located = self.located(&grant).await?;
        if !located.names.contains(name) {
            return Err(GateError::NoChunk { name: *name });
        }
        let path = self.store.chunk_path(located.root, name);
        match self.store.get(&path, located.sealed_bytes).await {
            Err(StoreError::NotFound { .. }) => {
                // It may have moved to a younger root since.
                self.forget(&grant.manifest);
                let (root, _) = self.locate(&grant.identity).await?;
                let path = self.store.chunk_path(root, name);
                Ok(self.store.get(&path, located.sealed_bytes).await?)
            }
            got => Ok(got?),
        }
    }

    /// What a start of the granted artifact reads, if somebody has written it down. Nobody has checked it.
    ///
    /// # Errors
    /// [`GateError`]
    pub async fn reads(&self, presented: Presented<'_>) -> Result<Option<Vec<u8>>, GateError> {
        let grant = self.admit(presented, Operation::Read)?;
        let located = self.located(&grant).await?;
        let path = self.store.reads_path(located.root, &grant.manifest);
        match self.store.get(&path, READS_BYTES_MAX).await {
            Ok(list) => Ok(Some(list.into())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down what a start of the granted artifact read, unless somebody has; whether nobody had. What a root holds that has
    /// expired stays as it is.
    ///
    /// # Errors
    /// [`GateError`]
    pub async fn put_reads(
        &self,
        presented: Presented<'_>,
        list: &[u8],
    ) -> Result<bool, GateError> {
        let grant = self.admit(presented, Operation::Read)?;
        if list.len() > READS_BYTES_MAX {
            return Err(GateError::Reads { bytes: list.len() });
        }
        let located = self.located(&grant).await?;
        if self.state(located.root).await? == RootState::Expired {
            return Ok(false);
        }
        let path = self.store.reads_path(located.root, &grant.manifest);
        Ok(self.store.put_new(&path, Bytes::copy_from_slice(list)).await?)
    }

    /// Where the granted artifact lies: looked up once, and again when the root where it was has expired since. An artifact
    /// that was copied in time is read where it is now, and raises no alarm.
    async fn located(&self, grant: &Grant) -> Result<Arc<Located>, GateError> {
        if let Some(located) = self.recall(&grant.manifest)
            && self.state(located.root).await? != RootState::Expired
        {
            return Ok(located);
        }
        Ok(self.open(grant).await?.2)
    }

    /// The root where an artifact lies, the youngest if there are several, and the artifact.
    async fn locate(&self, identity: &str) -> Result<(RootId, Bytes), GateError> {
        for root in Root::ids(&self.store).await?.into_iter().rev() {
            let path = self.store.artifact_path(root, identity);
            match self.store.get(&path, ARTIFACT_BYTES_MAX).await {
                Ok(bytes) => {
                    self.watch(root).await?;
                    return Ok((root, bytes));
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(GateError::NoArtifact { identity: identity.to_owned() })
    }

    /// Raises the alarm if the root has expired, and goes on: the alarm is what keeps the bytes there.
    async fn watch(&self, root: RootId) -> Result<(), GateError> {
        if self.state(root).await? == RootState::Expired {
            let raised = self.lock().raised.get(&root).copied();
            if raised.is_none_or(|raised| raised.elapsed() >= STATE_AGE_MAX) {
                crate::gc::alarm(&self.store, root, "read").await?;
                self.lock().raised.insert(root, Instant::now());
            }
        }
        Ok(())
    }

    /// A root's state, as it was at most [`STATE_AGE_MAX`] ago.
    async fn state(&self, root: RootId) -> Result<RootState, GateError> {
        let known = self.lock().states.get(&root).copied();
        if let Some((asked, state)) = known
            && asked.elapsed() < STATE_AGE_MAX
        {
            return Ok(state);
        }
        let state = Root::state(&self.store, root).await?;
        self.lock().states.insert(root, (Instant::now(), state));
        Ok(state)
    }

    fn remember(&self, id: Digest, manifest: &Manifest, root: RootId) -> Arc<Located> {
        let names = manifest.names().iter().copied().collect();
        let sealed_bytes = manifest.method().sealed_bytes();
        let mut known = self.lock();
        if known.manifests.len() >= MANIFESTS_MAX {
            // Whichever it is: it is read again when it is needed.
            let any = known.manifests.keys().next().copied();
            any.map(|any| known.manifests.remove(&any));
        }
        let located = Arc::new(Located { names, sealed_bytes, root });
        known.manifests.insert(id, located.clone());
        located
    }

    fn recall(&self, id: &Digest) -> Option<Arc<Located>> {
        self.lock().manifests.get(id).cloned()
    }

    fn forget(&self, id: &Digest) {
        self.lock().manifests.remove(id);
    }

    /// As if [`STATE_AGE_MAX`] had passed.
    #[cfg(test)]
    pub(crate) fn forget_states(&self) {
        self.lock().states.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
