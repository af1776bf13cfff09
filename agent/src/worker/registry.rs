//! The function versions that a worker knows, each under an id that stands for all that it is.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::artifacts::ArtifactName;
use crate::function::{Container, Function, LATEST};
use crate::limits::{FUNCTION_VERSION_NAMES_MAX, FUNCTION_VERSIONS_MAX};
use crate::report::LogFormat;
use crate::worker::api::{FunctionVersionId, RegisterError};

#[cfg(test)]
mod tests;

/// A function version with its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its configuration, checked.
    pub function: Arc<Function>,
    /// SHA-256 of its code and layers.
    pub code_sha256: [u8; 32],
    /// How its log is written.
    pub log_format: LogFormat,
    /// The most environments of it at once; 0 for no limit of its own.
    pub concurrency_limit: u32,
    /// What its environments are made of.
    pub images: Arc<VersionImages>,
}

/// The images of a function version: read-only, shared by all of its environments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionImages {
    /// `/var/task`
    pub code: CodeImage,
    /// `/opt`, if there are layers.
    pub layers: Option<PathBuf>,
    /// Its process, if the code is a container image: it is the root then, and there is no runtime's.
    pub container: Option<Arc<Container>>,
}

/// Where an image of code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeImage {
    /// In a file of this host.
    File(PathBuf),
    /// In the worker's store; it comes while it is read.
    Artifact(ArtifactName),
}

impl Default for CodeImage {
    fn default() -> Self {
        Self::File(PathBuf::new())
    }
}

impl Version {
    /// The id of this content under this name. What an environment cannot see (how many there may be, where files lie) is
    /// not part of it.
    #[must_use]
    pub fn id(&self) -> FunctionVersionId {
        let spec = self.function.spec();
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            // With its length before it, no field can pass for the end of another and the beginning of the next.
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        field(b"votive function version 1");
        for text in [&spec.account, &spec.name, &spec.version, &spec.runtime, &spec.handler] {
            field(text.as_bytes());
        }
        for number in [spec.memory_mb, spec.timeout_s, spec.init_timeout_s, spec.scratch_mb] {
            field(&number.to_be_bytes());
        }
        field(&self.code_sha256);
        field(match self.log_format {
            LogFormat::Text => b"text",
            LogFormat::Json => b"json",
        });
        for (key, value) in &spec.environment {
            field(key.as_bytes());
            field(value.as_bytes());
        }
        if let Some(config) = &spec.container {
            field(b"container image");
            field(&config.digest());
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        FunctionVersionId(id)
    }
}

/// The function versions that are known.
#[derive(Debug, Default)]
pub struct Registry {
    versions: BTreeMap<FunctionVersionId, Version>,
    /// What a name stands for. A number keeps its meaning after its version was removed.
    names: HashMap<Name, FunctionVersionId>,
}

/// Account, function, version.
type Name = (String, String, String);

/// What a registration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The version's id.
    pub id: FunctionVersionId,
    /// The version that the name stood for before, which is known no longer.
    pub retired: Option<FunctionVersionId>,
}

impl Registry {
    /// Makes a version known. The same again changes its limit alone.
    ///
    /// # Errors
    /// [`RegisterError::Conflict`] if a number would get another meaning, [`RegisterError::TooMany`].
    pub fn register(&mut self, version: Version) -> Result<Registered, RegisterError> {
        let id = version.id();
        let spec = version.function.spec();
        let name = (spec.account.clone(), spec.name.clone(), spec.version.clone());
        let before = self.names.get(&name).copied();
        let is_latest = spec.version == LATEST;
        if before.is_some_and(|before| before != id) && !is_latest {
            return Err(RegisterError::Conflict { version: spec.version.clone() });
        }
        if !self.versions.contains_key(&id) && self.versions.len() >= FUNCTION_VERSIONS_MAX {
            return Err(RegisterError::TooMany { max: FUNCTION_VERSIONS_MAX });
        }
        if before.is_none() && self.names.len() >= FUNCTION_VERSION_NAMES_MAX {
            return Err(RegisterError::TooMany { max: FUNCTION_VERSION_NAMES_MAX });
        }
        self.names.insert(name, id);
        self.versions.insert(id, version);
        let retired = before.filter(|before| *before != id);
        let retired = retired.filter(|before| self.versions.remove(before).is_some());
        Ok(Registered { id, retired })
    }

    /// Forgets a version.
    pub fn remove(&mut self, id: FunctionVersionId) -> Option<Version> {
        let version = self.versions.remove(&id)?;
        let spec = version.function.spec();
        if spec.version == LATEST {
            self.names.remove(&(spec.account.clone(), spec.name.clone(), spec.version.clone()));
        }
        Some(version)
    }

    /// A version.
    #[must_use]
    pub fn get(&self, id: FunctionVersionId) -> Option<&Version> {
        self.versions.get(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (FunctionVersionId, &Version)> {
        self.versions.iter().map(|(id, version)| (*id, version))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }
}
