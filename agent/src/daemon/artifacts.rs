//! From the section `[artifacts]` to what serves them.

use std::sync::Arc;

use votive_artifact::cache::{Cache, CacheError};
use votive_artifact::fetch::Loader;
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Issuer, Verifier};
use votive_artifact::keys::{self, OpenKeysError};
use votive_artifact::seal::is_name;
use votive_artifact::store::{Store, StoreError};

use super::start::host_memory;
use crate::artifacts::{Artifacts, Granter, Lists, Origin, OwnGrants, Settings};
use crate::config::Config;
use crate::config::place::Places;

/// The part of the host's memory that images may take by default.
const MEMORY_PART: u64 = 8;

/// Why no artifact can be served.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactsError {
    /// The store.
    #[error("artifacts.store cannot be used")]
    Store(#[from] StoreError),
    /// The key service.
    #[error("artifacts.keys cannot be used")]
    Keys(#[from] OpenKeysError),
    /// The cache.
    #[error("artifacts.cache cannot be used")]
    Cache(#[from] CacheError),
    /// The worker's name is none that a grant can have.
    #[error("the worker's name {id:?} is none that grants can have: set worker.id")]
    Name {
        /// The name.
        id: String,
    },
    /// The system gives no random bytes.
    #[error("no key for grants can be made")]
    Issuer,
}

/// Opens store, keys and cache, which reads a folder; nothing if there is no store.
pub(super) fn open(config: &Config, places: &Places) -> Result<Option<Origin>, ArtifactsError> {
    let artifacts = &config.artifacts;
    let Some(store) = &artifacts.store else { return Ok(None) };
    let worker = &places.worker_id;
    if !is_name(worker) {
        return Err(ArtifactsError::Name { id: worker.clone() });
    }
    let store = Store::open(store)?;
    let keys = keys::open(artifacts.keys.as_deref().unwrap_or_default())?;
    let cache = Cache::open(&places.artifact_cache, artifacts.cache_size.0)?;
    // A key of this process: the grants of an agent that is gone are worth nothing.
    let issuer = Issuer::generate().ok_or(ArtifactsError::Issuer)?;
    let verifier = Verifier::new(vec![issuer.public_key()]);
    let gate = Arc::new(Gate::new(store.clone(), keys, verifier));
    let loader = Loader::new(Arc::clone(&gate), worker, Some(cache));
    let memory = artifacts.memory.map_or(host_memory() / MEMORY_PART, |memory| memory.0);
    let settings = Settings {
        memory_bytes: memory,
        idle: artifacts.idle_timeout.0,
        read_limit: artifacts.read_timeout.0,
    };
    let granter: Arc<dyn Granter> = Arc::new(OwnGrants::new(issuer, worker));
    let lists = Lists::new(gate, Arc::clone(&granter), worker);
    Ok(Some(Origin::new(Artifacts::new(loader, granter, settings), store, lists)))
}
