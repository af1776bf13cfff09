//! Garbage collection by roots: nothing is counted, and nothing is deleted but a whole root that nobody reads.
//!
//! What is still needed is copied from a retired root to the active one, as it is and without a key; then the root expires. From
//! then on a read in it is a mistake of whoever decided what is needed, and raises an alarm; while there is an alarm, nothing is
//! deleted. An operator who has copied what was missing clears it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use bytes::Bytes;
use object_store::path::Path;

use crate::gate::STATE_AGE_MAX;
use crate::keys::{KeyError, KeyService};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, RootId};
use crate::seal::{ARTIFACT_BYTES_MAX, Artifact, ArtifactError, SecretError};
use crate::store::root::{Root, RootError, RootState};
use crate::store::upload::{INDEX_BYTES_MAX, IndexEntry};
use crate::store::{READS_BYTES_MAX, Store, StoreError};

/// How long a root stays after it expired at the least: until each reader has asked for its state again, and a day for someone to see
/// the alarm.
pub const EXPIRED_FOR_MIN: Duration = Duration::from_secs(24 * 3600);

/// Deletions between two looks at the alarms.
const DELETED_BETWEEN_LOOKS: usize = 64;

/// Why garbage is not collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The roots cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// There is no such root.
    #[error("there is no root {root}")]
    NoRoot {
        /// The root.
        root: RootId,
    },
    /// The root is not where this could follow.
    #[error("root {root} is {}, not {}", name(*.is), name(*.needed))]
    State {
        /// The root.
        root: RootId,
        /// Where it is in its life.
        is: RootState,
        /// Where it has to be.
        needed: RootState,
    },
    /// Somebody read from the root after it had expired.
    #[error(
        "root {root} was read from after it had expired ({alarms} alarms): nothing was deleted from then on"
    )]
    Alarm {
        /// The root.
        root: RootId,
        /// How many alarms there are.
        alarms: usize,
    },
    /// The root has not been expired for long enough.
    #[error("root {root} has not been expired for {} s", EXPIRED_FOR_MIN.as_secs())]
    Early {
        /// The root.
        root: RootId,
    },
    /// Something that is needed is in no root.
    #[error("no root has the artifact {identity}")]
    NoArtifact {
        /// The artifact.
        identity: String,
    },
    /// An artifact is damaged.
    #[error("an artifact in the store is damaged")]
    Artifact(#[from] ArtifactError),
    /// A manifest is damaged.
    #[error("a manifest in the store is damaged")]
    Manifest(#[from] ManifestError),
}

/// What a deletion took, or would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Collected {
    fn add(&mut self, more: Collected) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

/// A root's state in words.
#[must_use]
pub fn name(state: RootState) -> &'static str {
    match state {
        RootState::Active => "active",
        RootState::Retired => "retired",
        RootState::Expired => "expired",
    }
}

/// Records that somebody did with an expired root what nobody should.
pub(crate) async fn alarm(store: &Store, root: RootId, what: &str) -> Result<(), RootError> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| KeyError::Secret(SecretError::NoEntropy))?;
    let path = alarms(store, root).join(RootId(id).to_string());
    let text = format!("{what} at {}\n", now_s());
    store.put_new(&path, Bytes::from(text)).await?;
    Ok(())
}

/// How many alarms a root has.
///
/// # Errors
/// [`StoreError`]
pub async fn alarm_count(store: &Store, root: RootId) -> Result<usize, StoreError> {
    Ok(store.list(&alarms(store, root)).await?.len())
}

/// Takes the alarms of a root away, after what was missing was copied.
///
/// # Errors
/// [`GcError`]
pub async fn clear_alarms(store: &Store, root: RootId) -> Result<usize, GcError> {
    let listed = store.list(&alarms(store, root)).await?;
    for (path, _) in &listed {
        store.delete(path).await?;
    }
    Ok(listed.len())
}

/// Opens a new root, which takes what comes from now on, and retires all others.
///
/// # Errors
/// [`GcError`]
pub async fn rotate(store: &Store, keys: &dyn KeyService, key: &str) -> Result<Root, GcError> {
    let root = Root::open_new(store, keys, key).await?;
    for other in Root::all(store).await? {
        if other.id != root.id && other.state == RootState::Active {
            mark(store, other.id, "retired").await?;
        }
    }
    Ok(root)
}

/// Copies what these artifacts are made of from other roots to the active one: ciphertext, manifests and artifacts as they are. What is
/// copied.
///
/// # Errors
/// [`GcError`]; what was copied until then stays.
pub async fn migrate(
    store: &Store,
    identities: &BTreeSet<String>,
    dry_run: bool,
) -> Result<Collected, GcError> {
    let roots = Root::all(store).await?;
    let active = roots.iter().rev().find(|root| root.state == RootState::Active);
    let Some(active) = active.map(|root| root.id) else { return Ok(Collected::default()) };
    let mut copied = Collected::default();
    let mut moved: BTreeMap<RootId, BTreeSet<&str>> = BTreeMap::new();
    for identity in identities {
        let mut found = None;
        for root in roots.iter().rev() {
            let path = store.artifact_path(root.id, identity);
            if store.exists(&path).await? {
                found = Some(root.id);
                break;
            }
        }
        let from = found.ok_or_else(|| GcError::NoArtifact { identity: identity.clone() })?;
        if from != active {
            copied.add(copy_artifact(store, (from, active), identity, dry_run).await?);
            moved.entry(from).or_default().insert(identity.as_str());
        }
    }
    for (from, identities) in moved {
        copied.add(copy_index(store, (from, active), &identities, dry_run).await?);
    }
    Ok(copied)
}

