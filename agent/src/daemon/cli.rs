//! The command line `votive-agent`: its arguments, its output, its exit codes.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{DaemonEnd, DaemonError, logging, manual, run};
use crate::causes::with_causes;
use crate::config::check::findings;
use crate::config::place::Surroundings;
use crate::config::{Config, DEFAULT_FILE, reference};
use crate::daemon::start::StartError;
use crate::{metrics, worker};

/// The worker failed, or could not start.
pub const EXIT_FAILURE: u8 = 1;
/// The command line or the configuration is wrong: nothing was started.
pub const EXIT_USAGE: u8 = 2;
/// The worker's lease is over: it never serves again, and starting it again is of no use.
pub const EXIT_LEASE_OVER: u8 = 3;
/// What is added to the number of the signal that ended the process.
const EXIT_SIGNAL: u8 = 128;
/// How wide `--help` is.
const HELP_WIDTH: usize = 100;

pub(super) const EXIT_CODES: [(&str, &str); 6] = [
    ("0", "the worker drained, or its lease is over: nothing is left of it"),
    ("1", "the worker failed or could not start"),
    ("2", "the command line or the configuration is wrong; nothing was started"),
    ("3", "the lease that an orchestrator gave this worker is over; another start is of no use"),
    ("130", "ended at once by a second SIGINT"),
    ("143", "ended at once by a second SIGTERM"),
];

pub(super) const SIGNALS: [(&str, &str); 2] = [
    (
        "SIGTERM, SIGINT",
        "begin the drain: invocations under way finish, then everything ends; a second one ends everything at once",
    ),
    ("SIGHUP", "read the certificates of the control channel again"),
];

/// The worker of votive: runs functions in microVMs, driven over an encrypted socket.
#[derive(Debug, Parser)]
#[command(name = "votive-agent", version)]
pub(super) struct Cli {
    #[command(flatten)]
    file: FileArgument,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct FileArgument {
    /// The configuration; by default /etc/votive/votive-agent.toml, and if there is none, every field has its default
    #[arg(long, value_name = "FILE", env = "VOTIVE_AGENT_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell everything that is wrong with a configuration and the files that it names, and start nothing
    ///
    /// Exit code 0 if nothing is wrong, 2 if the configuration is, 1 if a file is.
    CheckConfig {
        /// The configuration; by default the one that the agent would read
        file: Option<PathBuf>,
    },
    /// Print the page on every field of the configuration, as Markdown
    ConfigReference,
    /// Print the page on every metric, as Markdown
    MetricsReference,
    /// Print the man page, votive-agent(8)
    #[command(hide = true)]
    Man,
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no error; nobody is left to tell if that fails.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let config = cli.file.config;
    let code = match cli.command {
        None => run_command(config),
        Some(Command::CheckConfig { file }) => check_command(file.or(config)),
        Some(Command::ConfigReference) => print(reference::markdown().as_bytes()),
        Some(Command::MetricsReference) => print(metrics::markdown().as_bytes()),
        Some(Command::Man) => match manual::page() {
            Ok(page) => print(&page),
            Err(error) => fail(&error, EXIT_FAILURE),
        },
    };
    ExitCode::from(code)
}

/// The command line with what is said in `--help`: exit codes, signals, and every field of the configuration.
pub(super) fn command() -> clap::Command {
    let list = |items: &[(&str, &str)], width: usize| {
        let line = |(name, text): &(&str, &str)| format!("  {name:<width$} {text}\n");
        items.iter().map(line).collect::<String>()
    };
    let short = format!(
        "Exit codes:\n{}\nSignals:\n{}\n--help tells every field of the configuration.",
        list(&EXIT_CODES, 4),
        list(&SIGNALS, 16)
    );
    let long = format!(
        "Exit codes:\n{}\nSignals:\n{}\nConfiguration ({DEFAULT_FILE}, TOML):\n\n{}",
        list(&EXIT_CODES, 4),
        list(&SIGNALS, 16),
        reference::text(HELP_WIDTH)
    );
    Cli::command().after_help(short).after_long_help(long)
}

fn parse(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

fn run_command(file: Option<PathBuf>) -> u8 {
    let config = match Config::load(file.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    logging::start(&config.log);
    match run(&config) {
        Ok(DaemonEnd::Terminated) => 0,
        Ok(DaemonEnd::Killed(signal)) => EXIT_SIGNAL.saturating_add(signal),
        Err(error) => {
            let code = match &error {
                DaemonError::Config(_) | DaemonError::Place(_) => EXIT_USAGE,
                DaemonError::Worker(StartError::Worker(worker::StartError::LeaseOver)) => {
                    EXIT_LEASE_OVER
                }
                _ => EXIT_FAILURE,
            };
            tracing::error!("{}", with_causes(&error));
            code
        }
    }
}

fn check_command(file: Option<PathBuf>) -> u8 {
    let config = match Config::load(file.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let places = match config.places(&Surroundings::here()) {
        Ok(places) => places,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let mut text = String::new();
    let mut ok = true;
    for finding in findings(&config, &places) {
        ok &= finding.ok;
        let sign = if finding.ok { "ok " } else { "NO " };
        text.push_str(&format!("{sign} {:<10} {}\n", finding.subject, finding.text));
        if let Some(fix) = finding.fix {
            text.push_str(&format!("    {:<10} fix: {fix}\n", ""));
        }
    }
    let printed = print(text.as_bytes());
    if ok { printed } else { EXIT_FAILURE }
}

fn print(bytes: &[u8]) -> u8 {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => 0,
        Err(_) => EXIT_FAILURE,
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> u8 {
    // Nobody reads: there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "votive-agent: {}", with_causes(error));
    code
}
