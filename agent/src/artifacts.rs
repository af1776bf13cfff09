//! Artifacts that microVMs read while they come: the serving side of lazy disks (`docs/vmm.md`).
//!
//! ```text
//!  VMM --index--> connection --> served: is it there? --> granted --> loader: cache, origin, checked, decrypted
//!      <--status--    |            |  one flight a chunk                  |
//!                     |            +<------- chunk, then its byte in the table: two files in memory
//! ```
//! Each image has its memory once in a worker, whichever functions run it, and each environment its own grant: whoever reads
//! memory that is shared has had the artifact's key unwrapped. Plaintext is in that memory, which has no name, and in buffers
//! that are wiped after each chunk. The memory goes some time after the last environment, or sooner when others need it.
//!
//! **Invariant:** nothing that decrypts, and nothing that touches a disk, runs on the event loop.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use votive_artifact::cache::{Cache, CacheStats};
use votive_artifact::chunk::ChunkReads;
use votive_artifact::digest::Digest;
use votive_artifact::fetch::{FetchStats, Loader};

use crate::microvm::{Disk, LazyDisk};

mod connection;
mod granted;
mod lists;
mod memory;
mod origin;
mod reads;
mod served;
#[cfg(test)]
mod tests;

pub use granted::{ArtifactName, Granter, Granting, NotGranted, OpenError, OwnGrants};
pub use lists::Lists;
pub use origin::{Origin, ResolveError, Resolved};
pub use reads::{READS_MAX, ReadList};

use granted::Granted;
use memory::{Budget, Buffers, PageTable, Share};
use served::{Reads, Served};

/// Chunks on their way at once, of all images: 64 MiB of buffers. Those that the cache has need no turn at the origin, so that
/// there are more than the loader's.
const TURNS: usize = 128;
/// How many of them may be fetched ahead of any read: half of the loader's requests to the origin.
const AHEAD_TURNS: usize = 32;
/// Artifacts that are opened at once; each holds a thread while its store and its key service answer.
const OPENS: usize = 32;
/// How much longer than this side a VMM waits for an answer: it gives up by itself only when this side hangs.
const VMM_MARGIN: Duration = Duration::from_secs(5);

/// How artifacts are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bytes that all images may have in memory together. A read that needs more fails.
    pub memory_bytes: u64,
    /// How long an image stays in memory after its last environment.
    pub idle: Duration,
    /// How long a guest's read may wait for a chunk, before it is an I/O error.
    pub read_limit: Duration,
}

/// The artifacts that a worker serves.
#[derive(Clone, Debug)]
pub struct Artifacts {
    shared: Arc<Shared>,
}

/// What serving has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServeStats {
    /// Images in memory.
    pub images: usize,
    /// Disks that are served.
    pub disks: usize,
    /// Bytes of images in memory, those included that are about to come.
    pub bytes: u64,
    /// What came from the origin.
    pub fetched: FetchStats,
    /// How the cache has fared.
    pub cache: CacheStats,
    /// Bytes of its disk that it takes.
    pub cache_bytes: u64,
}

/// What all images of a worker share.
#[derive(Debug)]
struct Shared {
    loader: Loader,
    granter: Arc<dyn Granter>,
    settings: Settings,
    images: Mutex<HashMap<Digest, Entry>>,
    turns: Semaphore,
    ahead: Semaphore,
    opens: Semaphore,
    budget: Arc<Budget>,
    buffers: Buffers,
}

#[derive(Debug)]
struct Entry {
    served: Arc<Served>,
    disks: usize,
    idle_since: Instant,
}

/// An environment's disk, and what tells of it. The disk is served until the VMM that it is given to has ended.
#[derive(Debug)]
pub struct Attached {
    /// The disk.
    pub disk: Disk,
    /// What was sealed with the image.
    pub config: Vec<u8>,
    /// What its environments read first.
    pub reads: FirstReads,
}

/// The order of an image's first reads, and the pages that this environment has read.
#[derive(Clone, Debug)]
pub struct FirstReads {
    reads: Arc<Mutex<Reads>>,
    pages: Option<Arc<PageTable>>,
}

impl FirstReads {
    /// Those so far: what was fetched ahead, then what was read beyond it.
    #[must_use]
    pub fn so_far(&self) -> ReadList {
        let chunks = lock(&self.reads).so_far();
        self.list(&chunks)
    }

