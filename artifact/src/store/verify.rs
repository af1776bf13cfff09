//! Whether what an artifact is made of is in the store, and is what it should be.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::keys::{KeyError, KeyService};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, RootId};
use crate::seal::{ARTIFACT_BYTES_MAX, Artifact, ArtifactError, Checked, Opener};
use crate::store::root::{Root, RootError};
use crate::store::{Store, StoreError};

/// Chunks that are read at once.
const IN_FLIGHT: usize = 8;

/// An artifact and its manifest, found in a root.
#[derive(Clone, Debug)]
pub struct Found {
    /// The root where it lies.
    pub root: RootId,
    /// The artifact.
    pub artifact: Artifact,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Stored chunks that were read.
    pub chunks: u32,
    /// Bytes that were read.
    pub bytes: u64,
    /// Chunks that the store does not have.
    pub missing: Vec<u32>,
    /// Chunks that are not what their names say, or that the artifact's keys do not open.
    pub damaged: Vec<u32>,
}

/// Why nothing can be said about an artifact.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No root has it.
    #[error("there is no artifact {identity}")]
    NoArtifact {
        /// The artifact.
        identity: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The roots cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The artifact is damaged, or the keys are another's.
    #[error("the artifact is damaged")]
    Artifact(#[from] ArtifactError),
    /// The manifest is damaged.
    #[error("the manifest is damaged")]
    Manifest(#[from] ManifestError),
    /// The key service refused, or failed.
    #[error("{}: the artifact's key cannot be unwrapped", .0.code())]
    Key(#[from] KeyError),
    /// The process is ending.
    #[error("interrupted")]
    Interrupted,
}

/// Finds an artifact, in the youngest root that has it.
///
/// # Errors
/// [`VerifyError`]
pub async fn find(store: &Store, identity: &str) -> Result<Found, VerifyError> {
    for root in Root::ids(store).await?.into_iter().rev() {
        let record = store.get(&store.artifact_path(root, identity), ARTIFACT_BYTES_MAX).await;
        let record = match record {
            Err(StoreError::NotFound { .. }) => continue,
            record => record?,
        };
        let artifact = Artifact::parse(&record)?;
        if artifact.identity != identity {
            return Err(ArtifactError::Field { field: "identity" }.into());
        }
        let path = store.manifest_path(root, &artifact.manifest);
        let bytes = store.get(&path, MANIFEST_BYTES_MAX).await?;
        let manifest = Manifest::parse_named(&bytes, &artifact.manifest)?;
        return Ok(Found { root, artifact, manifest });
    }
    Err(VerifyError::NoArtifact { identity: identity.to_owned() })
}

/// The identities of all artifacts in a root.
///
/// # Errors
/// [`VerifyError`]
pub async fn identities(store: &Store, root: RootId) -> Result<Vec<String>, VerifyError> {
    let mut found = Vec::new();
    for (path, _) in store.list(&store.root_path(root).join("artifacts")).await? {
        found.push(Artifact::parse(&store.get(&path, ARTIFACT_BYTES_MAX).await?)?.identity);
    }
    found.sort();
    Ok(found)
}

/// Reads every chunk of an artifact and compares it with its name; with keys, decrypts it as well.
///
/// # Errors
/// [`VerifyError`]; chunks that are missing or damaged are no error, but told of.
pub async fn verify(
    store: &Store,
    found: &Found,
    keys: Option<&dyn KeyService>,
    progress: &mut (dyn FnMut(u32) + Send),
) -> Result<Verified, VerifyError> {
    let (artifact, manifest) = (&found.artifact, &found.manifest);
    let opener = match keys {
        Some(keys) => {
            let context = Artifact::context(&artifact.identity, manifest.root());
            let data_key = keys.unwrap(&artifact.key, &artifact.wrapped, &context).await?;
            let table = artifact.open(&data_key, manifest)?;
            Some(Arc::new(Opener::new(manifest.clone(), table)?))
        }
        None => None,
    };
    let most = manifest.method().sealed_bytes();
    let stored =
        (0..manifest.zeros().chunks()).filter_map(|i| manifest.name(i).map(|name| (i, name)));
    let mut stored = stored.fuse();
    let (mut tasks, mut verified) = (JoinSet::new(), Verified::default());
    loop {
        while tasks.len() < IN_FLIGHT
            && let Some((index, name)) = stored.next()
        {
            let (store, opener) = (store.clone(), opener.clone());
            let path = store.chunk_path(found.root, &name);
            tasks.spawn(async move {
                let bytes = match store.get(&path, most).await {
                    Err(StoreError::NotFound { .. }) => return Ok((index, None)),
                    Err(StoreError::TooLarge { .. }) => return Ok((index, Some((0, false)))),
                    bytes => bytes?,
                };
                let length = bytes.len() as u64;
                let check = move || check(opener.as_deref(), (index, name), &bytes);
                let good = tokio::task::spawn_blocking(check).await;
                Ok((index, Some((length, good.map_err(|_| VerifyError::Interrupted)?))))
            });
        }
        let Some(ended) = tasks.join_next().await else { break };
        let ended: Result<_, VerifyError> = ended.map_err(|_| VerifyError::Interrupted)?;
        match ended? {
            (index, None) => verified.missing.push(index),
            (index, Some((bytes, good))) => {
                verified.bytes += bytes;
                if !good {
                    verified.damaged.push(index);
                }
            }
        }
        verified.chunks += 1;
        progress(verified.chunks);
    }
    verified.missing.sort_unstable();
    verified.damaged.sort_unstable();
    Ok(verified)
}

fn check(opener: Option<&Opener>, (index, name): (u32, Digest), bytes: &[u8]) -> bool {
    let Some(checked) = Checked::new(name, bytes) else { return false };
    let Some(opener) = opener else { return true };
    let mut chunk = vec![0; CHUNK_BYTES];
    let array = chunk.as_mut_slice().try_into().expect("a chunk has its size");
    opener.open(index, checked, array).is_ok()
}

#[cfg(test)]
mod tests;