/// Copies what the index has about artifacts, so that they are not made anew.
async fn copy_index(
    store: &Store,
    (from, to): (RootId, RootId),
    identities: &BTreeSet<&str>,
    dry_run: bool,
) -> Result<Collected, GcError> {
    let mut copied = Collected::default();
    for (path, _) in store.list(&store.root_path(from).join("index")).await? {
        let bytes = store.get(&path, INDEX_BYTES_MAX).await?;
        let entry = IndexEntry::parse(&bytes);
        let wanted = entry.is_some_and(|entry| identities.contains(entry.identity.as_str()));
        let (true, Some(name)) = (wanted, path.filename()) else { continue };
        copied.add(Collected { objects: 1, bytes: bytes.len() as u64 });
        if !dry_run {
            store.put_new(&store.root_path(to).join("index").join(name), bytes).await?;
        }
    }
    Ok(copied)
}

/// Copies in the order in which an upload writes: whoever finds the artifact finds all of it.
async fn copy_artifact(
    store: &Store,
    (from, to): (RootId, RootId),
    identity: &str,
    dry_run: bool,
) -> Result<Collected, GcError> {
    let record = store.get(&store.artifact_path(from, identity), ARTIFACT_BYTES_MAX).await?;
    let artifact = Artifact::parse(&record)?;
    let path = store.manifest_path(from, &artifact.manifest);
    let bytes = store.get(&path, MANIFEST_BYTES_MAX).await?;
    let manifest = Manifest::parse_named(&bytes, &artifact.manifest)?;
    let mut copied = Collected::default();
    let names: BTreeSet<_> = manifest.names().iter().copied().collect();
    let most = manifest.method().sealed_bytes();
    for name in names {
        let to = store.chunk_path(to, &name);
        if store.exists(&to).await? {
            continue;
        }
        if !dry_run {
            let chunk = store.get(&store.chunk_path(from, &name), most).await?;
            store.put_new(&to, chunk).await?;
        }
        copied.objects += 1;
        copied.bytes += most as u64;
    }
    let mut small = vec![
        (store.manifest_path(to, &artifact.manifest), bytes),
        (store.artifact_path(to, identity), record),
    ];
    let reads = store.reads_path(to, &artifact.manifest);
    match store.get(&store.reads_path(from, &artifact.manifest), READS_BYTES_MAX).await {
        Ok(list) if !store.exists(&reads).await? => small.insert(0, (reads, list)),
        // It is a hint: without one, or with one that is none, nothing is missing.
        Ok(_) | Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    for (path, bytes) in small {
        copied.objects += 1;
        copied.bytes += bytes.len() as u64;
        if !dry_run {
            store.put_new(&path, bytes).await?;
        }
    }
    Ok(copied)
}

/// Says of a retired root that nothing in it is needed any more.
///
/// # Errors
/// [`GcError`]
pub async fn expire(store: &Store, root: RootId) -> Result<(), GcError> {
    require(store, root, RootState::Retired).await?;
    mark(store, root, "expired").await
}

/// Deletes a root that has been expired for `expired_for`, unless somebody has read from it since; with `dry_run`, says what
/// that would be. An interrupted deletion is gone on with by the next one.
///
/// # Errors
/// [`GcError`]; an alarm stops it wherever it is.
pub async fn delete(
    store: &Store,
    root: RootId,
    expired_for: Duration,
    dry_run: bool,
) -> Result<Collected, GcError> {
    require(store, root, RootState::Expired).await?;
    let path = store.root_path(root);
    let since = store.get(&path.clone().join("expired"), 32).await?;
    let since = std::str::from_utf8(&since).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let age = now_s().saturating_sub(since.unwrap_or(u64::MAX));
    if Duration::from_secs(age) < expired_for.max(STATE_AGE_MAX) && !dry_run {
        return Err(GcError::Early { root });
    }
    look(store, root).await?;
    let mut listed = store.list(&path).await?;
    // Artifacts first: whatever is found at any moment is whole. What makes it a root that expired comes last of all.
    listed.sort_by_key(|(object, _)| order(object, &path));
    let mut collected = Collected::default();
    for (i, (object, bytes)) in listed.iter().enumerate() {
        if i % DELETED_BETWEEN_LOOKS == 0 {
            look(store, root).await?;
        }
        if !dry_run {
            store.delete(object).await?;
        }
        collected.objects += 1;
        collected.bytes += bytes;
    }
    Ok(collected)
}

/// When an object of a root is deleted.
fn order(object: &Path, root: &Path) -> u8 {
    let mut parts = object.prefix_match(root).into_iter().flatten();
    let first = parts.next();
    match first.as_ref().map(AsRef::as_ref) {
        Some("index" | "uploads") => 0,
        Some("artifacts") => 1,
        Some("manifests") => 2,
        Some("root") => 4,
        Some("retired") => 5,
        Some("expired") => 6,
        _ => 3,
    }
}

async fn look(store: &Store, root: RootId) -> Result<(), GcError> {
    match alarm_count(store, root).await? {
        0 => Ok(()),
        alarms => Err(GcError::Alarm { root, alarms }),
    }
}

async fn require(store: &Store, root: RootId, needed: RootState) -> Result<(), GcError> {
    if !Root::ids(store).await?.contains(&root) {
        return Err(GcError::NoRoot { root });
    }
    let is = Root::state(store, root).await?;
    if is != needed {
        return Err(GcError::State { root, is, needed });
    }
    Ok(())
}

async fn mark(store: &Store, root: RootId, mark: &str) -> Result<(), GcError> {
    let path = store.root_path(root).join(mark);
    store.put_new(&path, Bytes::from(format!("{}\n", now_s()))).await?;
    Ok(())
}

fn alarms(store: &Store, root: RootId) -> Path {
    store.root_path(root).join("alarms")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
