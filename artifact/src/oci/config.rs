//! What a container image says about how it is run.

use serde::{Deserialize, Serialize};

use super::document::Execution;
use super::limits::{CONFIG_BYTES, CONFIG_STRINGS};
use crate::archive::shown;
use crate::limits::CONFIG_BYTES_MAX;

/// How a container image is run. [`ContainerConfig::encode`] writes it as it is sealed with the image: an artifact whose config is
/// not empty is a container image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerConfig {
    /// `ENTRYPOINT`; empty if there is none.
    pub entrypoint: Vec<String>,
    /// `CMD`: arguments of the entry point, or the command if there is none.
    pub command: Vec<String>,
    /// `ENV`: names and values, in the order of the image. No name holds `=` or is empty.
    pub environment: Vec<(String, String)>,
    /// `WORKDIR`: an absolute path.
    pub working_folder: String,
    /// `USER`: `user`, `user:group`, both names or numbers; empty if the image says nothing.
    pub user: String,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// More strings, or longer ones, than are taken.
    #[error(
        "ENTRYPOINT, CMD, ENV, WORKDIR and USER are more than {CONFIG_STRINGS} strings or {CONFIG_BYTES} bytes"
    )]
    TooLarge,
    /// A NUL byte, which no program can be given.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// Which one.
        field: &'static str,
    },
    /// A variable without a name.
    #[error("ENV holds {text:?}, which is not NAME=VALUE")]
    Variable {
        /// What it holds.
        text: String,
    },
    /// A folder that is none.
    #[error("WORKDIR {text:?} is no absolute path")]
    WorkingFolder {
        /// What it is.
        text: String,
    },
    /// What was sealed with an image is not what [`ContainerConfig::encode`] writes.
    #[error("what is sealed with the image is no configuration of a container image")]
    Malformed,
}

impl ContainerConfig {
    /// Checks what an image says.
    pub(super) fn new(execution: Execution) -> Result<ContainerConfig, ConfigError> {
        let entrypoint = execution.entrypoint.unwrap_or_default();
        let command = execution.cmd.unwrap_or_default();
        let variables = execution.env.unwrap_or_default();
        let working_folder =
            execution.working_dir.filter(|text| !text.is_empty()).unwrap_or_else(|| "/".to_owned());
        let user = execution.user.unwrap_or_default();
        let variable = |text: &String| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(ConfigError::Variable { text: shown(text.as_bytes()) }),
        };
        let environment = variables.iter().map(variable).collect::<Result<_, _>>()?;
        ContainerConfig { entrypoint, command, environment, working_folder, user }.checked()
    }

    /// Reads what [`ContainerConfig::encode`] wrote, and nothing else: there is one way to write each configuration.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn parse(bytes: &[u8]) -> Result<ContainerConfig, ConfigError> {
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(ConfigError::TooLarge);
        }
        let config: ContainerConfig =
            serde_json::from_slice(bytes).map_err(|_| ConfigError::Malformed)?;
        let config = config.checked()?;
        if config.encode() == bytes { Ok(config) } else { Err(ConfigError::Malformed) }
    }

    /// The configuration as JSON, at most 64 KiB of it if it came from an image.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings can be written as JSON")
    }

    /// Compares it with what is allowed.
    fn checked(self) -> Result<ContainerConfig, ConfigError> {
        let all = [
            ("ENTRYPOINT", self.entrypoint.iter().collect::<Vec<_>>()),
            ("CMD", self.command.iter().collect()),
            ("ENV", self.environment.iter().flat_map(|(name, value)| [name, value]).collect()),
            ("WORKDIR", vec![&self.working_folder]),
            ("USER", vec![&self.user]),
        ];
        let strings = || all.iter().flat_map(|(_, strings)| strings.iter());
        // A variable is one string, with a byte between its name and its value.
        let variables = self.environment.len();
        let bytes = strings().map(|string| string.len()).sum::<usize>() + variables;
        if bytes > CONFIG_BYTES || strings().count() - variables > CONFIG_STRINGS {
            return Err(ConfigError::TooLarge);
        }
        for (field, strings) in &all {
            if strings.iter().any(|string| string.contains('\0')) {
                return Err(ConfigError::Nul { field });
            }
        }
        if !self.working_folder.starts_with('/') {
            return Err(ConfigError::WorkingFolder { text: shown(self.working_folder.as_bytes()) });
        }
        for (name, value) in &self.environment {
            if name.is_empty() || name.contains('=') {
                let text = format!("{name}={value}");
                return Err(ConfigError::Variable { text: shown(text.as_bytes()) });
            }
        }
        // Bytes that JSON writes as six may take it over what an artifact holds.
        if self.encode().len() > CONFIG_BYTES_MAX { Err(ConfigError::TooLarge) } else { Ok(self) }
    }
}

#[cfg(test)]
mod tests;
