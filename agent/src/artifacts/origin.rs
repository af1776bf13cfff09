//! The store that a worker's artifacts are in: which ones there are, and what they are.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use votive_artifact::store::Store;
use votive_artifact::store::verify::{VerifyError, find};

use super::lists::Lists;
use super::{ArtifactName, Artifacts, Attached, FirstReads, OpenError};
use crate::causes::with_causes;
use crate::limits::{ARTIFACT_RESOLVE_TIMEOUT, ARTIFACTS_RESOLVED_AT_ONCE};

/// The artifacts of one store, and what serves them.
#[derive(Clone, Debug)]
pub struct Origin {
    artifacts: Artifacts,
    store: Store,
    lists: Lists,
    resolving: Arc<Semaphore>,
}

/// An artifact that is there and can be opened.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Which one, for ever.
    pub name: ArtifactName,
    /// What was sealed with the image; empty if it is of ZIPs.
    pub config: Vec<u8>,
}

/// Why an artifact cannot be a function's code.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The store does not give it.
    #[error(transparent)]
    Find(#[from] VerifyError),
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store or the key service takes too long.
    #[error("the artifact's store or its key service takes too long")]
    Slow(#[from] Elapsed),
}

impl ResolveError {
    /// The name of the exception that Lambda's API gives for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            ResolveError::Find(VerifyError::NoArtifact { .. }) => "InvalidParameterValueException",
            ResolveError::Open(error) => error.code(),
            ResolveError::Find(_) | ResolveError::Slow(_) => "ServiceException",
        }
    }
}

impl Origin {
    /// What `artifacts` serves from `store`, with the lists of first reads that are kept there.
    #[must_use]
    pub fn new(artifacts: Artifacts, store: Store, lists: Lists) -> Origin {
        let resolving = Arc::new(Semaphore::new(ARTIFACTS_RESOLVED_AT_ONCE));
        Origin { artifacts, store, lists, resolving }
    }

    /// What serves them.
    #[must_use]
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Opens an artifact for one environment; what earlier starts of it read is fetched ahead.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn attach(&self, name: &ArtifactName) -> Result<Attached, OpenError> {
        self.artifacts.attach(name, Some(self.lists.clone().find(name.clone()))).await
    }

    /// Keeps what was read first, unless that was done for the image already.
    pub async fn keep(&self, name: ArtifactName, reads: FirstReads) {
        if let Some(list) = reads.keep_now() {
            let kept = self.lists.put(&name, &list).await;
            if let Err(error) = kept {
                tracing::warn!(
                    artifact = name.identity,
                    error = with_causes(&*error),
                    "a list of first reads is not kept"
                );
                reads.not_kept();
            }
        }
    }

    /// Finds the artifact of this identity, and opens it once: what it is, and that its key is good.
    ///
    /// # Errors
    /// [`ResolveError`]
    pub async fn resolve(&self, identity: &str) -> Result<Resolved, ResolveError> {
        let resolve = async {
            let _turn = self.resolving.acquire().await.map_err(|_| OpenError::Ended)?;
            let found = find(&self.store, identity).await?;
            // The root that it was sealed in, and not the one where it was found: garbage collection copies it to others.
            let name = ArtifactName {
                identity: identity.to_owned(),
                manifest: found.artifact.manifest,
                root: found.manifest.root(),
            };
            let config = self.artifacts.config(&name).await?;
            Ok(Resolved { name, config })
        };
        timeout(ARTIFACT_RESOLVE_TIMEOUT, resolve).await?
    }
}
