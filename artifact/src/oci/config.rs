//! What a container image says about how it is run.

use super::document::Execution;
use super::limits::{CONFIG_BYTES, CONFIG_STRINGS};
use crate::archive::shown;

/// How a container image is run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        let all = [
            ("ENTRYPOINT", &entrypoint[..]),
            ("CMD", &command),
            ("ENV", &variables),
            ("WORKDIR", std::slice::from_ref(&working_folder)),
            ("USER", std::slice::from_ref(&user)),
        ];
        let strings = || all.iter().flat_map(|(_, strings)| strings.iter());
        let bytes: usize = strings().map(String::len).sum();
        if bytes > CONFIG_BYTES || strings().count() > CONFIG_STRINGS {
            return Err(ConfigError::TooLarge);
        }
        for (field, strings) in all {
            if strings.iter().any(|string| string.contains('\0')) {
                return Err(ConfigError::Nul { field });
            }
        }
        if !working_folder.starts_with('/') {
            return Err(ConfigError::WorkingFolder { text: shown(working_folder.as_bytes()) });
        }
        let environment = variables.iter().map(|text| variable(text)).collect::<Result<_, _>>()?;
        Ok(ContainerConfig { entrypoint, command, environment, working_folder, user })
    }
}

fn variable(text: &str) -> Result<(String, String), ConfigError> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(ConfigError::Variable { text: shown(text.as_bytes()) }),
    }
}
