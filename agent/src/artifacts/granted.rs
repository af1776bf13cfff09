//! Artifacts that were granted: opened for one environment, and renewed when their grants run out.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use votive_artifact::digest::Digest;
use votive_artifact::fetch::{FetchError, Loaded, Loader};
use votive_artifact::gate::GateError;
use votive_artifact::grant::{Grant, GrantError, Issuer, LIFETIME_MAX_S, Operations, SKEW_S};
use votive_artifact::manifest::RootId;

/// How long a chunk may take, however many wait for it: all attempts of the loader, each as long as a store may take, and the
/// turns before them. Readers have deadlines of their own.
const CHUNK_LIMIT: Duration = Duration::from_secs(180);

/// How long a grant may be waited for.
const GRANT_LIMIT: Duration = Duration::from_secs(10);

/// Which artifact, for ever: its identity alone could come to name another image one day.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArtifactName {
    /// What it is for.
    pub identity: String,
    /// Its manifest.
    pub manifest: Digest,
    /// The root that the manifest was sealed in.
    pub root: RootId,
}

/// What gives this worker its grants.
pub trait Granter: Send + Sync + fmt::Debug {
    /// A grant to load an artifact, signed, good from now on for some minutes.
    fn grant<'a>(&'a self, artifact: &'a ArtifactName) -> Granting<'a>;
}

/// A grant on its way.
pub type Granting<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, NotGranted>> + Send + 'a>>;

/// Why there is no grant.
#[derive(Debug, thiserror::Error)]
#[error("the artifact {identity} is not granted to this worker")]
pub struct NotGranted {
    /// The artifact.
    pub identity: String,
    /// Why not.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// Grants of a worker that is its own issuer: one machine is all there is, and who may run what was decided when the function
/// was registered.
#[derive(Debug)]
pub struct OwnGrants {
    issuer: Issuer,
    worker: String,
}

impl OwnGrants {
    /// Grants for the worker of this name.
    #[must_use]
    pub fn new(issuer: Issuer, worker: &str) -> OwnGrants {
        OwnGrants { issuer, worker: worker.to_owned() }
    }
}

impl Granter for OwnGrants {
    fn grant<'a>(&'a self, artifact: &'a ArtifactName) -> Granting<'a> {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let grant = Grant {
            worker: self.worker.clone(),
            identity: artifact.identity.clone(),
            manifest: artifact.manifest,
            root: artifact.root,
            // A clock that is set back a little meanwhile refuses nothing.
            not_before_s: now_s.saturating_sub(SKEW_S),
            expires_s: now_s.saturating_add(LIFETIME_MAX_S - SKEW_S),
            operations: Operations::LOAD,
        };
        let refused = || NotGranted {
            identity: artifact.identity.clone(),
            source: "the names of worker and artifact are none that a grant can have".into(),
        };
        let signed = self.issuer.sign(&grant).ok_or_else(refused);
        Box::pin(std::future::ready(signed))
    }
}

/// Why an artifact is not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nobody grants it.
    #[error(transparent)]
    Grant(#[from] NotGranted),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] FetchError),
    /// It has another manifest than the one that was granted.
    #[error("the artifact is not the one that was registered")]
    Other,
    /// There is no memory file or no socket to be had.
    #[error("the artifact's memory cannot be made")]
    Memory(#[source] std::io::Error),
    /// The worker is ending.
    #[error("the worker is ending")]
    Ended,
}

impl OpenError {
    /// The name of the exception that Lambda's API gives for it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            OpenError::Load(error) => error.code(),
            _ => "ServiceException",
        }
    }
}

/// An opened artifact, and what renews its grant.
#[derive(Debug)]
pub(super) struct Granted {
    name: ArtifactName,
    loaded: Arc<Loaded>,
    granter: Arc<dyn Granter>,
    /// How often the grant was renewed.
    renewals: Mutex<u64>,
}

impl Granted {
    /// Has the artifact granted and opens it.
    pub(super) async fn open(
        loader: &Loader,
        granter: Arc<dyn Granter>,
        name: &ArtifactName,
    ) -> Result<Granted, OpenError> {
        let grant = ask(&*granter, name).await?;
        let loaded = Arc::new(loader.open(&grant).await?);
        if loaded.manifest().id() != name.manifest || loaded.identity() != name.identity {
            return Err(OpenError::Other);
        }
        Ok(Granted { name: name.clone(), loaded, granter, renewals: Mutex::new(0) })
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// A chunk in the clear. A grant that ran out is renewed, which is the only time that a running environment needs one.
    pub(super) async fn chunk(
        &self,
        loader: &Loader,
        index: u32,
        buffer: Vec<u8>,
    ) -> Result<Vec<u8>, FetchError> {
        let seen = *self.renewals.lock().await;
        let chunk = loader.chunk(&self.loaded, index, buffer, CHUNK_LIMIT).await;
        match chunk {
            Err(error) if has_expired(&error) && self.renew(seen).await => {
                loader.chunk(&self.loaded, index, Vec::new(), CHUNK_LIMIT).await
            }
            chunk => chunk,
        }
    }

    /// Renews the grant, unless somebody did since it was renewed `seen` times. Whether there is a new one.
    async fn renew(&self, seen: u64) -> bool {
        let mut renewals = self.renewals.lock().await;
        if *renewals != seen {
            return true;
        }
        match ask(&*self.granter, &self.name).await {
            Ok(grant) => {
                self.loaded.renew(grant);
                *renewals = seen.wrapping_add(1);
                true
            }
            Err(error) => {
                let error = crate::causes::with_causes(&error);
                tracing::warn!(error, "an artifact's grant is not renewed: its absent chunks fail");
                false
            }
        }
    }
}

pub(super) async fn ask(granter: &dyn Granter, name: &ArtifactName) -> Result<Vec<u8>, NotGranted> {
    let late = |late: Elapsed| NotGranted { identity: name.identity.clone(), source: late.into() };
    timeout(GRANT_LIMIT, granter.grant(name)).await.map_err(late)?
}

fn has_expired(error: &FetchError) -> bool {
    match error {
        FetchError::Gate(GateError::Grant(error)) => *error == GrantError::Expired,
        FetchError::Shared(error) => has_expired(error),
        _ => false,
    }
}

/// Whether a grant was refused, which says nothing about those of others.
pub(super) fn is_refusal(error: &FetchError) -> bool {
    match error {
        FetchError::Gate(error) => matches!(error, GateError::Grant(_)),
        FetchError::Shared(error) => is_refusal(error),
        _ => false,
    }
}
