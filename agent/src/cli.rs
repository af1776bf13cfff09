//! The command line `votive`: its arguments, its output, its exit codes.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::de::IgnoredAny;
use serde_json::json;
use votive_protocol::limits::REQUEST_PAYLOAD_MAX;

use crate::causes::with_causes;
use crate::doctor;
use crate::function::{FunctionError, FunctionSpec};
use crate::images::{FOLDER_VARIABLE, Images, ImagesError};
use crate::invocation::Answered;
use crate::jail::{JailError, Jails, UidRange};
use crate::limits::{INIT_TIMEOUT_DEFAULT_S, MEMORY_DEFAULT_MB, TIMEOUT_DEFAULT_S};
use crate::posture::{self, Posture};
use crate::report::LogFormat;
use crate::run::{Code, Interrupts, RunEnd, RunError, RunSpec, is_function_fault, run};

mod image;
mod keys;
pub(crate) mod remote;
mod shown;
#[cfg(test)]
mod tests;

/// votive failed: an image is missing, the microVM did not start or was lost.
pub const EXIT_FAILURE: u8 = 1;
/// The command line, the configuration or the event is wrong: nothing was started.
pub const EXIT_USAGE: u8 = 2;
/// The function failed: its error is the response.
pub const EXIT_FUNCTION_ERROR: u8 = 3;
/// The worker had no room for the invocation, however often it was asked.
pub const EXIT_THROTTLED: u8 = 4;
/// Ended by SIGINT (128 + 2).
pub const EXIT_INTERRUPT: u8 = 130;
/// Ended by SIGTERM (128 + 15).
pub const EXIT_TERMINATE: u8 = 143;

const EXIT_CODES: &str = "\
Exit codes:
  0    the function answered
  1    votive failed: an image is missing, the microVM did not start or was lost, the worker cannot be reached or refused
  2    the command line, the function's configuration or the event is wrong; nothing was started
  3    the function failed; the response is its error as JSON
  4    the worker had no room
  130  ended by SIGINT
  143  ended by SIGTERM";

/// Runs serverless functions in microVMs.
#[derive(Debug, Parser)]
#[command(name = "votive", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a microVM, invoke a function in it once, and end it
    ///
    /// The response goes to standard output, the function's log (START, its own lines, END, REPORT) and a table of where the
    /// time of the cold start went to standard error.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArguments>),
    /// Tell whether this host can run guests, by which kind of KVM, and what is missing
    ///
    /// Exit code 0 if it can, 1 if it cannot.
    Doctor(DoctorArguments),
    /// Make certificates for a worker and its callers
    Keys(keys::KeysArguments),
    /// Make encrypted artifacts of ZIPs and container images, and look after the store that they are in
    Image(image::ImageArguments),
    #[command(flatten)]
    Remote(remote::RemoteCommand),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// The runtime: python3.11, nodejs24, provided, or another that there is an image of
    #[arg(long, value_name = "NAME")]
    runtime: String,
    /// The handler as the runtime understands it, such as app.handler
    #[arg(long, value_name = "NAME")]
    handler: String,
    #[command(flatten)]
    code: CodeArguments,
    /// The event: JSON, or @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    event: String,
    /// The function's name
    #[arg(long, value_name = "NAME", default_value = "function")]
    name: String,
    /// The function's memory in MB, 128 to 10240; 1769 MB buy one vCPU
    #[arg(long, value_name = "MB", default_value_t = MEMORY_DEFAULT_MB)]
    memory: u32,
    /// How long the invocation may take in seconds, 1 to 900
    #[arg(long, value_name = "S", default_value_t = TIMEOUT_DEFAULT_S)]
    timeout: u32,
    /// How long the init phase may take in seconds, 1 to 900; it is run again inside the invocation if it takes longer
    #[arg(long, value_name = "S", default_value_t = INIT_TIMEOUT_DEFAULT_S)]
    init_timeout: u32,
    /// An environment variable of the function; may be given several times
    #[arg(long = "env", value_name = "KEY=VALUE")]
    environment: Vec<String>,
    #[command(flatten)]
    images: ImagesArguments,
    /// Print one JSON object: response, functionError, report, coldStart
    #[arg(long)]
    json: bool,
    /// How the log is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
    /// Print nothing but the response, and errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Tell what votive itself does
    #[arg(short, long)]
    verbose: bool,
    /// Keep the guest's console in a new folder here, votive-logs-PID (slows the guest down)
    #[arg(long)]
    keep_logs: bool,
    /// Whether the VMM runs in a jail, which takes root (docs/jail.md)
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    jail: JailArgument,
}

