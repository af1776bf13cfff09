//! The store: chunks, manifests and artifacts as objects, in a local folder or wherever `object_store` reaches.
//!
//! ```text
//! roots/<root>/root                          salt id, wrapped salt; what makes it a root
//! roots/<root>/retired, expired              marks: a root's state is which of them are there
//! roots/<root>/alarms/<random>               someone read from the root after it had expired
//! roots/<root>/chunks/<2 digits>/<name>      ciphertext
//! roots/<root>/manifests/<id>
//! roots/<root>/artifacts/<digest of identity>
//! roots/<root>/reads/<manifest>              which chunks a start reads: a hint that nobody trusts
//! roots/<root>/index/<digest>                source, method and key -> the artifact that was made of it
//! roots/<root>/uploads/<digest>              the data key of an upload that is not finished
//! ```
//! An object is written once, whole, and never changed: every write is put-if-absent, and a crash leaves an object or none.

use std::fmt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use tokio_stream::StreamExt as _;

use crate::digest::Digest;
use crate::manifest::RootId;

pub mod root;
pub mod sweep;
pub mod upload;
pub mod verify;

/// How long one request may take, retries by the store's client included. A guest's read waits for it.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The most objects that a listing gives: more are a store that lies, or a root that no machine can delete in a day.
pub(crate) const LISTED_MAX: usize = 64 << 20;

/// The most bytes of a read list: its head, and index and pages of 512 chunks.
pub const READS_BYTES_MAX: usize = 8 + 20 * 512;

