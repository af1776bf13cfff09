//! A function's configuration: what was asked for, and what was checked.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::limits::{
    ENVIRONMENT_MAX, GUEST_RESERVE_MIB, HANDLER_MAX, INIT_TIMEOUT_DEFAULT_S, MEMORY_MAX_MB,
    MEMORY_MIN_MB, NAME_MAX, PAGE_ACCOUNTS_DIVISOR, SCRATCH_MAX_MB, SCRATCH_MIN_MB, TIMEOUT_MAX_S,
};

mod container;
#[cfg(test)]
mod tests;

pub use container::{Container, ImageConfig};

/// Where functions live, as their ARNs and `AWS_REGION` tell it.
const REGION: &str = "us-east-1";
/// Whose functions they are unless it is said, as their ARNs tell it.
const ACCOUNT_DEFAULT: &str = "012345678912";
/// The version that changes with its function.
pub const LATEST: &str = "$LATEST";

/// The environment variables that a function may not set (CONTRACT 4.4).
const RESERVED: [&str; 20] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
    "TZ",
    "AWS_LAMBDA_MAX_CONCURRENCY",
];

/// A function as its owner describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Whose it is: twelve digits.
    pub account: String,
    /// Its name.
    pub name: String,
    /// Its version: `$LATEST` or a number.
    pub version: String,
    /// Its runtime's identifier: `python3.11`, `provided`, ...
    pub runtime: String,
    /// Its handler, as its runtime understands it.
    pub handler: String,
    /// Its memory in MB.
    pub memory_mb: u32,
    /// How long an invocation may take, in seconds.
    pub timeout_s: u32,
    /// How long the init phase may take, in seconds.
    pub init_timeout_s: u32,
    /// The size of `/tmp` in MB.
    pub scratch_mb: u32,
    /// Its own environment variables.
    pub environment: Vec<(String, String)>,
    /// What it overrides of its container image, if it is one; it has neither runtime nor handler then.
    pub container: Option<ImageConfig>,
}

impl fmt::Debug for FunctionSpec {
    /// Without the environment variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionSpec")
            .field("account", &self.account)
            .field("name", &self.name)
            .field("version", &self.version)
            .field("runtime", &self.runtime)
            .finish_non_exhaustive()
    }
}

