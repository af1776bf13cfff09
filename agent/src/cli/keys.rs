//! `votive keys`: certificates for one machine.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use votive_control::identity::{Holder, Role};
use votive_control::keys::{self, CERTIFICATE_DAYS_DEFAULT, Issued, KeysError};

use crate::cli::{EXIT_USAGE, complain, describe, fail, print};
use crate::clock::rfc3339_milliseconds;

#[derive(Debug, Args)]
pub(super) struct KeysArguments {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make an authority, a worker's certificate and one for each role, in a new folder
    ///
    /// A worker listens with DIR/worker; callers connect with DIR/operator, DIR/orchestrator or DIR/observer. DIR/ca.key is
    /// needed for further certificates only: keep it elsewhere if you can. Nothing is ever overwritten.
    Init {
        /// The folder, which must not exist or be empty
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// A further name of the worker, DNS or IP, beside localhost; may be given several times
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Make one more certificate, in a new folder
    Issue {
        /// The folder that init made
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Whose certificate it is
        #[arg(long, value_enum)]
        role: HolderArgument,
        /// The new folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// A further name of the worker, DNS or IP, beside localhost; may be given several times
        #[arg(long = "name", value_name = "NAME")]
        names: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Tell whose a certificate is and when it expires
    Show {
        /// A folder with cert.pem, such as DIR/worker
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// How long the certificates are good, in days, 1 to 3650
    #[arg(long, value_name = "DAYS", default_value_t = CERTIFICATE_DAYS_DEFAULT)]
    days: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HolderArgument {
    Worker,
    Operator,
    Orchestrator,
    Observer,
}

impl From<HolderArgument> for Holder {
    fn from(argument: HolderArgument) -> Self {
        match argument {
            HolderArgument::Worker => Self::Worker,
            HolderArgument::Operator => Self::Caller(Role::Operator),
            HolderArgument::Orchestrator => Self::Caller(Role::Orchestrator),
            HolderArgument::Observer => Self::Caller(Role::Observer),
        }
    }
}

/// Does what the arguments say; gives the exit code.
pub(super) fn run(arguments: &KeysArguments) -> u8 {
    let now = SystemTime::now();
    let (made, json) = match &arguments.command {
        KeysCommand::Init { folder, names, common } => {
            (keys::init(folder, names, common.days, now), common.json)
        }
        KeysCommand::Issue { folder, role, out, names, common } => {
            let made = keys::issue(folder, (*role).into(), names, common.days, out, now);
            (made.map(|one| vec![one]), common.json)
        }
        KeysCommand::Show { folder, json } => (keys::inspect(folder).map(|one| vec![one]), *json),
    };
    match made {
        Ok(made) => {
            let text = if json { to_json(&made) } else { to_text(&made) };
            print(text.as_bytes()).map_or(super::EXIT_FAILURE, |()| 0)
        }
        Err(error) => match error {
            KeysError::Days { .. }
            | KeysError::Name { .. }
            | KeysError::Names { .. }
            | KeysError::NamesOfCaller { .. }
            | KeysError::Exists { .. } => {
                complain(&describe(&error));
                EXIT_USAGE
            }
            _ => fail(&error),
        },
    }
}

fn expiry(issued: &Issued) -> String {
    let seconds = u64::try_from(issued.expires).unwrap_or(0);
    rfc3339_milliseconds(Duration::from_secs(seconds))
}

fn to_json(made: &[Issued]) -> String {
    let one = |issued: &Issued| {
        json!({
            "folder": issued.folder,
            "role": issued.holder.name(),
            "names": issued.names,
            "expires": expiry(issued),
            "fingerprint": issued.fingerprint,
        })
    };
    json!({ "certificates": made.iter().map(one).collect::<Vec<_>>() }).to_string()
}

fn to_text(made: &[Issued]) -> String {
    let line = |issued: &Issued| {
        let (role, folder) = (issued.holder.name(), issued.folder.display());
        let mut line =
            format!("{role:<12}  {folder}  {}  until {}", issued.fingerprint, expiry(issued));
        if !issued.names.is_empty() {
            line.push_str(&format!("  {}", issued.names.join(" ")));
        }
        line
    };
    made.iter().map(line).collect::<Vec<_>>().join("\n")
}