    /// Those so far, once for each image: none if there is such a list already, or there is nothing to list.
    pub(crate) fn keep_now(&self) -> Option<ReadList> {
        let chunks = lock(&self.reads).keep_now();
        chunks.map(|chunks| self.list(&chunks))
    }

    /// What [`FirstReads::keep_now`] gave is not kept after all.
    pub(crate) fn not_kept(&self) {
        lock(&self.reads).kept = false;
    }

    fn list(&self, chunks: &[u32]) -> ReadList {
        match &self.pages {
            Some(pages) => ReadList::new(pages.of(chunks)),
            None => {
                ReadList::new(chunks.iter().map(|index| ChunkReads { index: *index, pages: 0 }))
            }
        }
    }
}

/// A list of first reads on its way; it is waited for by nobody but what fetches ahead.
pub type Ahead = Pin<Box<dyn Future<Output = Option<ReadList>> + Send>>;

impl Artifacts {
    /// Serves what `loader` loads and `granter` grants.
    #[must_use]
    pub fn new(loader: Loader, granter: Arc<dyn Granter>, settings: Settings) -> Artifacts {
        let shared = Shared {
            loader,
            granter,
            settings,
            images: Mutex::default(),
            turns: Semaphore::new(TURNS),
            ahead: Semaphore::new(AHEAD_TURNS),
            opens: Semaphore::new(OPENS),
            budget: Budget::new(settings.memory_bytes),
            buffers: Buffers::new(TURNS),
        };
        Artifacts { shared: Arc::new(shared) }
    }

    /// Opens an artifact for one environment, and serves it as a disk. What `ahead` lists is fetched at once, unless that was
    /// done for this image already.
    ///
    /// # Errors
    /// [`OpenError`]; a key that was disabled is one, whatever is in memory.
    pub async fn attach(
        &self,
        artifact: &ArtifactName,
        ahead: Option<Ahead>,
    ) -> Result<Attached, OpenError> {
        let user = self.open(artifact, |shared, granted| {
            User::new(shared, Arc::new(granted)).map_err(OpenError::Memory)
        });
        let user = Arc::new(user.await?);
        let config = user.granted.loaded().config().to_vec();
        let (file, presence) = user.served.read_only().map_err(OpenError::Memory)?;
        let (socket, requests) = UnixStream::pair().map_err(OpenError::Memory)?;
        let requests: OwnedFd = requests.into_std().map_err(OpenError::Memory)?.into();
        if let Some(ahead) = ahead.filter(|_| !user.served.is_planned()) {
            let (served, granted) = (Arc::clone(&user.served), Arc::clone(&user.granted));
            let (shared, weak) = (Arc::clone(&user.shared), Arc::downgrade(&user));
            tokio::spawn(async move {
                if let Some(list) = ahead.await {
                    served.fetch_ahead(shared, granted, weak, list).await;
                }
            });
        }
        let pages = user.served.page_table().map_err(OpenError::Memory)?.map(Arc::new);
        let table = pages.as_ref().map(|pages| pages.file()).transpose();
        let table = table.map_err(OpenError::Memory)?;
        let reads = FirstReads { reads: user.served.first_reads(), pages };
        let read_limit = self.shared.settings.read_limit;
        tokio::spawn(run(user, socket, read_limit));
        let timeout = read_limit.saturating_add(VMM_MARGIN);
        let lazy = Some(LazyDisk { presence, requests, reads: table, timeout });
        Ok(Attached { disk: Disk { lazy, ..Disk::new(file, true) }, config, reads })
    }

    /// What was sealed with an artifact's image.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn config(&self, artifact: &ArtifactName) -> Result<Vec<u8>, OpenError> {
        self.open(artifact, |_, granted| Ok(granted.loaded().config().to_vec())).await
    }

    /// Opens an artifact and makes something of it, in a thread of its own: a key service that is a file writes its record before
    /// it answers, and a table may hold many keys.
    async fn open<T: Send + 'static>(
        &self,
        artifact: &ArtifactName,
        then: impl FnOnce(Arc<Shared>, Granted) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let _turn = self.shared.opens.acquire().await.map_err(|_| OpenError::Ended)?;
        let (shared, name) = (Arc::clone(&self.shared), artifact.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let granter = Arc::clone(&shared.granter);
            let granted = Granted::open(&shared.loader, granter, &name);
            let granted = Handle::current().block_on(granted)?;
            then(shared, granted)
        });
        opened.await.map_err(|_| OpenError::Ended)?
    }

    /// What serving has come to.
    #[must_use]
    pub fn stats(&self) -> ServeStats {
        let cache = self.shared.loader.cache();
        let images = lock(&self.shared.images);
        ServeStats {
            images: images.len(),
            disks: images.values().map(|entry| entry.disks).sum(),
            bytes: self.shared.budget.taken(),
            fetched: self.shared.loader.stats(),
            cache: cache.map(Cache::stats).unwrap_or_default(),
            cache_bytes: cache.map_or(0, Cache::bytes),
        }
    }
}

