//! From an image to an artifact in the store, once for each content.
//!
//! The order is chunks, manifest, artifact, index: whoever finds one of these finds all that it names. An upload that is
//! interrupted leaves chunks that the next one finds; it makes the same ones, for convergent keys follow from the chunks and a
//! service key's upload keeps its data key, wrapped, until it is done.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::chunk::{CHUNK_BYTES, ZeroMap, chunks_of, is_zero, read_chunk};
use crate::digest::{Digest, Hasher};
use crate::keys::{Context, KeyError, KeyService};
use crate::limits::{CONFIG_BYTES_MAX, NAME_TEXT_MAX, WRAPPED_KEY_MAX};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, RootId, ScopeId};
use crate::seal::{
    ARTIFACT_BYTES_MAX, Artifact, ArtifactError, ImageKey, KeyTable, Method, Salt, Secret, is_name,
};
use crate::store::root::{Root, RootError};
use crate::store::{Store, StoreError};

/// Chunks that are sealed or on their way at once: 8 MiB of memory, and enough to hide what a request to S3 takes (36 ms) at
/// the speed of a disk.
const IN_FLIGHT: usize = 16;

/// The most bytes of an entry of the index: a digest, a space, an identity.
pub(crate) const INDEX_BYTES_MAX: usize = 65 + NAME_TEXT_MAX;

/// What becomes of an image.
#[derive(Clone, Debug)]
pub struct UploadSpec {
    /// The artifact's identity; none for one that follows from source, method and key.
    pub identity: Option<String>,
    /// The key of the key service that wraps its data key.
    pub key: String,
    /// How its chunks are encrypted.
    pub method: Method,
    /// What image and configuration were made of: the digest of all that went in, so that they need not be made again.
    pub source: Digest,
    /// What goes with the image.
    pub config: Vec<u8>,
}

/// An artifact in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The artifact.
    pub identity: String,
    /// Its manifest.
    pub manifest: Digest,
    /// The root that it is in.
    pub root: RootId,
    /// Size of the image, in bytes.
    pub image_bytes: u64,
    /// Chunks of the image.
    pub chunks: u32,
    /// Those of them that are all zeros.
    pub zero_chunks: u32,
    /// Chunks that the store did not have before, and has now.
    pub new_chunks: u32,
    /// Bytes that the store did not have before, manifest and artifact included.
    pub stored_bytes: u64,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// Chunks that are done.
    pub done: u32,
    /// All chunks.
    pub chunks: u32,
    /// Those that the store did not have.
    pub new_chunks: u32,
}

