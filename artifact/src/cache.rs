//! The worker's disk cache: ciphertext by name, bounded, and trusted by nobody.
//!
//! A file that is there is a claim: whoever reads it checks its digest before anything is decrypted, so that neither a crash
//! nor a thief nor a failing disk can put a wrong byte in front of a guest. That is why nothing is synced, and why a restart takes
//! what it finds by name and size alone.
//!
//! Which chunk goes when the cache is full is S3-FIFO's decision (`quick_cache`): a chunk that is read once leaves through a
//! small queue, and only one that is asked for again comes into the main one. So functions that all start at the top of the hour,
//! each reading its own chunks once, do not push out what everybody reads. LRU-k does the same with a timestamp history for each
//! chunk; S3-FIFO needs a counter of two bits, and a hit takes no lock for writing.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache as Policy;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::seal::Method;

/// What a file's size is rounded up to, as file systems do.
const BLOCK_BYTES: u64 = 4096;

/// The smallest cache, in bytes: below it the small queue holds no chunk.
pub const CACHE_BYTES_MIN: u64 = 32 * CHUNK_BYTES as u64;

/// Files that are being written have names that begin so.
const NEW: &str = ".new-";

/// A cache of chunks in a folder.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    policy: Policy<Digest, u32, Blocks, DefaultHashBuilder, Evicted>,
    counters: Counters,
    /// Locked: one process a folder, for the bound is counted in memory.
    _lock: File,
}

/// How the cache has fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Chunks that were there.
    pub hits: u64,
    /// Chunks that were not.
    pub misses: u64,
    /// Files that were not what their names say. They are gone.
    pub damaged: u64,
    /// Chunks that had to make room.
    pub evicted: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It would be too small to be of use.
    #[error("a cache has at least {CACHE_BYTES_MIN} bytes")]
    Size,
    /// Another process uses the folder.
    #[error("another process uses the cache in {path}")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cannot use {path}")]
    Folder {
        /// The folder, or a file in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Clone, Debug)]
struct Blocks;

impl Weighter<Digest, u32> for Blocks {
    fn weight(&self, _: &Digest, bytes: &u32) -> u64 {
        u64::from(*bytes).next_multiple_of(BLOCK_BYTES)
    }
}

/// Collects what was evicted, so that files are removed after the policy's lock is given back.
#[derive(Clone, Debug)]
struct Evicted;

impl Lifecycle<Digest, u32> for Evicted {
    type RequestState = Vec<Digest>;

    fn begin_request(&self) -> Vec<Digest> {
        Vec::new()
    }

    fn on_evict(&self, state: &mut Vec<Digest>, name: Digest, _: u32) {
        state.push(name);
    }
}

impl Cache {
    /// The cache of at most `bytes` bytes in `folder`, which is made if it is not there. What an earlier process left there is
    /// used as far as its names and sizes make sense; the rest is removed.
    ///
    /// # Errors
    /// [`CacheError`]
    pub fn open(folder: &Path, bytes: u64) -> Result<Cache, CacheError> {
        if bytes < CACHE_BYTES_MIN {
            return Err(CacheError::Size);
        }
        let failed = |source| CacheError::Folder { path: folder.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(CacheError::InUse { path: folder.to_owned() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let options = OptionsBuilder::new()
            .estimated_items_capacity(
                usize::try_from(bytes / CHUNK_BYTES as u64).unwrap_or(usize::MAX),
            )
            .weight_capacity(bytes)
            // The bound holds for each shard by itself. A chunk takes its reader so long that one lock is no hindrance.
            .shards(1)
            .build()
            .map_err(|_| CacheError::Size)?;
        let policy = Policy::with_options(options, Blocks, DefaultHashBuilder::default(), Evicted);
        let (folder, counters) = (folder.to_owned(), Counters::default());
        let cache = Cache { folder, policy, counters, _lock: lock };
        cache.adopt().map_err(failed)?;
        Ok(cache)
    }

    /// Takes over what lies in the folder.
    fn adopt(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                for file in fs::read_dir(&path)? {
                    self.adopt_file(&file?)?;
                }
            } else if entry.file_name() != "lock" {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn adopt_file(&self, entry: &fs::DirEntry) -> io::Result<()> {
        let name = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
        let (metadata, path) = (entry.metadata()?, entry.path());
        let size = u32::try_from(metadata.len()).ok().filter(|size| is_size(*size as usize));
        match (name, size) {
            (Some(name), Some(size)) if metadata.is_file() && path == self.path(&name) => {
                self.admit(name, size);
                Ok(())
            }
            _ if metadata.is_dir() => fs::remove_dir_all(path),
            _ => fs::remove_file(path),
        }
    }

    /// Reads the chunk of this name into `bytes`, which are not checked yet; whether it was there.
    pub fn read(&self, name: &Digest, bytes: &mut Vec<u8>) -> bool {
        let found = self.policy.get(name).is_some_and(|size| {
            let read = self.read_file(name, size as usize, bytes).is_ok();
            if !read {
                // Somebody has tampered with the folder.
                self.forget(name);
            }
            read
        });
        count(if found { &self.counters.hits } else { &self.counters.misses });
        found
    }

    fn read_file(&self, name: &Digest, size: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut file = File::open(self.path(name))?;
        // Kept between calls: new memory costs as much as reading does.
        bytes.resize(size, 0);
        file.read_exact(bytes)?;
        match file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Whether a chunk is there, without asking for it.
    #[must_use]
    pub fn contains(&self, name: &Digest) -> bool {
        self.policy.contains_key(name)
    }

    /// Keeps a chunk, if the policy will have it. `bytes` were checked.
    ///
    /// # Errors
    /// The file system's; the chunk is not kept then.
    pub fn insert(&self, name: Digest, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).ok().filter(|_| is_size(bytes.len()));
        let size = size.ok_or(io::ErrorKind::InvalidInput)?;
        if self.policy.contains_key(&name) {
            return Ok(());
        }
        let path = self.path(&name);
        let parent = path.parent().unwrap_or(&self.folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        let mut new = tempfile::Builder::new().prefix(NEW).tempfile_in(parent)?;
        new.write_all(bytes)?;
        new.persist(&path)?;
        self.admit(name, size);
        Ok(())
    }

    fn admit(&self, name: Digest, size: u32) {
        for evicted in self.policy.insert_with_lifecycle(name, size) {
            count(&self.counters.evicted);
            // One that is gone already is gone.
            let _ = fs::remove_file(self.path(&evicted));
        }
    }

    /// Removes a chunk that is not what its name says.
    pub fn discard(&self, name: &Digest) {
        count(&self.counters.damaged);
        self.forget(name);
    }

    fn forget(&self, name: &Digest) {
        self.policy.remove(name);
        let _ = fs::remove_file(self.path(name));
    }

    /// What the cache takes on disk, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.policy.weight()
    }

    /// How it has fared since it was opened.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        CacheStats {
            hits: value(&counters.hits),
            misses: value(&counters.misses),
            damaged: value(&counters.damaged),
            evicted: value(&counters.evicted),
        }
    }

    fn path(&self, name: &Digest) -> PathBuf {
        let text = name.to_string();
        self.folder.join(&text[..2]).join(text)
    }
}

fn is_size(bytes: usize) -> bool {
    [Method::Convergent, Method::ServiceKey].iter().any(|method| method.sealed_bytes() == bytes)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
