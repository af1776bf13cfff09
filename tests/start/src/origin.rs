//! Where the artifact comes from, and a worker's side of it: as the agent puts it together, anew for each start.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use tokio::task::JoinSet;
use votive_agent::artifacts::{ArtifactName, Artifacts, Granter as _, OwnGrants, Settings};
use votive_artifact::cache::Cache;
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::fetch::Loader;
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Issuer, Verifier};
use votive_artifact::keys::Embedded;
use votive_artifact::manifest::Manifest;
use votive_artifact::store::Store;
use votive_artifact::store::verify::find;

const WORKER: &str = "start";
/// What a worker may hold of images in memory, and of chunks on disk: more than this image.
const BYTES_MAX: u64 = 4 << 30;
/// How long a chunk may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Chunks on their way at once when everything is fetched: as many as a loader asks its origin for.
const AT_ONCE: usize = 64;

/// A store, a key service, and an artifact.
pub(crate) struct Origin {
    store: Store,
    keys: Arc<Embedded>,
    name: ArtifactName,
    manifest: Manifest,
}

/// A worker that has nothing yet.
pub(crate) struct Worker {
    pub(crate) artifacts: Artifacts,
    loader: Arc<Loader>,
    grants: Arc<OwnGrants>,
    _cache: TempDir,
}

impl Origin {
    /// Finds the artifact.
    pub(crate) async fn open(store: &Path, keys: &Path, identity: &str) -> Result<Origin> {
        let store = Store::open(store.to_str().context("a folder whose name is text")?)?;
        let keys = Arc::new(Embedded::open(keys)?);
        let found = find(&store, identity).await?;
        let name = ArtifactName {
            identity: identity.to_owned(),
            manifest: found.artifact.manifest,
            root: found.manifest.root(),
        };
        Ok(Origin { store, keys, name, manifest: found.manifest })
    }

    /// The artifact.
    pub(crate) fn name(&self) -> &ArtifactName {
        &self.name
    }

    /// Its bytes.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.manifest.image_bytes()
    }

    /// Its chunks that are not zeros, in order.
    pub(crate) fn chunks(&self) -> Vec<u32> {
        let all = self.image_bytes().div_ceil(CHUNK_BYTES as u64);
        let all = 0..u32::try_from(all).unwrap_or(u32::MAX);
        all.filter(|index| !self.manifest.zeros().is_zero(*index)).collect()
    }

    /// A worker with an empty cache on its disk.
    pub(crate) fn worker(&self) -> Result<Worker> {
        let folder = tempfile::tempdir()?;
        let issuer = Issuer::generate().context("no random numbers")?;
        let verifier = Verifier::new(vec![issuer.public_key()]);
        let gate = Arc::new(Gate::new(self.store.clone(), self.keys.clone(), verifier));
        let cache = Some(Cache::open(folder.path(), BYTES_MAX)?);
        let loader = Arc::new(Loader::new(gate.clone(), WORKER, None));
        let grants = Arc::new(OwnGrants::new(issuer, WORKER));
        let settings =
            Settings { memory_bytes: BYTES_MAX, idle: Duration::ZERO, read_limit: LIMIT };
        let artifacts = Artifacts::new(Loader::new(gate, WORKER, cache), grants.clone(), settings);
        Ok(Worker { artifacts, loader, grants, _cache: folder })
    }
}

impl Worker {
    /// Fetches, checks and decrypts `chunks`, without a copy in the cache, into a file in memory that is as long as the image.
    pub(crate) async fn fetch(&self, origin: &Origin, chunks: &[u32]) -> Result<File> {
        let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC)?);
        file.set_len(origin.image_bytes().next_multiple_of(CHUNK_BYTES as u64))?;
        let grant = self.grants.grant(&origin.name).await?;
        let loaded = Arc::new(self.loader.open(&grant).await?);
        let mut under_way = JoinSet::new();
        for index in chunks {
            if under_way.len() == AT_ONCE {
                under_way.join_next().await.context("none is under way")???;
            }
            let (loader, loaded, index) = (self.loader.clone(), loaded.clone(), *index);
            let file = file.try_clone()?;
            under_way.spawn(async move {
                let bytes = loader.chunk(&loaded, index, Vec::new(), LIMIT).await?;
                let at = u64::from(index) * CHUNK_BYTES as u64;
                tokio::task::spawn_blocking(move || file.write_all_at(&bytes, at)).await??;
                anyhow::Ok(())
            });
        }
        while let Some(ended) = under_way.join_next().await {
            ended??;
        }
        file.set_len(origin.image_bytes())?;
        Ok(file)
    }
}
