//! A store that waits, fails and lies chunk by chunk, sealed artifacts in it, and a VMM that is played.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use async_trait::async_trait;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio_stream::Stream;
use votive_artifact::cache::{CACHE_BYTES_MIN, Cache};
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::gate::{Clock, Gate};
use votive_artifact::grant::{Grant, Issuer, Operations, Verifier};
use votive_artifact::keys::Embedded;
use votive_artifact::seal::Method;
use votive_artifact::store::Store;
use votive_artifact::store::upload::{UploadSpec, Uploader};
use votive_artifact::store::verify::find;

use super::*;

type BoxStream<T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send>>;

pub(super) const LONG: Duration = Duration::from_secs(60);

/// A marker that must be found nowhere but in memory.
pub(super) const CANARY: &[u8] = b"the canary that is found nowhere";

/// A folder whose chunks come when they are told to.
#[derive(Debug)]
pub(super) struct Told {
    inner: LocalFileSystem,
    held: watch::Sender<HashSet<Path>>,
    failing: Mutex<HashMap<Path, u32>>,
    lies: Mutex<HashSet<Path>>,
    read: Mutex<Vec<Path>>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that does as it is told")
    }
}

#[async_trait]
impl ObjectStore for Told {
    async fn put_opts(&self, path: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
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
        self.held.subscribe().wait_for(|held| !held.contains(path)).await.unwrap();
        if let Some(left @ 1..) = self.failing.lock().unwrap().get_mut(path) {
            *left -= 1;
            return Err(object_store::Error::Generic { store: "told", source: "to fail".into() });
        }
        let got = self.inner.get_opts(path, how).await?;
        if !self.lies.lock().unwrap().contains(path) {
            return Ok(got);
        }
        let mut bytes = got.bytes().await?.to_vec();
        bytes[1000] ^= 4;
        let liar = InMemory::new();
        liar.put_opts(path, bytes.into(), PutOptions::default()).await?;
        liar.get_opts(path, GetOptions::default()).await
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

/// Grants by the test's clock, until it is told to refuse.
#[derive(Debug)]
pub(super) struct TestGrants {
    issuer: Issuer,
    pub(super) now_s: Arc<AtomicU64>,
    pub(super) refuses: AtomicBool,
    pub(super) granted: AtomicU64,
}

impl Granter for TestGrants {
    fn grant<'a>(&'a self, artifact: &'a ArtifactName) -> Granting<'a> {
        let now_s = self.now_s.load(Ordering::SeqCst);
        self.granted.fetch_add(1, Ordering::SeqCst);
        let grant = Grant {
            worker: "worker-1".to_owned(),
            identity: artifact.identity.clone(),
            manifest: artifact.manifest,
            root: artifact.root,
            not_before_s: now_s,
            expires_s: now_s + 300,
            operations: Operations::LOAD,
        };
        let (identity, source) = (artifact.identity.clone(), "told to refuse".into());
        let refused = Err(NotGranted { identity, source });
        let refuses = self.refuses.load(Ordering::SeqCst);
        let signed = if refuses { refused } else { Ok(self.issuer.sign(&grant).unwrap()) };
        Box::pin(std::future::ready(signed))
    }
}

/// A sealed image, and where its chunks lie.
pub(super) struct Image {
    pub(super) name: ArtifactName,
    paths: HashMap<u32, Path>,
}

pub(super) struct World {
    told: Arc<Told>,
    store: Store,
    pub(super) keys: Arc<Embedded>,
    pub(super) grants: Arc<TestGrants>,
    pub(super) artifacts: Artifacts,
    pub(super) folder: tempfile::TempDir,
}

pub(super) const SETTINGS: Settings =
    Settings { memory_bytes: 1 << 30, idle: LONG, read_limit: LONG };

impl World {
    pub(super) fn new(settings: Settings) -> World {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Embedded::create(&folder.path().join("keys")).unwrap());
        keys.create_key("key").unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let told = Arc::new(Told {
            inner: LocalFileSystem::new_with_prefix(folder.path().join("store")).unwrap(),
            held: watch::Sender::default(),
            failing: Mutex::default(),
            lies: Mutex::default(),
            read: Mutex::default(),
        });
        let store = Store::new(told.clone(), Path::default());
        let issuer = Issuer::generate().unwrap();
        let now_s = Arc::new(AtomicU64::new(1_800_000_000));
        let clock: Clock = {
            let now_s = now_s.clone();
            Arc::new(move || now_s.load(Ordering::SeqCst))
        };
        let verifier = Verifier::new(vec![issuer.public_key()]);
        let gate = Gate::new(store.clone(), keys.clone(), verifier).with_clock(clock);
        let cache = Cache::open(&folder.path().join("cache"), CACHE_BYTES_MIN).unwrap();
        let loader = Loader::new(Arc::new(gate), "worker-1", Some(cache));
        let (refuses, granted) = (AtomicBool::new(false), AtomicU64::new(0));
        let grants = Arc::new(TestGrants { issuer, now_s, refuses, granted });
        let artifacts = Artifacts::new(loader, grants.clone(), settings);
        World { told, store, keys, grants, artifacts, folder }
    }

    /// Seals an image of these chunks, the last of which has but 8 KiB; 0 is all zeros.
    pub(super) async fn seal(&self, identity: &str, method: Method, chunks: &[u8]) -> Image {
        let mut bytes: Vec<u8> = chunks.iter().flat_map(|number| chunk(*number)).collect();
        bytes.truncate((chunks.len() - 1) * CHUNK_BYTES + 8192);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let spec = UploadSpec {
            identity: Some(identity.to_owned()),
            key: "key".to_owned(),
            method,
            source: Digest::of(&bytes),
            config: b"{}".to_vec(),
        };
        let uploader = Uploader::new(self.store.clone(), self.keys.clone(), "key").await.unwrap();
        let stored = uploader.upload(&spec, Arc::new(file), bytes.len() as u64, &mut |_| ()).await;
        let stored = stored.unwrap();
        let found = find(&self.store, identity).await.unwrap();
        let path = |index| {
            let name = found.manifest.name(index)?;
            Some((index, self.store.chunk_path(stored.root, &name)))
        };
        let paths = (0..stored.chunks).filter_map(path).collect();
        let (manifest, root) = (stored.manifest, stored.root);
        Image { name: ArtifactName { identity: identity.to_owned(), manifest, root }, paths }
    }

    pub(super) async fn vmm(&self, image: &Image) -> Vmm {
        self.vmm_ahead(image, None).await
    }

    pub(super) async fn vmm_ahead(&self, image: &Image, ahead: Option<ReadList>) -> Vmm {
        let ahead = ahead.map(|list| -> Ahead { Box::pin(std::future::ready(Some(list))) });
        Vmm::new(self.artifacts.attach(&image.name, ahead).await.unwrap())
    }

    pub(super) fn hold(&self, image: &Image, index: u32) {
        self.told.held.send_modify(|held| {
            held.insert(image.paths[&index].clone());
        });
    }

    pub(super) fn release(&self, image: &Image, index: u32) {
        self.told.held.send_modify(|held| {
            held.remove(&image.paths[&index]);
        });
    }

    pub(super) fn fail(&self, image: &Image, index: u32, times: u32) {
        self.told.failing.lock().unwrap().insert(image.paths[&index].clone(), times);
    }

    pub(super) fn lie(&self, image: &Image, index: u32, lies: bool) {
        let (path, mut all) = (image.paths[&index].clone(), self.told.lies.lock().unwrap());
        if lies {
            all.insert(path)
        } else {
            all.remove(&path)
        };
    }

    /// How often a chunk was asked for at the store.
    pub(super) fn reads(&self, image: &Image, index: u32) -> usize {
        let read = self.told.read.lock().unwrap();
        read.iter().filter(|path| **path == image.paths[&index]).count()
    }

    /// Waits for what another task does.
    pub(super) async fn until(&self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let wait = async {
            while !is_so(self) {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(LONG, wait).await.is_ok(), "{what}: {:?}", self.artifacts.stats());
    }
}

/// The plaintext of a chunk of this number.
pub(super) fn chunk(number: u8) -> Vec<u8> {
    let mut chunk = vec![number; CHUNK_BYTES];
    if number > 0 {
        chunk[5000..5000 + CANARY.len()].copy_from_slice(CANARY);
    }
    chunk
}

/// What a VMM does with a lazy disk, without a guest.
pub(super) struct Vmm {
    pub(super) image: std::fs::File,
    pub(super) presence: std::fs::File,
    /// The table of pages, if anybody wants it.
    pub(super) reads: Option<std::fs::File>,
    pub(super) socket: UnixStream,
    pub(super) attached_reads: FirstReads,
}

impl Vmm {
    fn new(attached: Attached) -> Vmm {
        let (disk, lazy) = (attached.disk.file, attached.disk.lazy.unwrap());
        assert!(attached.disk.read_only && attached.config == b"{}");
        assert!(lazy.timeout > Duration::ZERO);
        let socket = std::os::unix::net::UnixStream::from(lazy.requests);
        socket.set_nonblocking(true).unwrap();
        let socket = UnixStream::from_std(socket).unwrap();
        let (presence, reads) = (lazy.presence, lazy.reads);
        Vmm { image: disk, presence, reads, socket, attached_reads: attached.reads }
    }

    pub(super) async fn ask(&mut self, index: u32) {
        self.socket.write_all(&index.to_le_bytes()).await.unwrap();
    }

    pub(super) async fn answer(&mut self) -> (u32, u32) {
        let mut answer = [0; 8];
        timeout(LONG, self.socket.read_exact(&mut answer)).await.expect("an answer").unwrap();
        let (index, status) = answer.split_at(4);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        (number(index), number(status))
    }

    /// Asks and is answered; whether the chunk is there.
    pub(super) async fn read(&mut self, index: u32) -> bool {
        assert!(!self.holds(index), "a VMM asks for what is absent");
        self.ask(index).await;
        let (answered, status) = self.answer().await;
        assert_eq!((answered, status == 0), (index, self.holds(index)), "answer and table agree");
        status == 0
    }

    pub(super) fn holds(&self, index: u32) -> bool {
        let mut byte = [7];
        self.presence.read_exact_at(&mut byte, index.into()).unwrap();
        assert!(byte[0] < 2);
        byte[0] == 1
    }

    pub(super) fn bytes(&self, index: u32) -> Vec<u8> {
        let start = u64::from(index) * CHUNK_BYTES as u64;
        let there = (self.image.metadata().unwrap().len() - start).min(CHUNK_BYTES as u64);
        let mut bytes = vec![1; there as usize];
        self.image.read_exact_at(&mut bytes, start).unwrap();
        bytes
    }

    pub(super) fn inode(&self) -> u64 {
        self.image.metadata().unwrap().ino()
    }
}
