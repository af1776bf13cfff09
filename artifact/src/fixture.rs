//! What tests of the store share: images, keys, and a store that fails, lies and waits when it is told to.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use async_trait::async_trait;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Semaphore;
use tokio_stream::Stream;

use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::gate::{Clock, Gate};
use crate::grant::{Grant, Issuer, Operations, Verifier};
use crate::keys::Embedded;
use crate::seal::Method;
use crate::store::Store;
use crate::store::upload::{Stored, UploadError, UploadSpec, Uploader};

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send>>;

/// The time of tests, in seconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000;

/// A store in memory that can be told to misbehave.
pub(crate) struct Objects {
    pub(crate) inner: InMemory,
    /// Writes that still succeed; below zero none fails.
    pub(crate) writes_left: AtomicI64,
    /// Reads that still fail.
    pub(crate) reads_failing: AtomicI64,
    /// Whether a bit of each chunk is another.
    pub(crate) lies: AtomicBool,
    /// Reads of chunks take one of these.
    pub(crate) reads_allowed: Semaphore,
    /// Every chunk that was read.
    pub(crate) read: Mutex<Vec<Path>>,
}

impl Objects {
    pub(crate) fn new() -> Arc<Objects> {
        Arc::new(Objects {
            inner: InMemory::new(),
            writes_left: AtomicI64::new(-1),
            reads_failing: AtomicI64::new(0),
            lies: AtomicBool::new(false),
            reads_allowed: Semaphore::new(1 << 20),
            read: Mutex::default(),
        })
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "test", source: "told to fail".into() }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(&self, path: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        let left = self.writes_left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(broken());
        }
        self.writes_left.store(left - i64::from(left > 0), Ordering::SeqCst);
        self.inner.put_opts(path, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, how).await
    }

    async fn get_opts(&self, path: &Path, how: GetOptions) -> Result<GetResult> {
        if how.head || !path.as_ref().contains("/chunks/") {
            return self.inner.get_opts(path, how).await;
        }
        self.read.lock().unwrap().push(path.clone());
        self.reads_allowed.acquire().await.unwrap().forget();
        if self.reads_failing.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Err(broken());
        }
        if self.lies.load(Ordering::SeqCst) {
            let mut bytes = self.inner.get_opts(path, how).await?.bytes().await?.to_vec();
            bytes[1000] ^= 4;
            let liar = InMemory::new();
            liar.put_opts(path, bytes.into(), PutOptions::default()).await?;
            return liar.get_opts(path, GetOptions::default()).await;
        }
        self.inner.get_opts(path, how).await
    }

    fn delete_stream(&self, paths: BoxStream<Result<Path>>) -> BoxStream<Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store in memory")
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}

/// A store, a key service with the keys `service` and `customer`, and an issuer of grants.
pub(crate) struct World {
    pub(crate) objects: Arc<Objects>,
    pub(crate) store: Store,
    pub(crate) keys: Arc<Embedded>,
    pub(crate) issuer: Issuer,
    pub(crate) folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let keys = Embedded::create(&folder.path().join("keys")).unwrap();
        keys.create_key("service").unwrap();
        keys.create_key("customer").unwrap();
        let objects = Objects::new();
        let store = Store::new(objects.clone(), Path::from("prefix"));
        let issuer = Issuer::generate().unwrap();
        World { objects, store, keys: Arc::new(keys), issuer, folder }
    }

    pub(crate) async fn uploader(&self) -> Uploader {
        Uploader::new(self.store.clone(), self.keys.clone(), "service").await.unwrap()
    }

    pub(crate) async fn upload(
        &self,
        spec: &UploadSpec,
        chunks: &[u8],
    ) -> Result<Stored, UploadError> {
        let (image, bytes) = image(chunks);
        self.uploader().await.upload(spec, Arc::new(image), bytes, &mut |_| ()).await
    }

    pub(crate) fn gate(&self) -> Gate {
        let clock: Clock = Arc::new(|| NOW);
        let verifier = Verifier::new(vec![self.issuer.public_key()]);
        Gate::new(self.store.clone(), self.keys.clone(), verifier).with_clock(clock)
    }

    pub(crate) fn grant(&self, stored: &Stored) -> Vec<u8> {
        self.issuer.sign(&grant(stored)).unwrap()
    }

    /// All objects and their bytes.
    pub(crate) async fn objects(&self) -> Vec<(Path, Vec<u8>)> {
        let mut found = vec![];
        for (path, bytes) in self.store.list(&Path::from("prefix")).await.unwrap() {
            let read = self.objects.inner.get_opts(&path, GetOptions::default()).await.unwrap();
            let read = read.bytes().await.unwrap().to_vec();
            assert_eq!(read.len() as u64, bytes);
            found.push((path, read));
        }
        found
    }
}

pub(crate) fn grant(stored: &Stored) -> Grant {
    Grant {
        worker: "worker-1".to_owned(),
        identity: stored.identity.clone(),
        manifest: stored.manifest,
        root: stored.root,
        not_before_s: NOW,
        expires_s: NOW + 300,
        operations: Operations::LOAD,
    }
}

pub(crate) fn spec(source: &str, method: Method) -> UploadSpec {
    UploadSpec {
        identity: None,
        key: "customer".to_owned(),
        method,
        source: Digest::of(source.as_bytes()),
        config: br#"{"Cmd":["app"]}"#.to_vec(),
    }
}

/// A marker that must be found nowhere but in the clear.
pub(crate) const CANARY: &[u8] = b"the canary that is found nowhere";

/// The plaintext of a chunk of this number; 0 is all zeros.
pub(crate) fn chunk(number: u8) -> Vec<u8> {
    let mut chunk = vec![number; CHUNK_BYTES];
    if number > 0 {
        chunk[5000..5000 + CANARY.len()].copy_from_slice(CANARY);
    }
    chunk
}

/// An image of these chunks, the last of which has but 8 KiB.
pub(crate) fn image(chunks: &[u8]) -> (File, u64) {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes: Vec<u8> = chunks.iter().flat_map(|number| chunk(*number)).collect();
    bytes.truncate((chunks.len() - 1) * CHUNK_BYTES + 8192);
    file.write_all(&bytes).unwrap();
    (file, bytes.len() as u64)
}
