//! `votive functions register`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use votive_control::v1;

use crate::cli::remote::{ConnectArguments, parse_duration};
use crate::cli::{Format, UsageError, read_environment};
use crate::limits::MEMORY_DEFAULT_MB;

#[derive(Args, Debug)]
pub(crate) struct RegisterArguments {
    /// The account, twelve digits
    #[arg(long, value_name = "DIGITS", default_value = "012345678912")]
    account: String,
    /// The function's name
    #[arg(long, value_name = "NAME")]
    name: String,
    /// $LATEST, or a number that stands for one code and configuration for ever
    #[arg(long, value_name = "VERSION", default_value = "$LATEST")]
    version: String,
    /// The runtime, unless the artifact is a container image: python3.11, nodejs24, provided, or another that the worker has an image of
    #[arg(long, value_name = "NAME", required_unless_present = "artifact", default_value = "")]
    runtime: String,
    /// The handler, unless the artifact is a container image, as the runtime understands it, such as app.handler
    #[arg(long, value_name = "NAME", required_unless_present = "artifact", default_value = "")]
    handler: String,
    #[command(flatten)]
    code: CodeArguments,
    /// A layer, the same way; may be given several times, merged in this order
    #[arg(long = "layer", value_name = "FILE")]
    layers: Vec<PathBuf>,
    /// Instead of a container image's ENTRYPOINT; given several times, its arguments
    #[arg(long, value_name = "TEXT", conflicts_with = "zip", allow_hyphen_values = true)]
    entry_point: Vec<String>,
    /// Instead of a container image's CMD; given several times, its arguments
    #[arg(long, value_name = "TEXT", conflicts_with = "zip", allow_hyphen_values = true)]
    command: Vec<String>,
    /// Instead of a container image's WORKDIR
    #[arg(long, value_name = "PATH", conflicts_with = "zip")]
    working_directory: Option<String>,
    /// The function's memory in MB, 128 to 10240
    #[arg(long, value_name = "MB", default_value_t = MEMORY_DEFAULT_MB)]
    memory: u32,
    /// How long an invocation may take, 1 s to 900 s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "3s")]
    timeout: Duration,
    /// How long the init phase may take, 1 s to 900 s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s")]
    init_timeout: Duration,
    /// An environment variable of the function; may be given several times
    #[arg(long = "env", value_name = "KEY=VALUE")]
    environment: Vec<String>,
    /// The size of /tmp in MB, 512 to 10240
    #[arg(long, value_name = "MB", default_value_t = 512)]
    ephemeral_storage: u32,
    /// The most environments of this version at once; 0 for no limit but the worker's
    #[arg(long, value_name = "N", default_value_t = 0)]
    concurrency_limit: u32,
    /// How the log is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    #[command(flatten)]
    pub(crate) to: ConnectArguments,
}

/// Where the code is.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct CodeArguments {
    /// The function's code: a ZIP that the worker can read at this path
    #[arg(long, value_name = "FILE")]
    zip: Option<PathBuf>,
    /// The function's code: an artifact of the worker's store, which `votive image create` made
    #[arg(long, value_name = "IDENTITY")]
    artifact: Option<String>,
}

impl CodeArguments {
    fn source(&self) -> Result<v1::Code, UsageError> {
        let artifact = self.artifact.clone().map(v1::code::Source::Artifact);
        match (&self.zip, artifact) {
            (Some(zip), _) => code(zip),
            (None, source) => Ok(v1::Code { source }),
        }
    }
}

impl RegisterArguments {
    /// The request, with absolute paths: the worker's working folder is not ours.
    pub(crate) fn request(&self) -> Result<v1::RegisterFunctionVersionRequest, UsageError> {
        let layers: Result<_, _> = self.layers.iter().map(code).collect();
        Ok(v1::RegisterFunctionVersionRequest {
            account: self.account.clone(),
            function_name: self.name.clone(),
            version: self.version.clone(),
            runtime: self.runtime.clone(),
            handler: self.handler.clone(),
            memory_mb: self.memory,
            timeout: Some(proto_duration(self.timeout)),
            init_timeout: Some(proto_duration(self.init_timeout)),
            environment: read_environment(&self.environment)?.into_iter().collect(),
            code: Some(self.code.source()?),
            layers: layers?,
            image_config: Some(v1::ImageConfig {
                entry_point: self.entry_point.clone(),
                command: self.command.clone(),
                working_directory: self.working_directory.clone().unwrap_or_default(),
            }),
            ephemeral_storage_mb: self.ephemeral_storage,
            concurrency_limit: self.concurrency_limit,
            log_format: match self.log_format {
                Format::Text => v1::LogFormat::Text,
                Format::Json => v1::LogFormat::Json,
            }
            .into(),
        })
    }
}

fn code(path: &PathBuf) -> Result<v1::Code, UsageError> {
    let unreadable = |source| UsageError::Unreadable { path: path.clone(), source };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let path = absolute.to_str().map(str::to_owned);
    let path = path.ok_or_else(|| unreadable(std::io::Error::other("its path is not UTF-8")))?;
    Ok(v1::Code { source: Some(v1::code::Source::ZipPath(path)) })
}

pub(crate) fn proto_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Below 1e9.
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}
