//! `votive image key`: the keys of the embedded key service.

use clap::{Args, Subcommand};
use serde_json::json;
use votive_artifact::keys::{Embedded, KeyInfo};

use super::{Ended, Failure, KeysArguments, Output, open_keys};

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
pub(super) fn run(arguments: &KeyArguments) -> Ended {
    let (service, name) = match &arguments.command {
        KeyCommand::Create(key) => {
            let folder = &key.service.keys;
            let there = folder.join("master.key").exists();
            let service = if there { Embedded::open(folder)? } else { Embedded::create(folder)? };
            service.create_key(&key.name)?;
            (service, Some(&key.name))
        }
        KeyCommand::Rotate(key) => changed(key, |service| service.rotate_key(&key.name))?,
        KeyCommand::Disable(key) => changed(key, |service| service.set_enabled(&key.name, false))?,
        KeyCommand::Enable(key) => changed(key, |service| service.set_enabled(&key.name, true))?,
        KeyCommand::List(arguments) => (Embedded::open(&arguments.service.keys)?, None),
    };
    let mut keys = service.list()?;
    keys.retain(|key| name.is_none_or(|name| key.key == *name));
    let line = |key: &KeyInfo| {
        let state = if key.enabled { "enabled" } else { "disabled" };
        format!("{}  {state}  version {}", key.key, key.versions)
    };
    let text = keys.iter().map(line).collect::<Vec<_>>().join("\n");
    Ok(Output { text, json: json!({ "keys": keys }), good: true })
}

fn changed(
    key: &OneKey,
    change: impl FnOnce(&Embedded) -> Result<(), votive_artifact::keys::KeyError>,
) -> Result<(Embedded, Option<&String>), Failure> {
    open_keys(&key.service.keys)?;
    let service = Embedded::open(&key.service.keys)?;
    change(&service)?;
    Ok((service, Some(&key.name)))
}