/// Serves a disk to its end, and takes the image out of memory once nobody has come for it.
async fn run(user: Arc<User>, socket: UnixStream, read_limit: Duration) {
    connection::serve(&user, socket, read_limit).await;
    let shared = Arc::clone(&user.shared);
    drop(user);
    let idle = shared.settings.idle;
    tokio::time::sleep(idle).await;
    free(shared.drop_idle(idle)).await;
}

/// Gigabytes take their time to be freed.
async fn free(images: Vec<Arc<Served>>) {
    // There is nothing to be done about a free that fails.
    let _ = tokio::task::spawn_blocking(move || drop(images)).await;
}

impl Shared {
    /// A share of the budget. Images that nobody uses make room for it.
    async fn reserve(&self, bytes: u64) -> Option<Share> {
        loop {
            if let Some(share) = self.budget.take(bytes) {
                return Some(share);
            }
            free(vec![self.drop_oldest_idle()?]).await;
        }
    }

    /// Takes out the image that nobody has used for longest.
    fn drop_oldest_idle(&self) -> Option<Arc<Served>> {
        let mut images = lock(&self.images);
        let idle = images.iter().filter(|(_, entry)| entry.disks == 0);
        let oldest = idle.min_by_key(|(_, entry)| entry.idle_since).map(|(id, _)| *id)?;
        images.remove(&oldest).map(|entry| entry.served)
    }

    /// Takes out the images that nobody has used for so long.
    fn drop_idle(&self, idle: Duration) -> Vec<Arc<Served>> {
        let mut images = lock(&self.images);
        let is_over = |entry: &Entry| entry.disks == 0 && entry.idle_since.elapsed() >= idle;
        let over = images.extract_if(|_, entry| is_over(entry));
        over.map(|(_, entry)| entry.served).collect()
    }
}

/// One disk's use of an image, over when it is dropped.
#[derive(Debug)]
struct User {
    shared: Arc<Shared>,
    served: Arc<Served>,
    granted: Arc<Granted>,
    id: Digest,
    told: AtomicBool,
}

impl User {
    /// Makes the image's memory, unless it is there.
    fn new(shared: Arc<Shared>, granted: Arc<Granted>) -> std::io::Result<User> {
        let manifest = granted.loaded().manifest();
        let id = manifest.id();
        let known = shared.join(id);
        let served = match known {
            Some(served) => served,
            None => shared.add(id, Served::new(manifest)?),
        };
        Ok(User { shared, served, granted, id, told: AtomicBool::new(false) })
    }

    /// Tells the operator why a read fails, once for each disk: a guest can read as often as it likes.
    fn tell(&self, chunk: u32, error: &str) {
        if self.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(chunk, error, "a chunk is an I/O error");
        } else {
            let artifact = self.granted.loaded().identity();
            tracing::warn!(
                artifact,
                chunk,
                error,
                "a chunk is an I/O error; further ones of this disk are not told of"
            );
        }
    }
}

impl Shared {
    fn join(&self, id: Digest) -> Option<Arc<Served>> {
        let mut images = lock(&self.images);
        let entry = images.get_mut(&id)?;
        entry.disks += 1;
        Some(Arc::clone(&entry.served))
    }

    /// Adds an image, or joins the one that somebody added meanwhile.
    fn add(&self, id: Digest, served: Served) -> Arc<Served> {
        let mut images = lock(&self.images);
        let new = || Entry { served: Arc::new(served), disks: 0, idle_since: Instant::now() };
        let entry = images.entry(id).or_insert_with(new);
        entry.disks += 1;
        Arc::clone(&entry.served)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // An image with a disk is never taken out, so that this is the entry that was counted up.
        if let Some(entry) = lock(&self.shared.images).get_mut(&self.id) {
            entry.disks = entry.disks.saturating_sub(1);
            entry.idle_since = Instant::now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
