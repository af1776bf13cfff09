//! Which key service is meant: what `--keys` and the configuration's `keys` say.

use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "kms")]
use crate::keys::{AwsKms, KmsSpec};
use crate::keys::{Embedded, KeyError, KeyService};

/// A key service, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysSpec {
    /// The embedded one: a folder, or `file:` and a folder.
    Folder(PathBuf),
    /// AWS KMS's API: `awskms:[//HOST[:PORT]/]KEY[,KEY...][?region=REGION]`.
    #[cfg(feature = "kms")]
    AwsKms(KmsSpec),
}

/// Why there is no key service.
#[derive(Debug, thiserror::Error)]
pub enum OpenKeysError {
    /// What names it names none.
    #[error("{spec} names no key service: {reason}")]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder has no key service.
    #[error("there is no key service in {}", folder.display())]
    NoService {
        /// The folder.
        folder: PathBuf,
    },
    /// The key service cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The client of a key service elsewhere cannot be made.
    #[error("the key service {spec} cannot be asked")]
    Client {
        /// What was given.
        spec: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl KeysSpec {
    /// Reads what names a key service.
    ///
    /// # Errors
    /// [`OpenKeysError::Spec`]
    pub fn parse(spec: &str) -> Result<KeysSpec, OpenKeysError> {
        let wrong = |reason| OpenKeysError::Spec { spec: spec.to_owned(), reason };
        if let Some(rest) = spec.strip_prefix("awskms:") {
            #[cfg(feature = "kms")]
            return KmsSpec::parse(rest).map(KeysSpec::AwsKms).map_err(wrong);
            #[cfg(not(feature = "kms"))]
            return Err(wrong(if rest.is_empty() {
                "it has no key"
            } else {
                "this program is built without AWS KMS"
            }));
        }
        let folder = match spec.strip_prefix("file:") {
            Some(path) => path.strip_prefix("//").unwrap_or(path),
            None => spec,
        };
        if folder.is_empty() || folder.contains("://") {
            return Err(wrong("a folder, file:FOLDER or awskms:KEY is expected"));
        }
        Ok(KeysSpec::Folder(folder.into()))
    }

    /// Opens the key service. Nobody is asked for a key yet.
    ///
    /// # Errors
    /// [`OpenKeysError`]
    pub fn open(self) -> Result<Arc<dyn KeyService>, OpenKeysError> {
        match self {
            KeysSpec::Folder(folder) => {
                if !Embedded::is_in(&folder) {
                    return Err(OpenKeysError::NoService { folder });
                }
                Ok(Arc::new(Embedded::open(&folder)?))
            }
            #[cfg(feature = "kms")]
            KeysSpec::AwsKms(spec) => Ok(Arc::new(AwsKms::open(spec)?)),
        }
    }
}

/// Opens the key service that `spec` names: a folder (or `file:FOLDER`) of the embedded one, or with the feature `kms`
/// `awskms:[//HOST[:PORT]/]KEY[,KEY...][?region=REGION]` for AWS KMS's API.
///
/// # Errors
/// [`OpenKeysError`]
pub fn open(spec: &str) -> Result<Arc<dyn KeyService>, OpenKeysError> {
    KeysSpec::parse(spec)?.open()
}

#[cfg(test)]
mod tests;