/// A store of artifacts.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where it is, if it is a folder.
    folder: Option<Arc<FilePath>>,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What names it is no store.
    #[error("{url} names no store: a folder, file:///folder{}", if cfg!(feature = "s3") { " or s3://bucket/prefix is expected" } else { " is expected" })]
    Url {
        /// What was given.
        url: String,
    },
    /// It cannot be opened.
    #[error("cannot open the store {url}")]
    Open {
        /// What was given.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such object.
    #[error("the store has no {path}")]
    NotFound {
        /// The object.
        path: Path,
    },
    /// An object has more bytes than any of its kind may have.
    #[error("{path} has more than {most} bytes")]
    TooLarge {
        /// The object.
        path: Path,
        /// What it may have.
        most: usize,
    },
    /// The store fails, or cannot be reached.
    #[error("the store fails at {path}")]
    Failed {
        /// The object.
        path: Path,
        /// Why.
        #[source]
        source: Box<object_store::Error>,
    },
    /// What killed writers have left cannot be found or removed.
    #[error("cannot remove what unfinished writes have left")]
    Sweep(#[source] std::io::Error),
    /// The store does not answer.
    #[error("the store does not answer about {path} within {} seconds", REQUEST_LIMIT.as_secs())]
    Slow {
        /// The object.
        path: Path,
    },
}

impl Store {
    /// The store that `url` names: a folder, `file:///folder`, or with the feature `s3` `s3://bucket/prefix`, whose endpoint and
    /// credentials come from the variables that AWS's tools read (`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, ...).
    ///
    /// # Errors
    /// [`StoreError::Url`], [`StoreError::Open`]
    pub fn open(url: &str) -> Result<Store, StoreError> {
        let open = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            url: url.to_owned(),
            source,
        };
        if let Some(bucket) = url.strip_prefix("s3://") {
            return Store::open_s3(url, bucket);
        }
        let folder = url.strip_prefix("file://").unwrap_or(url);
        if folder.is_empty() || folder.contains("://") {
            return Err(StoreError::Url { url: url.to_owned() });
        }
        std::fs::create_dir_all(FilePath::new(folder)).map_err(|error| open(error.into()))?;
        let objects = LocalFileSystem::new_with_prefix(folder);
        let objects = objects.map_err(|error| open(error.into()))?.with_fsync(true);
        let folder = Some(Arc::from(FilePath::new(folder)));
        Ok(Store { folder, ..Store::new(Arc::new(objects), Path::default()) })
    }

    #[cfg(feature = "s3")]
    fn open_s3(url: &str, bucket: &str) -> Result<Store, StoreError> {
        let (bucket, prefix) = bucket.split_once('/').unwrap_or((bucket, ""));
        let open = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open {
            url: url.to_owned(),
            source,
        };
        let builder = object_store::aws::AmazonS3Builder::from_env().with_bucket_name(bucket);
        let objects = builder.build().map_err(|error| open(error.into()))?;
        let prefix = Path::parse(prefix).map_err(|error| open(error.into()))?;
        Ok(Store::new(Arc::new(objects), prefix))
    }

    #[cfg(not(feature = "s3"))]
    fn open_s3(url: &str, _bucket: &str) -> Result<Store, StoreError> {
        Err(StoreError::Url { url: url.to_owned() })
    }

    /// The store whose objects are in `objects` below `prefix`.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: Path) -> Store {
        Store { objects, prefix, folder: None }
    }

    /// Where a root's objects are.
    #[must_use]
    pub(crate) fn root_path(&self, root: RootId) -> Path {
        self.roots_path().join(root.to_string())
    }

    /// Where the roots are.
    pub(crate) fn roots_path(&self) -> Path {
        self.prefix.clone().join("roots")
    }

    /// Where a chunk is.
    #[must_use]
    pub fn chunk_path(&self, root: RootId, name: &Digest) -> Path {
        let name = name.to_string();
        self.root_path(root).join("chunks").join(&name[..2]).join(name.as_str())
    }

    /// Where a manifest is.
    #[must_use]
    pub fn manifest_path(&self, root: RootId, id: &Digest) -> Path {
        self.root_path(root).join("manifests").join(id.to_string())
    }

    /// Where an artifact is.
    #[must_use]
    pub fn artifact_path(&self, root: RootId, identity: &str) -> Path {
        self.root_path(root).join("artifacts").join(Digest::of(identity.as_bytes()).to_string())
    }

    /// Where the read list of a manifest is.
    #[must_use]
    pub fn reads_path(&self, root: RootId, manifest: &Digest) -> Path {
        self.root_path(root).join("reads").join(manifest.to_string())
    }

    /// Writes an object unless it is there; whether it was not. What is there stays as it is, and whole.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn put_new(&self, path: &Path, bytes: Bytes) -> Result<bool, StoreError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.objects.put_opts(path, bytes.into(), options);
        match limited(path, put).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            // How S3 says it in some cases, and servers that speak its protocol in others.
            Err(object_store::Error::Precondition { .. }) => Ok(false),
            Err(source) => Err(failed(path, source)),
        }
    }

    /// Whether an object is there.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn exists(&self, path: &Path) -> Result<bool, StoreError> {
        match limited(path, self.objects.head(path)).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(failed(path, source)),
        }
    }

    /// Reads an object of at most `most` bytes, whatever the store says and sends.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn get(&self, path: &Path, most: usize) -> Result<Bytes, StoreError> {
        limited(path, self.get_unlimited(path, most)).await?
    }

    async fn get_unlimited(&self, path: &Path, most: usize) -> Result<Bytes, StoreError> {
        let too_large = || StoreError::TooLarge { path: path.clone(), most };
        let found = match self.objects.get_opts(path, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(StoreError::NotFound { path: path.clone() });
            }
            Err(source) => return Err(failed(path, source)),
        };
        let size = usize::try_from(found.meta.size).ok().filter(|size| *size <= most);
        let size = size.ok_or_else(too_large)?;
        let mut stream = found.into_stream();
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|source| failed(path, source))?;
            if piece.len() > most - bytes.len() {
                return Err(too_large());
            }
            // A file comes in one piece, and is not copied.
            if bytes.is_empty() && piece.len() == size {
                bytes = BytesMut::from(piece);
                continue;
            }
            bytes.reserve(size.saturating_sub(bytes.len()).max(piece.len()));
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The objects below `path`: their paths and sizes, at most 64 million.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn list(&self, path: &Path) -> Result<Vec<(Path, u64)>, StoreError> {
        let mut stream = self.objects.list(Some(path)).take(LISTED_MAX);
        let mut found = Vec::new();
        while let Some(meta) = limited(path, stream.next()).await? {
            let meta = meta.map_err(|source| failed(path, source))?;
            found.push((meta.location, meta.size));
        }
        Ok(found)
    }

    /// The names right below `path` that have objects below them.
    pub(crate) async fn folders(&self, path: &Path) -> Result<Vec<String>, StoreError> {
        let listed = limited(path, self.objects.list_with_delimiter(Some(path))).await?;
        let listed = listed.map_err(|source| failed(path, source))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(listed.common_prefixes.iter().filter_map(name).collect())
    }

    /// Removes an object; one that is not there is removed.
    pub(crate) async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match limited(path, self.objects.delete(path)).await? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed(path, source)),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} {})", self.objects, self.prefix)
    }
}

async fn limited<T>(path: &Path, request: impl Future<Output = T>) -> Result<T, StoreError> {
    let limited = tokio::time::timeout(REQUEST_LIMIT, request).await;
    limited.map_err(|_| StoreError::Slow { path: path.clone() })
}

fn failed(path: &Path, source: object_store::Error) -> StoreError {
    StoreError::Failed { path: path.clone(), source: Box::new(source) }
}

#[cfg(test)]
mod tests;
