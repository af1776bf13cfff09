//! Functions that are container images: what their owners override, and what their process is then given.

use std::fmt;

use sha2::{Digest, Sha256};
use votive_artifact::oci::ContainerConfig;
use votive_protocol::limits::{ARGUMENTS_MAX, ENVIRONMENT_MAX, STRING_MAX};

use super::{Function, FunctionError};

#[cfg(test)]
mod tests;

/// What a function's owner overrides of its image, as AWS Lambda's `ImageConfig`: what is empty is the image's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Instead of `ENTRYPOINT`. `CMD` stays.
    pub entry_point: Vec<String>,
    /// Instead of `CMD`.
    pub command: Vec<String>,
    /// Instead of `WORKDIR`.
    pub working_directory: String,
}

impl ImageConfig {
    /// Whether it overrides nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what needs no image.
    pub(super) fn check(&self) -> Result<(), FunctionError> {
        for (field, texts) in [("entry point", &self.entry_point), ("command", &self.command)] {
            join(field, texts.iter().map(String::as_str), ARGUMENTS_MAX)?;
        }
        if !self.working_directory.is_empty() {
            check_folder(&self.working_directory)?;
        }
        Ok(())
    }

    /// All that it overrides in one digest: of each list how long it is, of each text how long it is.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut number =
            |value: usize| hash.update(u64::try_from(value).unwrap_or(u64::MAX).to_be_bytes());
        for texts in [&self.entry_point, &self.command] {
            number(texts.len());
            texts.iter().for_each(|text| number(text.len()));
        }
        for text in self.entry_point.iter().chain(&self.command).chain([&self.working_directory]) {
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// The process of a function that is a container image, as PID 1 is told it.
#[derive(Clone, PartialEq, Eq)]
pub struct Container {
    /// The command line, each argument ended by a NUL.
    arguments: Vec<u8>,
    working_directory: String,
    /// The image's variables with the function's own over them, `KEY=VALUE`, each ended by a NUL.
    environment: Vec<u8>,
}

impl fmt::Debug for Container {
    /// Without arguments and variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container")
            .field("working_directory", &self.working_directory)
            .finish_non_exhaustive()
    }
}

impl Container {
    /// What `image` says, as far as `function` does not override it.
    ///
    /// # Errors
    /// [`FunctionError::NoCommand`], [`FunctionError::ImageField`]
    pub fn new(image: &ContainerConfig, function: &Function) -> Result<Self, FunctionError> {
        let spec = function.spec();
        let over = spec.container.clone().unwrap_or_default();
        let or_own =
            |over: Vec<String>, own: &Vec<String>| if over.is_empty() { own.clone() } else { over };
        let entry_point = or_own(over.entry_point, &image.entrypoint);
        let command = or_own(over.command, &image.command);
        let arguments = entry_point.iter().chain(&command).map(String::as_str);
        let arguments = join("command line", arguments, ARGUMENTS_MAX)?;
        if arguments.is_empty() {
            return Err(FunctionError::NoCommand);
        }
        let working_directory = match over.working_directory {
            folder if folder.is_empty() => image.working_folder.clone(),
            folder => folder,
        };
        check_folder(&working_directory)?;
        // Of several with one name the last one counts, and the function's own are the last.
        let last = |at: usize, name: &String| {
            let later = image.environment.iter().skip(at + 1).map(|(name, _)| name);
            !later.chain(spec.environment.iter().map(|(name, _)| name)).any(|it| it == name)
        };
        let own = image.environment.iter().enumerate();
        let own = own.filter(|(at, (name, _))| last(*at, name)).map(|(_, variable)| variable);
        let variables: Vec<_> =
            own.chain(&spec.environment).map(|(name, value)| format!("{name}={value}")).collect();
        let variables = variables.iter().map(String::as_str);
        let environment = join("environment", variables, ENVIRONMENT_MAX)?;
        Ok(Self { arguments, working_directory, environment })
    }

    /// The command line, each argument ended by a NUL.
    #[must_use]
    pub fn arguments(&self) -> &[u8] {
        &self.arguments
    }

    /// Where it starts.
    #[must_use]
    pub fn working_directory(&self) -> &str {
        &self.working_directory
    }

    /// Its variables, `KEY=VALUE`, each ended by a NUL.
    #[must_use]
    pub fn environment(&self) -> &[u8] {
        &self.environment
    }
}

/// All texts, each ended by a NUL.
fn join<'t>(
    field: &'static str,
    texts: impl Iterator<Item = &'t str>,
    max: usize,
) -> Result<Vec<u8>, FunctionError> {
    let mut bytes = Vec::new();
    for text in texts {
        if text.contains('\0') {
            return Err(FunctionError::ImageField { field, what: String::from("it holds a NUL") });
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        if bytes.len() > max {
            let what = format!("{max} bytes are allowed in all, with one more for each part");
            return Err(FunctionError::ImageField { field, what });
        }
    }
    Ok(bytes)
}

fn check_folder(folder: &str) -> Result<(), FunctionError> {
    if folder.starts_with('/') && folder.len() <= STRING_MAX && !folder.contains('\0') {
        return Ok(());
    }
    let what = format!("an absolute path of at most {STRING_MAX} bytes is allowed");
    Err(FunctionError::ImageField { field: "working directory", what })
}