/// Why an image is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no root to work with.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The key service refused, or failed.
    #[error("{}: the artifact's key cannot be used", .0.code())]
    Key(#[from] KeyError),
    /// The image has a size that no image has.
    #[error("no image has {bytes} bytes")]
    Size {
        /// Its size.
        bytes: u64,
    },
    /// The identity is no name, or the configuration too large.
    #[error("{what} cannot go into an artifact")]
    Spec {
        /// Which.
        what: &'static str,
    },
    /// The image cannot be read.
    #[error("cannot read the image")]
    Image(#[source] io::Error),
    /// The table cannot be sealed.
    #[error(transparent)]
    Seal(#[from] ArtifactError),
    /// An artifact of this identity was made of something else; what an identity names never changes.
    #[error("there is an artifact {identity} already, of another source, method or key")]
    Taken {
        /// The identity.
        identity: String,
    },
    /// The store gives an object that is not what it should be.
    #[error("the store's {what} is damaged")]
    Damaged {
        /// Which.
        what: &'static str,
    },
    /// The manifest that the store gives is none.
    #[error("the store's manifest is damaged")]
    Manifest(#[from] ManifestError),
}

/// A store, the keys to work with, and the root that artifacts go to.
#[derive(Clone, Debug)]
pub struct Uploader {
    store: Store,
    keys: Arc<dyn KeyService>,
    root: Root,
}

impl Uploader {
    /// Works with the active root, which is opened with `root_key` if there is none.
    ///
    /// # Errors
    /// [`RootError`]
    pub async fn new(
        store: Store,
        keys: Arc<dyn KeyService>,
        root_key: &str,
    ) -> Result<Uploader, RootError> {
        let root = match Root::active(&store).await? {
            Some(root) => root,
            None => Root::open_new(&store, &*keys, root_key).await?,
        };
        Ok(Uploader { store, keys, root })
    }

    /// The root that artifacts go to.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The artifact that was made of this source before, if there is one: then there is nothing to make.
    ///
    /// # Errors
    /// [`UploadError::Taken`] as well, if the identity names something else.
    pub async fn find(&self, spec: &UploadSpec) -> Result<Option<Stored>, UploadError> {
        check(spec)?;
        let identity = identity(spec);
        let path = self.index_path(spec, &identity);
        let id = match self.store.get(&path, INDEX_BYTES_MAX).await {
            Ok(text) => {
                let entry = IndexEntry::parse(&text);
                entry.ok_or(UploadError::Damaged { what: "index" })?.manifest
            }
            Err(StoreError::NotFound { .. }) => {
                // An artifact by itself is an upload's that was interrupted just before its index: going on finds that out.
                let interrupted = spec.identity.is_some();
                return if interrupted { self.reconcile(spec, &identity).await } else { Ok(None) };
            }
            Err(error) => return Err(error.into()),
        };
        self.describe(&identity, &id).await.map(Some)
    }

    /// Whether an artifact without an index is this source's cannot be told without making the image: it can if the key
    /// or the method differ.
    async fn reconcile(
        &self,
        spec: &UploadSpec,
        identity: &str,
    ) -> Result<Option<Stored>, UploadError> {
        let artifact = self.artifact(identity).await?;
        if artifact.is_some_and(|artifact| artifact.key != spec.key) {
            return Err(UploadError::Taken { identity: identity.to_owned() });
        }
        Ok(None)
    }

    async fn artifact(&self, identity: &str) -> Result<Option<Artifact>, UploadError> {
        let path = self.store.artifact_path(self.root.id, identity);
        match self.store.get(&path, ARTIFACT_BYTES_MAX).await {
            Ok(bytes) => Ok(Some(Artifact::parse(&bytes)?)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn describe(&self, identity: &str, id: &Digest) -> Result<Stored, UploadError> {
        let path = self.store.manifest_path(self.root.id, id);
        let bytes = self.store.get(&path, MANIFEST_BYTES_MAX).await?;
        let manifest = Manifest::parse_named(&bytes, id)?;
        Ok(self.stored(identity, &manifest, *id))
    }

    fn stored(&self, identity: &str, manifest: &Manifest, id: Digest) -> Stored {
        let chunks = manifest.zeros().chunks();
        Stored {
            identity: identity.to_owned(),
            manifest: id,
            root: self.root.id,
            image_bytes: manifest.image_bytes(),
            chunks,
            zero_chunks: chunks - manifest.zeros().stored(),
            new_chunks: 0,
            stored_bytes: 0,
        }
    }

    /// Seals and stores an image: the first `image_bytes` of `image`.
    ///
    /// # Errors
    /// [`UploadError`]; what was stored until then stays, and is found by the next attempt.
    pub async fn upload(
        &self,
        spec: &UploadSpec,
        image: Arc<File>,
        image_bytes: u64,
        progress: &mut (dyn FnMut(UploadProgress) + Send),
    ) -> Result<Stored, UploadError> {
        if let Some(stored) = self.find(spec).await? {
            return Ok(stored);
        }
        let chunks = chunks_of(image_bytes).ok_or(UploadError::Size { bytes: image_bytes })?;
        let identity = identity(spec);
        let sealer = Arc::new(self.sealer(spec, &image, image_bytes).await?);
        let source = Source { image, image_bytes, chunks };
        let sealed = self.store_chunks(&source, &sealer, progress).await?;
        let (method, within) = (spec.method, (self.root.id, sealer.scope(&self.root)));
        let manifest = Manifest::new(method, image_bytes, within, sealed.zeros, sealed.names);
        let manifest = manifest.ok_or(UploadError::Size { bytes: image_bytes })?;
        let (bytes, id) = (manifest.encode(), manifest.id());
        let mut stored = self.stored(&identity, &manifest, id);
        stored.new_chunks = sealed.new_chunks;
        stored.stored_bytes = u64::from(sealed.new_chunks) * method.sealed_bytes() as u64;
        let path = self.store.manifest_path(self.root.id, &id);
        stored.stored_bytes += self.put(&path, bytes).await?;
        let keys = sealer.table_keys(sealed.keys);
        let table = KeyTable::new(&keys, &spec.config);
        stored.stored_bytes += self.store_artifact(spec, &identity, id, &table).await?;
        let entry = IndexEntry { manifest: id, identity: identity.clone() };
        self.put(&self.index_path(spec, &identity), entry.encode()).await?;
        if matches!(*sealer, Sealer::Whole(_)) {
            self.store.delete(&self.upload_path(spec, &identity)).await?;
        }
        Ok(stored)
    }

    async fn put(
        &self,
        path: &object_store::path::Path,
        bytes: Vec<u8>,
    ) -> Result<u64, UploadError> {
        let length = bytes.len() as u64;
        Ok(if self.store.put_new(path, Bytes::from(bytes)).await? { length } else { 0 })
    }

    /// Writes the artifact, or makes sure that the one that is there is of the same image.
    async fn store_artifact(
        &self,
        spec: &UploadSpec,
        identity: &str,
        manifest: Digest,
        table: &KeyTable,
    ) -> Result<u64, UploadError> {
        let context = Artifact::context(identity, self.root.id);
        let data_key = self.keys.generate(&spec.key, &context).await?;
        let wrapped = (spec.key.as_str(), data_key.wrapped.as_slice(), &data_key.plain);
        let artifact = Artifact::seal((identity, manifest), wrapped, table)?;
        let path = self.store.artifact_path(self.root.id, identity);
        let stored = self.put(&path, artifact.encode()).await?;
        if stored == 0 {
            let there = self.artifact(identity).await?;
            let same =
                there.is_some_and(|there| there.manifest == manifest && there.key == spec.key);
            if !same {
                return Err(UploadError::Taken { identity: identity.to_owned() });
            }
        }
        Ok(stored)
    }

    async fn sealer(
        &self,
        spec: &UploadSpec,
        image: &Arc<File>,
        image_bytes: u64,
    ) -> Result<Sealer, UploadError> {
        if spec.method == Method::Convergent {
            return Ok(Sealer::Convergent(self.root.salt(&*self.keys).await?));
        }
        let image = image.clone();
        let digest = tokio::task::spawn_blocking(move || digest_of(&image, image_bytes));
        let digest = digest.await.map_err(io::Error::other).and_then(|digest| digest);
        let digest = digest.map_err(UploadError::Image)?;
        let (random, scope) = self.upload_key(spec).await?;
        Ok(Sealer::Whole(ImageKey::derive(&random, scope, &digest)))
    }

    /// The data key of a service key's upload: the one of the upload that was interrupted, or a new one.
    async fn upload_key(&self, spec: &UploadSpec) -> Result<(Secret, ScopeId), UploadError> {
        let identity = identity(spec);
        let path = self.upload_path(spec, &identity);
        let mut context: Context = Artifact::context(&identity, self.root.id);
        context.insert("votive:upload".to_owned(), "chunks".to_owned());
        let mut scope = [0; 16];
        aws_lc_rs::rand::fill(&mut scope)
            .map_err(|_| KeyError::Secret(crate::seal::SecretError::NoEntropy))?;
        let new = self.keys.generate(&spec.key, &context).await?;
        let record = [scope.as_slice(), &new.wrapped].concat();
        if self.store.put_new(&path, Bytes::from(record)).await? {
            return Ok((new.plain, ScopeId(scope)));
        }
        let record = self.store.get(&path, 16 + WRAPPED_KEY_MAX).await?;
        let damaged = UploadError::Damaged { what: "record of an upload" };
        let (scope, wrapped) = record.split_first_chunk::<16>().ok_or(damaged)?;
        let random = self.keys.unwrap(&spec.key, wrapped, &context).await?;
        Ok((random, ScopeId(*scope)))
    }

    async fn store_chunks(
        &self,
        source: &Source,
        sealer: &Arc<Sealer>,
        progress: &mut (dyn FnMut(UploadProgress) + Send),
    ) -> Result<SealedChunks, UploadError> {
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut tasks = JoinSet::new();
        let mut found = vec![None; source.chunks as usize];
        let (mut next, mut done, mut new_chunks) = (0, 0, 0);
        while done < source.chunks {
            while next < source.chunks && tasks.len() < IN_FLIGHT {
                let (store, root) = (self.store.clone(), self.root.id);
                let work = (source.clone(), sealer.clone(), permits.clone());
                tasks.spawn(async move { store_chunk(&store, root, work, next).await });
                next += 1;
            }
            let Some(ended) = tasks.join_next().await else { break };
            let (index, chunk, new) =
                ended.map_err(|error| UploadError::Image(io::Error::other(error)))??;
            found[index as usize] = chunk;
            done += 1;
            new_chunks += u32::from(new);
            progress(UploadProgress { done, chunks: source.chunks, new_chunks });
        }
        let mut sealed = SealedChunks::new(source.chunks, new_chunks);
        for (index, chunk) in (0..).zip(found) {
            match chunk {
                Some((key, name)) => {
                    sealed.keys.extend(key);
                    sealed.names.push(name);
                }
                None => sealed.zeros.mark(index),
            }
        }
        Ok(sealed)
    }

    fn index_path(&self, spec: &UploadSpec, identity: &str) -> object_store::path::Path {
        let name = spec_digest(spec, identity.as_bytes()).to_string();
        self.store.root_path(self.root.id).join("index").join(name)
    }

    fn upload_path(&self, spec: &UploadSpec, identity: &str) -> object_store::path::Path {
        let name = spec_digest(spec, identity.as_bytes()).to_string();
        self.store.root_path(self.root.id).join("uploads").join(name)
    }
}

/// What is cut into chunks.
#[derive(Clone, Debug)]
struct Source {
    image: Arc<File>,
    image_bytes: u64,
    chunks: u32,
}

/// What all chunks came to, in order.
struct SealedChunks {
    zeros: ZeroMap,
    names: Vec<Digest>,
    keys: Vec<Secret>,
    new_chunks: u32,
}

impl SealedChunks {
    fn new(chunks: u32, new_chunks: u32) -> SealedChunks {
        SealedChunks { zeros: ZeroMap::new(chunks), names: vec![], keys: vec![], new_chunks }
    }
}

enum Sealer {
    Convergent(Salt),
    Whole(ImageKey),
}

impl Sealer {
    fn scope(&self, root: &Root) -> ScopeId {
        match self {
            Sealer::Convergent(_) => root.salt,
            Sealer::Whole(key) => key.scope(),
        }
    }

    fn table_keys(&self, each: Vec<Secret>) -> Vec<Secret> {
        match self {
            Sealer::Convergent(_) => each,
            Sealer::Whole(key) => vec![key.secret().clone()],
        }
    }

    /// Seals a chunk: its own key, if it has one, and its name.
    fn seal(&self, index: u32, chunk: &mut Vec<u8>) -> (Option<Secret>, Digest) {
        match self {
            Sealer::Convergent(salt) => {
                let chunk = chunk.as_mut_slice().try_into().expect("a chunk has its size");
                let (key, name) = salt.seal(chunk);
                (Some(key), name)
            }
            Sealer::Whole(key) => (None, key.seal(index, chunk)),
        }
    }
}

/// A chunk's key, if it has one of its own, and its name; none for one that is all zeros.
type SealedChunk = Option<(Option<Secret>, Digest)>;

async fn store_chunk(
    store: &Store,
    root: RootId,
    (source, sealer, permits): (Source, Arc<Sealer>, Arc<Semaphore>),
    index: u32,
) -> Result<(u32, SealedChunk, bool), UploadError> {
    let _permit = permits.acquire().await;
    let sealed = tokio::task::spawn_blocking(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        let array = chunk.as_mut_slice().try_into().expect("a chunk has its size");
        read_chunk(&source.image, source.image_bytes, index, array)?;
        if is_zero(&chunk) {
            return Ok(None);
        }
        let sealed = sealer.seal(index, &mut chunk);
        Ok(Some((sealed, chunk)))
    });
    let sealed: io::Result<_> = sealed.await.map_err(io::Error::other).and_then(|sealed| sealed);
    let Some(((key, name), bytes)) = sealed.map_err(UploadError::Image)? else {
        return Ok((index, None, false));
    };
    let path = store.chunk_path(root, &name);
    // Asking costs less than sending what is there; if it comes to be there in between, putting it changes nothing.
    let new = !store.exists(&path).await? && store.put_new(&path, Bytes::from(bytes)).await?;
    Ok((index, Some((key, name)), new))
}

fn check(spec: &UploadSpec) -> Result<(), UploadError> {
    let named = spec.identity.as_deref().is_none_or(is_name);
    let what = match () {
        () if !named => "the identity",
        () if !is_name(&spec.key) => "the key's name",
        () if spec.config.len() > CONFIG_BYTES_MAX => "the configuration",
        () => return Ok(()),
    };
    Err(UploadError::Spec { what })
}

/// The artifact's identity: the one that was given, or one that follows from what it is made of.
fn identity(spec: &UploadSpec) -> String {
    match &spec.identity {
        Some(identity) => identity.clone(),
        None => format!("artifact:{}", spec_digest(spec, b"")),
    }
}

/// What tells one artifact's making from another's.
fn spec_digest(spec: &UploadSpec, identity: &[u8]) -> Digest {
    let method = [spec.method.code()];
    let key = Digest::of(spec.key.as_bytes());
    let parts: [&[u8]; 5] =
        [b"votive index 1", &method, spec.source.as_bytes(), key.as_bytes(), identity];
    Digest::of_parts(&parts)
}

/// What the index has for a source: the artifact that was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) manifest: Digest,
    pub(crate) identity: String,
}

impl IndexEntry {
    fn encode(&self) -> Vec<u8> {
        format!("{} {}", self.manifest, self.identity).into_bytes()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<IndexEntry> {
        let (manifest, identity) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
        let manifest = manifest.parse().ok()?;
        is_name(identity).then(|| IndexEntry { manifest, identity: identity.to_owned() })
    }
}

fn digest_of(image: &File, image_bytes: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut piece = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < image_bytes {
        let length = usize::try_from(image_bytes - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        image.read_exact_at(&mut piece[..length], at)?;
        hasher.update(&piece[..length]);
        at += length as u64;
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests;
