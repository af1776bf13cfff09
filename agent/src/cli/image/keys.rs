//! `votive image key`: the keys of a key service.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::json;
use votive_artifact::keys::{AwsKms, Embedded, KeyInfo, KeysSpec, KmsSpec, OpenKeysError};

use super::{Ended, Failure, KeysArguments, Output, refuse};

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key, and the key service if the folder has none
    Create(OneKey),
    /// Give a key a new version: it wraps from now on, and those before go on unwrapping
    Rotate(OneKey),
    /// Refuse a key's use: no new environment starts with what it wraps
    Disable(OneKey),
    /// Allow a key's use again
    Enable(OneKey),
    /// List all keys
    List(ListArguments),
}

#[derive(Debug, Args)]
struct OneKey {
    /// The key
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    service: KeysArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    service: KeysArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl KeyArguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            KeyCommand::List(arguments) => arguments.json,
            KeyCommand::Create(key)
            | KeyCommand::Rotate(key)
            | KeyCommand::Disable(key)
            | KeyCommand::Enable(key) => key.json,
        }
    }
}

/// Does what the arguments say.
pub(super) async fn run(arguments: &KeyArguments) -> Ended {
    let service = match &arguments.command {
        KeyCommand::List(arguments) => &arguments.service,
        KeyCommand::Create(key)
        | KeyCommand::Rotate(key)
        | KeyCommand::Disable(key)
        | KeyCommand::Enable(key) => &key.service,
    };
    match KeysSpec::parse(&service.keys).map_err(refuse)? {
        KeysSpec::Folder(folder) => embedded(&arguments.command, &folder),
        KeysSpec::AwsKms(spec) => kms(&arguments.command, spec).await,
    }
}

fn embedded(command: &KeyCommand, folder: &Path) -> Ended {
    let new = matches!(command, KeyCommand::Create(_)) && !Embedded::is_in(folder);
    if !new && !Embedded::is_in(folder) {
        return Err(refuse(OpenKeysError::NoService { folder: folder.to_owned() }));
    }
    let service = if new { Embedded::create(folder)? } else { Embedded::open(folder)? };
    let name = match command {
        KeyCommand::List(_) => None,
        KeyCommand::Create(key)
        | KeyCommand::Rotate(key)
        | KeyCommand::Disable(key)
        | KeyCommand::Enable(key) => Some(&key.name),
    };
    match command {
        KeyCommand::Create(key) => service.create_key(&key.name)?,
        KeyCommand::Rotate(key) => service.rotate_key(&key.name)?,
        KeyCommand::Disable(key) => service.set_enabled(&key.name, false)?,
        KeyCommand::Enable(key) => service.set_enabled(&key.name, true)?,
        KeyCommand::List(_) => {}
    }
    let mut keys = service.list()?;
    keys.retain(|key| name.is_none_or(|name| key.key == *name));
    let line = |key: &KeyInfo| {
        let state = if key.enabled { "enabled" } else { "disabled" };
        format!("{}  {state}  version {}", key.key, key.versions)
    };
    let text = keys.iter().map(line).collect::<Vec<_>>().join("\n");
    Ok(Output { text, json: json!({ "keys": keys }), good: true })
}

/// Tells what KMS says about its keys. Changing them is for others than those who use them, and for KMS's own tools.
async fn kms(command: &KeyCommand, spec: KmsSpec) -> Ended {
    let (verb, key) = match command {
        KeyCommand::List(_) => return list(&AwsKms::open(spec).map_err(refuse)?).await,
        KeyCommand::Create(key) => ("create-alias --target-key-id KEY --alias-name", key),
        KeyCommand::Rotate(key) => ("rotate-key-on-demand --key-id", key),
        KeyCommand::Disable(key) => ("disable-key --key-id", key),
        KeyCommand::Enable(key) => ("enable-key --key-id", key),
    };
    let tool = format!("`aws kms {verb} {}`", key.name);
    Err(Failure::Usage(format!("the keys of AWS KMS are changed with its own tools, here {tool}")))
}

async fn list(kms: &AwsKms) -> Ended {
    let (mut lines, mut objects) = (Vec::new(), Vec::new());
    for key in kms.keys() {
        let state = kms.describe(key).await?;
        lines.push(format!("{key}  {}  {}", state.state, state.arn));
        objects.push(json!({
            "key": key,
            "enabled": state.enabled,
            "state": state.state,
            "arn": state.arn,
        }));
    }
    Ok(Output { text: lines.join("\n"), json: json!({ "keys": objects }), good: true })
}
