//! Loading chunks on the worker: from the cache or the origin, checked, decrypted, each fetched once at a time.
//!
//! ```text
//! chunk ──all zeros?──> zeros
//!   └──cache──checked──decrypted──> plaintext in memory
//!        └──miss, or damaged──> the one flight for this name ──origin──checked──> cache, and all who wait
//! ```
//! A flight is nobody's: it goes on when a caller gives up, and a caller's deadline ends only that caller's wait.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use crate::cache::Cache;
use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::gate::{Gate, GateError, Presented};
use crate::seal::{ArtifactError, Checked, OpenError, Opener};
use crate::store::StoreError;

/// Requests to the origin at once, of all functions: 32 MiB of memory. More starts than these keep busy wait their turn, so that
/// an empty cache does not become a storm on the origin.
const ORIGIN_MAX: usize = 64;

/// How often the origin is asked for a chunk before that counts as failed, and how long it is left alone in between.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(50);

/// Loads artifacts' chunks.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    cache: Option<Cache>,
    worker: String,
    flights: Mutex<HashMap<Digest, Flight>>,
    origin: Semaphore,
    counters: Counters,
}

type Flight = watch::Receiver<Option<Result<Bytes, Arc<FetchError>>>>;

#[derive(Debug, Default)]
struct Counters {
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    refused: AtomicU64,
}

/// What was loaded from the origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Chunks that came from the origin and were what they should be.
    pub fetched: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Answers of the origin that were not what they should be.
    pub refused: u64,
}

/// An artifact that was opened: its manifest, its keys, and the grant that it is loaded under.
#[derive(Debug)]
pub struct Loaded {
    opener: Opener,
    identity: String,
    config: Vec<u8>,
    grant: RwLock<Vec<u8>>,
}

/// Why there is no chunk.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The gate gives nothing.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The table of keys does not belong to the manifest.
    #[error("the artifact cannot be opened")]
    Artifact(#[from] ArtifactError),
    /// The chunk is not one of this artifact's, or was sealed otherwise.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The origin gave other bytes than those that were asked for.
    #[error("the origin gave other bytes than the chunk {name}")]
    Lie {
        /// The chunk.
        name: Digest,
    },
    /// The chunk did not come in time.
    #[error("the chunk did not come within {0:?}")]
    Deadline(Duration),
    /// Another caller's attempt at the same chunk failed.
    #[error("the chunk could not be fetched")]
    Shared(#[source] Arc<FetchError>),
    /// The worker is ending.
    #[error("the worker is ending")]
    Ended,
}

impl FetchError {
    /// The name of the exception that Lambda's API gives for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            FetchError::Gate(GateError::Key(error)) => error.code(),
            FetchError::Shared(error) => error.code(),
            _ => "ServiceException",
        }
    }

    /// Whether asking again may help: the store failed, and nobody refused.
    fn is_passing(&self) -> bool {
        let passing = |error: &StoreError| {
            matches!(error, StoreError::Failed { .. } | StoreError::Slow { .. })
        };
        match self {
            FetchError::Gate(GateError::Store(error)) => passing(error),
            FetchError::Lie { .. } => true,
            _ => false,
        }
    }
}

impl Loaded {
    /// Which chunks there are, and what they are named.
    #[must_use]
    pub fn manifest(&self) -> &crate::manifest::Manifest {
        self.opener.manifest()
    }

    /// The artifact.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The configuration that was sealed with the image.
    #[must_use]
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// Goes on with another grant, while chunks are loaded.
    pub fn renew(&self, grant: Vec<u8>) {
        *self.grant.write().unwrap_or_else(PoisonError::into_inner) = grant;
    }