impl FunctionSpec {
    /// A function with every default.
    #[must_use]
    pub fn new(runtime: &str, handler: &str) -> Self {
        Self {
            account: String::from(ACCOUNT_DEFAULT),
            name: String::from("function"),
            version: String::from(LATEST),
            runtime: runtime.to_owned(),
            handler: handler.to_owned(),
            memory_mb: crate::limits::MEMORY_DEFAULT_MB,
            timeout_s: crate::limits::TIMEOUT_DEFAULT_S,
            init_timeout_s: INIT_TIMEOUT_DEFAULT_S,
            scratch_mb: SCRATCH_MIN_MB,
            environment: Vec::new(),
            container: None,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is wrong, with its value and what is allowed.
    pub fn validate(self) -> Result<Function, FunctionError> {
        check_account(&self.account)?;
        check_name(&self.name)?;
        check_version(&self.version)?;
        match &self.container {
            None => {
                check_runtime(&self.runtime)?;
                check_handler(&self.handler)?;
            }
            Some(config) if self.runtime.is_empty() && self.handler.is_empty() => config.check()?,
            Some(_) => return Err(FunctionError::ImageRuntime),
        }
        if !(MEMORY_MIN_MB..=MEMORY_MAX_MB).contains(&self.memory_mb) {
            return Err(FunctionError::Memory { value: self.memory_mb });
        }
        if !(1..=TIMEOUT_MAX_S).contains(&self.timeout_s) {
            return Err(FunctionError::Timeout { field: "timeout", value: self.timeout_s });
        }
        if !(1..=TIMEOUT_MAX_S).contains(&self.init_timeout_s) {
            return Err(FunctionError::Timeout {
                field: "init timeout",
                value: self.init_timeout_s,
            });
        }
        if !(SCRATCH_MIN_MB..=SCRATCH_MAX_MB).contains(&self.scratch_mb) {
            return Err(FunctionError::Scratch { value: self.scratch_mb });
        }
        check_environment(&self.environment)?;
        Ok(Function { spec: self })
    }
}

/// A function whose configuration was checked. Holding one proves that every field is within its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    spec: FunctionSpec,
}

/// What is wrong with a function's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FunctionError {
    /// The name.
    #[error("function name {value:?}: 1 to {NAME_MAX} letters, digits, '-' or '_' are allowed")]
    Name {
        /// As it was given.
        value: String,
    },
    /// The account.
    #[error("account {value:?}: twelve digits are allowed")]
    Account {
        /// As it was given.
        value: String,
    },
    /// The version.
    #[error("version {value:?}: {LATEST} or a number from 1 on is allowed")]
    Version {
        /// As it was given.
        value: String,
    },
    /// The size of `/tmp`.
    #[error("ephemeral storage {value} MB: {SCRATCH_MIN_MB} to {SCRATCH_MAX_MB} MB are allowed")]
    Scratch {
        /// As it was given.
        value: u32,
    },
    /// The runtime's identifier.
    #[error(
        "runtime {value:?}: an identifier such as python3.11, nodejs24 or provided is allowed \
         (a small letter, then up to 63 small letters, digits, '.' or '-')"
    )]
    Runtime {
        /// As it was given.
        value: String,
    },
    /// The handler.
    #[error("handler {value:?}: 1 to {HANDLER_MAX} characters without spaces are allowed")]
    Handler {
        /// As it was given.
        value: String,
    },
    /// The memory.
    #[error("memory {value} MB: {MEMORY_MIN_MB} to {MEMORY_MAX_MB} MB are allowed")]
    Memory {
        /// As it was given.
        value: u32,
    },
    /// A time limit.
    #[error("{field} {value} s: 1 to {TIMEOUT_MAX_S} s are allowed")]
    Timeout {
        /// Which one.
        field: &'static str,
        /// As it was given.
        value: u32,
    },
    /// The name of an environment variable.
    #[error("environment variable {key:?}: a letter, then letters, digits or '_' are allowed")]
    EnvironmentKey {
        /// As it was given.
        key: String,
    },
    /// The name of an environment variable that the platform sets.
    #[error("environment variable {key:?}: the platform sets it, a function cannot")]
    EnvironmentReserved {
        /// As it was given.
        key: String,
    },
    /// The same environment variable twice.
    #[error("environment variable {key:?}: it is given twice")]
    EnvironmentTwice {
        /// As it was given.
        key: String,
    },
    /// The value of an environment variable.
    #[error("environment variable {key:?}: its value holds a NUL")]
    EnvironmentValue {
        /// Whose value.
        key: String,
    },
    /// A container image with a runtime or a handler.
    #[error(
        "a container image has neither runtime nor handler: its entry point and command are all"
    )]
    ImageRuntime,
    /// A container image with layers.
    #[error("a container image has no layers")]
    ImageLayers,
    /// Overrides of an image for code that is none.
    #[error("the image's configuration: it is for container images")]
    NoImage,
    /// A container image without anything to run.
    #[error("the image has neither ENTRYPOINT nor CMD, and the function overrides neither")]
    NoCommand,
    /// What a container image's process cannot be given.
    #[error("{field}: {what}")]
    ImageField {
        /// Which part.
        field: &'static str,
        /// What is wrong, or allowed.
        what: String,
    },
    /// All environment variables together.
    #[error("environment variables of {len} bytes: {ENVIRONMENT_MAX} bytes are allowed in all")]
    EnvironmentTooLong {
        /// Bytes of keys and values.
        len: usize,
    },
}

