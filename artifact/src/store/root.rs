//! Roots: namespaces of chunks that are opened, retired, and one day deleted as a whole.
//!
//! ```text
//! active ──retire──> retired ──expire──> expired ──delete──> gone
//!  writes, reads      reads               a read is an alarm, and an alarm stops the deletion
//! ```
//! A state is which marks are there, and a mark is never taken away: no two processes can disagree about a state for longer
//! than it takes to read it, and nothing is torn.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use bytes::Bytes;

use crate::keys::{Context, KeyError, KeyService};
use crate::limits::{NAME_TEXT_MAX, WRAPPED_KEY_MAX};
use crate::manifest::{RootId, ScopeId};
use crate::seal::{Salt, SecretError, is_name};
use crate::store::{Store, StoreError};

/// What a root's record begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"votiveR\x01";

/// Bytes before the key's name.
const HEAD_BYTES: usize = 28;

/// The most bytes of a root's record.
const RECORD_BYTES_MAX: usize = HEAD_BYTES + NAME_TEXT_MAX + WRAPPED_KEY_MAX;

/// The most roots that a store may have: they are opened every few weeks and deleted some months later.
const ROOTS_MAX: usize = 10_000;

/// Where a root is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootState {
    /// New artifacts go there.
    Active,
    /// What is there is read, and nothing is added but lists of what starts read.
    Retired,
    /// Nothing should be read there any more: a read is an alarm.
    Expired,
}

/// A root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its id.
    pub id: RootId,
    /// Where it is in its life.
    pub state: RootState,
    /// Its salt's id.
    pub salt: ScopeId,
    /// Which key of the key service wraps the salt.
    pub key: String,
    wrapped: Vec<u8>,
}

/// Why there is no root to work with.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key service refused, or failed.
    #[error("{}: the root's salt cannot be used", .0.code())]
    Key(#[from] KeyError),
    /// A root's record is no such.
    #[error("the record of root {root} cannot be read")]
    Record {
        /// The root.
        root: RootId,
    },
    /// There are more roots than any store should have.
    #[error("the store has more than {ROOTS_MAX} roots")]
    TooMany,
}

impl Root {
    /// Opens a new root, whose salt is wrapped with this key.
    ///
    /// # Errors
    /// [`RootError`]
    pub async fn open_new(
        store: &Store,
        keys: &dyn KeyService,
        key: &str,
    ) -> Result<Root, RootError> {
        let (mut id, mut salt) = ([0; 16], [0; 16]);
        let no_entropy = |_| KeyError::Secret(SecretError::NoEntropy);
        rand::fill(&mut id[6..]).map_err(no_entropy)?;
        rand::fill(&mut salt).map_err(no_entropy)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        id[..6].copy_from_slice(&now.to_be_bytes()[2..]);
        let (id, salt) = (RootId(id), ScopeId(salt));
        let data_key = keys.generate(key, &context(id, salt)).await?;
        let key = key.to_owned();
        let root = Root { id, state: RootState::Active, salt, key, wrapped: data_key.wrapped };
        store.put_new(&store.root_path(id).join("root"), Bytes::from(root.encode())).await?;
        Ok(root)
    }

    /// The youngest active root, if there is one.
    ///
    /// # Errors
    /// [`RootError`]
    pub async fn active(store: &Store) -> Result<Option<Root>, RootError> {
        for id in Root::ids(store).await?.into_iter().rev() {
            match Root::read(store, id).await? {
                Some(root) if root.state == RootState::Active => return Ok(Some(root)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// All roots, the oldest first. A root whose deletion is under way may lack its record, and is left out.
    ///
    /// # Errors
    /// [`RootError`]
    pub async fn all(store: &Store) -> Result<Vec<Root>, RootError> {
        let mut roots = Vec::new();
        for id in Root::ids(store).await? {
            roots.extend(Root::read(store, id).await?);
        }
        Ok(roots)
    }

    /// The ids of all roots, of those as well whose deletion was interrupted.
    pub(crate) async fn ids(store: &Store) -> Result<Vec<RootId>, RootError> {
        let folders = store.folders(&store.roots_path()).await?;
        let mut ids: Vec<RootId> = folders.iter().filter_map(|name| name.parse().ok()).collect();
        if ids.len() > ROOTS_MAX {
            return Err(RootError::TooMany);
        }
        ids.sort();
        Ok(ids)
    }

    /// The root with this id, if there is one.
    ///
    /// # Errors
    /// [`RootError`]
    pub async fn read(store: &Store, id: RootId) -> Result<Option<Root>, RootError> {
        let path = store.root_path(id);
        let record = match store.get(&path.clone().join("root"), RECORD_BYTES_MAX).await {
            Ok(record) => record,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let state = Root::state(store, id).await?;
        Root::parse(id, state, &record).map(Some).ok_or(RootError::Record { root: id })
    }

    /// A root's state now.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn state(store: &Store, id: RootId) -> Result<RootState, StoreError> {
        let path = store.root_path(id);
        // In the order of life: a mark that comes between the two questions is seen the next time.
        if store.exists(&path.clone().join("expired")).await? {
            return Ok(RootState::Expired);
        }
        let retired = store.exists(&path.join("retired")).await?;
        Ok(if retired { RootState::Retired } else { RootState::Active })
    }

    /// The root's salt.
    ///
    /// # Errors
    /// [`RootError::Key`]
    pub async fn salt(&self, keys: &dyn KeyService) -> Result<Salt, RootError> {
        let context = context(self.id, self.salt);
        Ok(Salt::new(keys.unwrap(&self.key, &self.wrapped, &context).await?))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend(self.salt.0);
        for length in [self.key.len(), self.wrapped.len()] {
            bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        }
        bytes.extend(self.key.as_bytes());
        bytes.extend(&self.wrapped);
        bytes
    }

    pub(crate) fn parse(id: RootId, state: RootState, bytes: &[u8]) -> Option<Root> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (salt, rest) = rest.split_first_chunk::<16>()?;
        let (key, rest) = rest.split_first_chunk::<2>()?;
        let (wrapped, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*key) as usize)?;
        let key = std::str::from_utf8(key).ok().filter(|key| is_name(key))?.to_owned();
        let length = u16::from_le_bytes(*wrapped) as usize;
        let sane =
            *magic == MAGIC && rest.len() == length && (1..=WRAPPED_KEY_MAX).contains(&length);
        let (salt, wrapped) = (ScopeId(*salt), rest.to_vec());
        sane.then_some(Root { id, state, salt, key, wrapped })
    }
}

/// What a salt is wrapped for.
fn context(root: RootId, salt: ScopeId) -> Context {
    let pairs = [("votive:root", root.to_string()), ("votive:salt", salt.to_string())];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