/// What makes the VMM's jail; without one, a line says why, unless none was wanted.
fn find_jails(mode: JailArgument, images: &Images) -> Result<Option<Jails>, JailError> {
    if mode == JailArgument::Off {
        return Ok(None);
    }
    let jails = Jails::new(&images.jailer(), UidRange::default());
    match jails.check() {
        Ok(()) => Ok(Some(jails)),
        Err(error) if mode == JailArgument::Required => Err(error),
        Err(error) => {
            tracing::warn!("the microVM has no jail: {}", with_causes(&error));
            Ok(None)
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CodeArguments {
    /// The function's code as a ZIP
    #[arg(long, value_name = "FILE")]
    zip: Option<PathBuf>,
    /// The function's code as an EROFS image made before
    #[arg(long, value_name = "FILE")]
    code_image: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ImagesArguments {
    /// The folder with vmlinux, init.cpio and the runtimes' images; by default what cargo xtask image built last
    #[arg(long, value_name = "DIR", env = FOLDER_VARIABLE)]
    images: Option<PathBuf>,
    /// The VMM; by default bin/votive-vmm in the folder with images
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DoctorArguments {
    #[command(flatten)]
    images: ImagesArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Whether a VMM is jailed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JailArgument {
    /// Where a jail can be made
    Auto,
    /// It fails where none can be made
    Required,
    /// Never
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What is wrong with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("--env {value:?}: KEY=VALUE is expected")]
    Environment { value: String },
    #[error("InvalidRequestContent: the event is not JSON: {source}")]
    NotJson { source: serde_json::Error },
    #[error("RequestTooLarge: the event has more than {REQUEST_PAYLOAD_MAX} bytes")]
    TooLarge,
    #[error("the event in {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// The whole program: parses the arguments, does what they say, gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no error; nobody is left to tell if that fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let code = match cli.command {
        Command::Run(arguments) => run_command(&arguments),
        Command::Doctor(arguments) => doctor_command(&arguments),
        Command::Keys(arguments) => keys::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Remote(command) => remote_command(command),
    };
    ExitCode::from(code)
}

fn doctor_command(arguments: &DoctorArguments) -> u8 {
    let images = match find_images(&arguments.images) {
        Ok(images) => images,
        Err(error) => return fail(&error),
    };
    let mut diagnosis = doctor::diagnose(&images);
    let posture = Posture::of(&posture::Files::of_this_host());
    diagnosis.findings.extend(posture.findings());
    let text = if arguments.json { diagnosis.to_json().to_string() } else { diagnosis.to_text() };
    if print(text.as_bytes()).is_err() || !diagnosis.kind.can_run_guests() {
        return EXIT_FAILURE;
    }
    0
}

fn remote_command(command: remote::RemoteCommand) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    runtime.block_on(remote::execute(command, &mut std::io::stdout(), &mut std::io::stderr()))
}

fn run_command(arguments: &RunArguments) -> u8 {
    start_tracing(arguments);
    let spec = match read_spec(arguments) {
        Ok(spec) => spec,
        Err(error) => {
            complain(&error);
            return EXIT_USAGE;
        }
    };
    let spec = match find_images(&arguments.images) {
        Ok(images) => RunSpec { images, ..spec },
        Err(error) => return fail(&error),
    };
    let spec = match find_jails(arguments.jail, &spec.images) {
        Ok(jails) => RunSpec { jails, ..spec },
        Err(error) => return fail(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let mut interrupts = Interrupts::listen().map_err(RunError::Temporary)?;
            run(spec, &mut interrupts).await
        }),
        Err(error) => return fail(&error),
    };
    match ended {
        Ok(end) => conclude(arguments, &end),
        Err(RunError::Interrupted("SIGINT")) => EXIT_INTERRUPT,
        Err(RunError::Interrupted(_)) => EXIT_TERMINATE,
        Err(error) => fail(&error),
    }
}

fn start_tracing(arguments: &RunArguments) {
    let default = if arguments.verbose { "votive_agent=debug" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("VOTIVE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(filter);
    let started = match arguments.log_format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    // A subscriber of the embedding program stays as it is.
    drop(started);
}

/// Checks everything that can be checked before anything is started. The images are found later.
fn read_spec(arguments: &RunArguments) -> Result<RunSpec, UsageError> {
    let environment = read_environment(&arguments.environment)?;
    let function = FunctionSpec {
        name: arguments.name.clone(),
        memory_mb: arguments.memory,
        timeout_s: arguments.timeout,
        init_timeout_s: arguments.init_timeout,
        environment,
        ..FunctionSpec::new(&arguments.runtime, &arguments.handler)
    };
    let function = function.validate()?;
    let payload = read_event(&arguments.event)?;
    let code = match (&arguments.code.zip, &arguments.code.code_image) {
        (Some(zip), _) => Code::Zip(zip.clone()),
        (None, image) => Code::Image(image.clone().unwrap_or_default()),
    };
    let format = match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    let folder = || PathBuf::from(format!("votive-logs-{}", std::process::id()));
    Ok(RunSpec {
        function,
        code,
        images: Images::none(),
        payload,
        log: (!arguments.quiet).then_some(format),
        keep_logs: arguments.keep_logs.then(folder),
        jails: None,
    })
}

fn read_environment(variables: &[String]) -> Result<Vec<(String, String)>, UsageError> {
    let read = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(UsageError::Environment { value: text.clone() }),
    };
    variables.iter().map(read).collect()
}

/// Reads the event and makes sure that it is JSON of a size that is allowed.
fn read_event(text: &str) -> Result<Vec<u8>, UsageError> {
    let event = if text == "-" {
        read_limited(std::io::stdin().lock(), Path::new("standard input"))?
    } else if let Some(path) = text.strip_prefix('@') {
        let path = Path::new(path);
        let file = std::fs::File::open(path)
            .map_err(|source| UsageError::Unreadable { path: path.to_owned(), source })?;
        read_limited(file, path)?
    } else {
        text.as_bytes().to_vec()
    };
    if u64::try_from(event.len()).unwrap_or(u64::MAX) > REQUEST_PAYLOAD_MAX {
        return Err(UsageError::TooLarge);
    }
    serde_json::from_slice::<IgnoredAny>(&event)
        .map_err(|source| UsageError::NotJson { source })?;
    Ok(event)
}

fn read_limited(reader: impl Read, path: &Path) -> Result<Vec<u8>, UsageError> {
    let mut bytes = Vec::new();
    reader
        .take(REQUEST_PAYLOAD_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| UsageError::Unreadable { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn find_images(arguments: &ImagesArguments) -> Result<Images, ImagesError> {
    Images::find(arguments.images.as_deref(), arguments.vmm.as_deref())
}

/// Prints what came of the invocation.
fn conclude(arguments: &RunArguments, end: &RunEnd) -> u8 {
    let (payload, error_type) = match &end.outcome.answer {
        Answered::Response { .. } => (end.response.as_slice(), None),
        Answered::Error(error) => (error.payload.as_slice(), Some(error.error_type.as_str())),
    };
    let text = if arguments.json {
        let object = json!({
            "response": as_json(payload),
            "functionError": error_type.map(|_| "Unhandled"),
            "errorType": error_type,
            "report": end.outcome.report.metrics(),
            "coldStart": end.timeline.to_json(),
        });
        object.to_string().into_bytes()
    } else {
        payload.to_vec()
    };
    if !arguments.quiet && !arguments.json && end.lost.is_none() {
        complain(&end.timeline.table());
    }
    if let Some(reason) = &end.lost {
        complain(&format!("votive: {reason}"));
    }
    if print(&text).is_err() {
        return EXIT_FAILURE;
    }
    match (&end.lost, error_type) {
        (Some(reason), Some(_)) if !is_function_fault(reason) => EXIT_FAILURE,
        (_, Some(_)) => EXIT_FUNCTION_ERROR,
        (_, None) => 0,
    }
}

/// A response as a JSON value; one that is not JSON becomes a string.
fn as_json(payload: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload)
        .unwrap_or_else(|_| json!(String::from_utf8_lossy(payload).into_owned()))
}

fn print(bytes: &[u8]) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(bytes)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// Tells an error with its causes in one line.
fn fail(error: &dyn std::error::Error) -> u8 {
    complain(&describe(error));
    EXIT_FAILURE
}

/// An error as this program tells it.
fn describe(error: &dyn std::error::Error) -> String {
    format!("votive: {}", with_causes(error))
}

fn complain(text: &(impl std::fmt::Display + ?Sized)) {
    // Nobody reads: there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
}