impl Function {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its version: `$LATEST` or a number.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.spec.version
    }

    /// Whose it is.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.spec.account
    }

    /// The size of its `/tmp` in bytes.
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        u64::from(self.spec.scratch_mb) * 1024 * 1024
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Its handler.
    #[must_use]
    pub fn handler(&self) -> &str {
        &self.spec.handler
    }

    /// Its runtime's identifier.
    #[must_use]
    pub fn runtime(&self) -> &str {
        &self.spec.runtime
    }

    /// The name of the image that holds its runtime: every `provided.*` is served by `provided`.
    #[must_use]
    pub fn image(&self) -> &str {
        if self.is_custom_runtime() { "provided" } else { self.runtime() }
    }

    /// What `AWS_EXECUTION_ENV` tells of the runtime; nothing for custom runtimes (CONTRACT 4.4).
    #[must_use]
    pub fn execution_runtime(&self) -> &str {
        if self.is_custom_runtime() { "" } else { self.runtime() }
    }

    /// Its memory in MB.
    #[must_use]
    pub fn memory_mb(&self) -> u32 {
        self.spec.memory_mb
    }

    /// Its memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.spec.memory_mb) * 1024 * 1024
    }

    /// The memory of its microVM in MiB, with what the guest's kernel and PID 1 need.
    #[must_use]
    pub fn microvm_memory_mib(&self) -> u32 {
        self.spec.memory_mb
            + self.spec.memory_mb.div_ceil(PAGE_ACCOUNTS_DIVISOR)
            + GUEST_RESERVE_MIB
    }

    /// The vCPUs of its microVM: one for each 1,769 MB begun (CONTRACT 4.6), at most 6.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.spec.memory_mb.div_ceil(1769).clamp(1, 6)
    }

    /// How long an invocation may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.spec.timeout_s))
    }

    /// How long the init phase may take.
    #[must_use]
    pub fn init_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.spec.init_timeout_s))
    }

    /// Where it lives.
    #[must_use]
    pub fn region(&self) -> &str {
        REGION
    }

    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> String {
        let (account, name) = (self.account(), self.name());
        let mut arn = format!("arn:aws:lambda:{REGION}:{account}:function:{name}");
        if self.version() != LATEST {
            arn.push(':');
            arn.push_str(self.version());
        }
        arn
    }

    /// The group of its logs.
    #[must_use]
    pub fn log_group(&self) -> String {
        format!("/aws/lambda/{}", self.name())
    }

    /// Its environment variables, `KEY=VALUE`, each ended by a NUL.
    #[must_use]
    pub fn environment_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in &self.spec.environment {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    fn is_custom_runtime(&self) -> bool {
        self.runtime() == "provided" || self.runtime().starts_with("provided.")
    }
}

fn check_account(account: &str) -> Result<(), FunctionError> {
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FunctionError::Account { value: account.to_owned() });
    }
    Ok(())
}

/// A number is at most 19 digits long, so that it fits what AWS allows and has one form only.
fn check_version(version: &str) -> Result<(), FunctionError> {
    let digits = !version.starts_with('0') && version.bytes().all(|byte| byte.is_ascii_digit());
    if version == LATEST || (digits && (1..=19).contains(&version.len())) {
        return Ok(());
    }
    Err(FunctionError::Version { value: version.to_owned() })
}

fn check_name(name: &str) -> Result<(), FunctionError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
        return Err(FunctionError::Name { value: name.to_owned() });
    }
    Ok(())
}

/// The identifier becomes a file's name: it cannot hold a slash, nor begin with a point.
fn check_runtime(runtime: &str) -> Result<(), FunctionError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let first = runtime.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if !first || runtime.len() > 64 || !runtime.chars().all(allowed) {
        return Err(FunctionError::Runtime { value: runtime.to_owned() });
    }
    Ok(())
}

fn check_handler(handler: &str) -> Result<(), FunctionError> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control();
    if handler.is_empty() || handler.len() > HANDLER_MAX || handler.chars().any(forbidden) {
        return Err(FunctionError::Handler { value: handler.to_owned() });
    }
    Ok(())
}

fn check_environment(environment: &[(String, String)]) -> Result<(), FunctionError> {
    let mut seen = BTreeSet::new();
    let mut len = 0;
    for (key, value) in environment {
        let key = key.clone();
        let first = key.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
        if RESERVED.contains(&key.as_str()) {
            return Err(FunctionError::EnvironmentReserved { key });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !first || key.len() < 2 || !key.chars().all(allowed) {
            return Err(FunctionError::EnvironmentKey { key });
        }
        if value.contains('\0') {
            return Err(FunctionError::EnvironmentValue { key });
        }
        len += key.len() + value.len();
        if !seen.insert(key.clone()) {
            return Err(FunctionError::EnvironmentTwice { key });
        }
    }
    if len > ENVIRONMENT_MAX {
        return Err(FunctionError::EnvironmentTooLong { len });
    }
    Ok(())
}