    fn grant(&self) -> Vec<u8> {
        self.grant.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Loader {
    /// Loads through `gate` as `worker`, with a cache on disk or without.
    #[must_use]
    pub fn new(gate: Arc<Gate>, worker: &str, cache: Option<Cache>) -> Loader {
        let shared = Shared {
            gate,
            cache,
            worker: worker.to_owned(),
            flights: Mutex::default(),
            origin: Semaphore::new(ORIGIN_MAX),
            counters: Counters::default(),
        };
        Loader { shared: Arc::new(shared) }
    }

    /// Opens the artifact that `grant` is for: its manifest is fetched, its data key unwrapped, its table opened.
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn open(&self, grant: &[u8]) -> Result<Loaded, FetchError> {
        let presented = Presented { worker: &self.shared.worker, grant };
        let (artifact, manifest) = self.shared.gate.artifact(presented).await?;
        let data_key = self.shared.gate.data_key(presented, &artifact).await?;
        let table = artifact.open(&data_key, &manifest)?;
        let config = table.config().to_vec();
        let opener = Opener::new(manifest, table)?;
        let grant = RwLock::new(grant.to_vec());
        Ok(Loaded { opener, identity: artifact.identity, config, grant })
    }

    /// Chunk `index` in the clear, in `buffer` or a new one: the whole of it, with zeros after the image's end.
    ///
    /// # Errors
    /// [`FetchError`]; a chunk that fails says nothing about others.
    pub async fn chunk(
        &self,
        artifact: &Arc<Loaded>,
        index: u32,
        buffer: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, FetchError> {
        let chunk = tokio::time::timeout(deadline, self.load(artifact, index, buffer)).await;
        chunk.map_err(|_| FetchError::Deadline(deadline))?
    }

    async fn load(
        &self,
        artifact: &Arc<Loaded>,
        index: u32,
        mut buffer: Vec<u8>,
    ) -> Result<Vec<u8>, FetchError> {
        buffer.resize(CHUNK_BYTES, 0);
        if artifact.manifest().zeros().is_zero(index) {
            buffer.fill(0);
            return Ok(buffer);
        }
        let name = artifact.manifest().name(index).ok_or(OpenError::NoChunk { index })?;
        let (shared, opened) = (self.shared.clone(), artifact.clone());
        let from_cache = tokio::task::spawn_blocking(move || {
            let hit = shared.open_cached(&opened.opener, (index, &name), &mut buffer);
            (hit, buffer)
        });
        let (hit, buffer) = from_cache.await.map_err(|_| FetchError::Ended)?;
        if hit {
            return Ok(buffer);
        }
        let sealed = self.fetch(artifact, name).await?;
        let opened = artifact.clone();
        let decrypted = tokio::task::spawn_blocking(move || {
            let mut buffer = buffer;
            let chunk = buffer.as_mut_slice().try_into().expect("a chunk has its size");
            // The flight checked it; these are the bytes that it checked, and nothing can have changed them.
            opened.opener.open(index, Checked::trusted(name, &sealed), chunk).map(|()| buffer)
        });
        Ok(decrypted.await.map_err(|_| FetchError::Ended)??)
    }

    /// The checked ciphertext of a chunk that the cache does not have.
    async fn fetch(&self, artifact: &Arc<Loaded>, name: Digest) -> Result<Bytes, FetchError> {
        let (mut flight, ours) = self.join(artifact, name);
        let arrived = land(&mut flight).await;
        match arrived {
            // Another artifact's grant was refused, which says nothing about this one's.
            Err(error) if !ours && matches!(*error, FetchError::Gate(_)) => {
                let (mut flight, _) = self.join(artifact, name);
                land(&mut flight).await.map_err(FetchError::Shared)
            }
            arrived => arrived.map_err(FetchError::Shared),
        }
    }

    /// The flight for a chunk, and whether it was started by this call.
    fn join(&self, artifact: &Arc<Loaded>, name: Digest) -> (Flight, bool) {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&name) {
            return (flight.clone(), false);
        }
        let (sender, flight) = watch::channel(None);
        flights.insert(name, flight.clone());
        let (shared, artifact) = (self.shared.clone(), artifact.clone());
        tokio::spawn(async move {
            let result = shared.fly(&artifact, name).await;
            if let (Ok(bytes), Some(_)) = (&result, &shared.cache) {
                // Before the flight ends, so that nobody misses it in between.
                let (shared, bytes) = (shared.clone(), bytes.clone());
                let kept = tokio::task::spawn_blocking(move || shared.keep(name, &bytes));
                let _ = kept.await;
            }
            shared.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            // All who wait may have given up.
            let _ = sender.send(Some(result.map_err(Arc::new)));
        });
        (flight, true)
    }

    /// What came from the origin so far.
    #[must_use]
    pub fn stats(&self) -> FetchStats {
        let counters = &self.shared.counters;
        FetchStats {
            fetched: counters.fetched.load(Ordering::Relaxed),
            fetched_bytes: counters.fetched_bytes.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
        }
    }

    /// The cache, if there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.shared.cache.as_ref()
    }
}

async fn land(flight: &mut Flight) -> Result<Bytes, Arc<FetchError>> {
    let landed = flight.wait_for(Option::is_some).await;
    let landed = landed.map_err(|_| Arc::new(FetchError::Ended))?;
    landed.clone().unwrap_or_else(|| Err(Arc::new(FetchError::Ended)))
}

thread_local! {
    /// Ciphertext between disk and plaintext. New memory for each chunk would cost as much as reading it.
    static SEALED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    /// Opens a chunk from the cache, if it is there and what it should be.
    fn open_cached(&self, opener: &Opener, (index, name): (u32, &Digest), out: &mut [u8]) -> bool {
        let Some(cache) = &self.cache else { return false };
        SEALED.with_borrow_mut(|sealed| {
            if !cache.read(name, sealed) {
                return false;
            }
            let Some(checked) = Checked::new(*name, sealed) else {
                cache.discard(name);
                return false;
            };
            let out = out.try_into().expect("a chunk has its size");
            opener.open(index, checked, out).is_ok()
        })
    }

    fn keep(&self, name: Digest, bytes: &[u8]) {
        // A cache that cannot keep a chunk costs another fetch: its counters tell.
        if let Some(cache) = &self.cache {
            let _ = cache.insert(name, bytes);
        }
    }

    async fn fly(&self, artifact: &Loaded, name: Digest) -> Result<Bytes, FetchError> {
        let _permit = self.origin.acquire().await.map_err(|_| FetchError::Ended)?;
        let mut attempt = 1;
        loop {
            match self.ask(artifact, name).await {
                Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                answered => return answered,
            }
        }
    }

    async fn ask(&self, artifact: &Loaded, name: Digest) -> Result<Bytes, FetchError> {
        let grant = artifact.grant();
        let presented = Presented { worker: &self.worker, grant: &grant };
        let bytes = self.gate.chunk(presented, &name).await?;
        let hashed = bytes.clone();
        let found = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
        if found.map_err(|_| FetchError::Ended)? != name {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(FetchError::Lie { name });
        }
        self.counters.fetched.fetch_add(1, Ordering::Relaxed);
        self.counters.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
