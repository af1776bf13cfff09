//! The commands that ask a worker over its control channel.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use votive_control::address::Address;
use votive_control::client::{Client, ClientError, ClientSpec};
use votive_control::tls::Identity;
use votive_control::v1;

use crate::cli::shown;
use crate::cli::{EXIT_FAILURE, EXIT_THROTTLED, EXIT_USAGE, describe};

pub(crate) mod invoke;
pub(crate) mod register;

/// Which worker, and who asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArguments {
    /// The worker: https://HOST:PORT or unix:PATH
    #[arg(
        long,
        value_name = "URL",
        env = "VOTIVE_CONNECT",
        default_value = "unix:/run/votive/control.sock"
    )]
    pub(crate) connect: Address,
    /// The folder with ca.pem, cert.pem and key.pem, such as DIR/orchestrator of `votive keys init DIR`
    #[arg(long, value_name = "DIR", env = "VOTIVE_IDENTITY")]
    pub(crate) identity: PathBuf,
    /// The name in the worker's certificate, if it is not the host's (a Unix socket's is localhost)
    #[arg(long, value_name = "NAME", env = "VOTIVE_SERVER_NAME")]
    pub(crate) server_name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A command for a worker.
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Tell what a worker is doing
    Status {
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// Give a worker its lease
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Let a worker finish what is under way and end
    Drain {
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// Register, list and remove function versions
    #[command(subcommand)]
    Functions(FunctionsCommand),
    /// Invoke a function version: reserve an environment, send the event, print the response as it comes
    #[command(after_help = super::EXIT_CODES)]
    Invoke(Box<invoke::InvokeArguments>),
    /// Keep initialised environments of a function version, or tell how many there are
    #[command(subcommand)]
    Provisioned(ProvisionedCommand),
    /// List, inspect and end environments
    #[command(subcommand)]
    Environments(EnvironmentsCommand),
    /// Print what happens on a worker, one event a line, until it ends
    Watch {
        /// Also what functions log
        #[arg(long)]
        logs: bool,
        #[command(flatten)]
        to: ConnectArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Give the worker its lease, or lengthen it; never beyond 14 h after its first
    Grant {
        /// How long from now, such as 14h
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        duration: Duration,
        /// The longest invocation that must end inside it
        #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "900s")]
        longest_invocation: Duration,
        #[command(flatten)]
        to: ConnectArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FunctionsCommand {
    /// Make a function version known to the worker; prints its id
    Register(Box<register::RegisterArguments>),
    /// List those that are known
    List {
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// Forget one; its environments end as soon as they are idle
    Remove {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        to: ConnectArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProvisionedCommand {
    /// Set how many are kept; 0 for none
    Set {
        /// The function version's id
        #[arg(value_name = "ID")]
        id: String,
        /// How many
        #[arg(value_name = "ENVIRONMENTS")]
        environments: u32,
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// Tell how many there are
    Get {
        /// The function version's id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        to: ConnectArguments,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentsCommand {
    /// List all, or those of one function version
    List {
        /// The function version's id
        #[arg(long, value_name = "ID")]
        function: Option<String>,
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// Tell about one
    Get {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        to: ConnectArguments,
    },
    /// End one at once; an invocation in it is answered with an error
    Destroy {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        to: ConnectArguments,
    },
}

/// Why a command gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Identity(#[from] votive_control::tls::TlsError),
    #[error(transparent)]
    Usage(#[from] super::UsageError),
    #[error("the output cannot be written")]
    Output(#[from] std::io::Error),
}

impl RemoteError {
    /// The exit code that tells it apart.
    pub(crate) fn exit_code(&self) -> u8 {
        let Self::Client(error) = self else {
            return if matches!(self, Self::Usage(_)) { EXIT_USAGE } else { EXIT_FAILURE };
        };
        match error.refusal() {
            Some(refusal) if refusal.is_throttled() => EXIT_THROTTLED,
            Some(refusal) if refusal.code == tonic::Code::InvalidArgument => EXIT_USAGE,
            _ => EXIT_FAILURE,
        }
    }
}

/// Does what the command says, with `out` for standard output and `log` for standard error; gives the exit code.
pub(crate) async fn execute(
    command: RemoteCommand,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> u8 {
    match carry_out(command, out, log).await {
        Ok(code) => code,
        Err(error) => {
            // Nobody reads: there is nobody to tell.
            let _ = writeln!(log, "{}", describe(&error));
            error.exit_code()
        }
    }
}

async fn carry_out(
    command: RemoteCommand,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> Result<u8, RemoteError> {
    let (to, answer) = match command {
        RemoteCommand::Invoke(arguments) => return invoke::run(*arguments, out, log).await,
        RemoteCommand::Watch { logs, to } => return watch(&to, logs, out, log).await,
        RemoteCommand::Status { to } => {
            let status = connect(&to).await?.status().await?;
            (to, shown::status(&status))
        }
        RemoteCommand::Lease(LeaseCommand::Grant { duration, longest_invocation, to }) => {
            let request = v1::GrantLeaseRequest {
                duration: Some(register::proto_duration(duration)),
                longest_invocation: Some(register::proto_duration(longest_invocation)),
            };
            let lease = connect(&to).await?.grant_lease(request).await?;
            (to, shown::lease(&lease))
        }
        RemoteCommand::Drain { to } => {
            let lease = connect(&to).await?.drain().await?;
            (to, shown::lease(&lease))
        }
        RemoteCommand::Functions(command) => functions(command).await?,
        RemoteCommand::Provisioned(command) => provisioned(command).await?,
        RemoteCommand::Environments(command) => environments(command).await?,
    };
    let text = if to.json { answer.to_string() } else { shown::to_text(&answer) };
    writeln!(out, "{text}")?;
    Ok(0)
}

async fn functions(command: FunctionsCommand) -> Result<(ConnectArguments, Value), RemoteError> {
    Ok(match command {
        FunctionsCommand::Register(arguments) => {
            let request = arguments.request()?;
            let version = connect(&arguments.to).await?.register(request).await?;
            (arguments.to, shown::function_version(&version))
        }
        FunctionsCommand::List { to } => {
            let versions = connect(&to).await?.function_versions().await?;
            (to, versions.iter().map(shown::function_version).collect())
        }
        FunctionsCommand::Remove { id, to } => {
            let environments = connect(&to).await?.remove(&id).await?;
            (to, json!({ "environments": environments }))
        }
    })
}

async fn provisioned(
    command: ProvisionedCommand,
) -> Result<(ConnectArguments, Value), RemoteError> {
    let (to, answer) = match command {
        ProvisionedCommand::Set { id, environments, to } => {
            let answer = connect(&to).await?.set_provisioned(&id, environments).await?;
            (to, answer)
        }
        ProvisionedCommand::Get { id, to } => {
            let answer = connect(&to).await?.provisioned(&id).await?;
            (to, answer)
        }
    };
    Ok((to, shown::provisioned(&answer)))
}

async fn environments(
    command: EnvironmentsCommand,
) -> Result<(ConnectArguments, Value), RemoteError> {
    Ok(match command {
        EnvironmentsCommand::List { function, to } => {
            let all = connect(&to).await?.environments(function.as_deref()).await?;
            (to, all.iter().map(shown::environment).collect())
        }
        EnvironmentsCommand::Get { id, to } => {
            let one = connect(&to).await?.environment(&id).await?;
            (to, shown::environment(&one))
        }
        EnvironmentsCommand::Destroy { id, to } => {
            let one = connect(&to).await?.destroy(&id).await?;
            (to, shown::environment(&one))
        }
    })
}

async fn watch(
    to: &ConnectArguments,
    logs: bool,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> Result<u8, RemoteError> {
    let mut watch = connect(to).await?.watch(logs).await?;
    // Whoever started this may go on: what happens now is seen. Nobody reads: there is nobody to tell.
    let _ = writeln!(log, "votive: watching");
    while let Some(event) = watch.next().await? {
        // One line each, in either form: whoever watches pipes it on.
        writeln!(out, "{}", shown::event(&event))?;
        out.flush()?;
    }
    Ok(0)
}

pub(crate) async fn connect(to: &ConnectArguments) -> Result<Client, RemoteError> {
    let identity = Identity::read(&to.identity)?;
    let spec = ClientSpec { address: to.connect.clone(), server_name: to.server_name.clone() };
    Ok(Client::connect(&spec, &identity).await?)
}

/// `14h`, `900s`, `1h30m`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let wrong = |_| String::from("a duration is a number with a unit, such as 14h, 900s or 500ms");
    let duration: jiff::SignedDuration = text.parse().map_err(wrong)?;
    Duration::try_from(duration).map_err(|_| String::from("a duration is positive"))
}
