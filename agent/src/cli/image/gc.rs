//! `votive image gc` and `votive image root`: what becomes of what is no longer needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use votive_artifact::gc::{self, EXPIRED_FOR_MIN};
use votive_artifact::manifest::RootId;
use votive_artifact::store::Store;
use votive_artifact::store::root::{Root, RootState};
use votive_artifact::store::sweep::UNFINISHED_FOR_MIN;

use super::{Ended, Failure, KeysArguments, Output, StoreArguments, open_keys, open_store};

#[derive(Debug, Args)]
pub(super) struct GcArguments {
    #[command(flatten)]
    store: StoreArguments,
    /// A file with the identities of all artifacts that are needed, one a line: they are copied out of retired roots, and then
    /// these roots expire
    #[arg(long, value_name = "FILE")]
    live: Option<PathBuf>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RootArguments {
    #[command(subcommand)]
    command: RootCommand,
}

#[derive(Debug, Subcommand)]
enum RootCommand {
    /// List the roots, the oldest first
    List {
        #[command(flatten)]
        store: StoreArguments,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Open a new root, which takes all new artifacts, and retire the others
    New {
        #[command(flatten)]
        store: StoreArguments,
        #[command(flatten)]
        keys: KeysArguments,
        /// The key that wraps the root's salt; by default `votive`, or the first one of awskms:
        #[arg(long, value_name = "NAME")]
        key: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take the alarms of an expired root away, after what was missing was copied out of it
    Clear {
        /// The root
        #[arg(value_name = "ROOT")]
        root: RootId,
        #[command(flatten)]
        store: StoreArguments,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl RootArguments {
    pub(super) fn json(&self) -> bool {
        match &self.command {
            RootCommand::List { json, .. }
            | RootCommand::New { json, .. }
            | RootCommand::Clear { json, .. } => *json,
        }
    }
}

/// Opens, lists and clears roots.
pub(super) async fn roots(arguments: &RootArguments) -> Ended {
    match &arguments.command {
        RootCommand::List { store, .. } => list(&open_store(store)?).await,
        RootCommand::New { store, keys, key, .. } => {
            let (store, keys) = (open_store(store)?, open_keys(&keys.keys)?);
            let key = key.as_deref().unwrap_or_else(|| keys.default_key());
            gc::rotate(&store, &*keys, key).await?;
            list(&store).await
        }
        RootCommand::Clear { root, store, .. } => {
            let store = open_store(store)?;
            gc::clear_alarms(&store, *root).await?;
            list(&store).await
        }
    }
}

async fn list(store: &Store) -> Ended {
    let (mut lines, mut objects) = (Vec::new(), Vec::new());
    for root in Root::all(store).await? {
        let alarms = gc::alarm_count(store, root.id).await?;
        let state = gc::name(root.state);
        let warning = if alarms > 0 { format!("  {alarms} ALARMS") } else { String::new() };
        lines.push(format!("{}  {state}{warning}", root.id));
        objects.push(json!({ "root": root.id.to_string(), "state": state, "alarms": alarms }));
    }
    Ok(Output { text: lines.join("\n"), json: json!({ "roots": objects }), good: true })
}

/// Copies, expires, deletes, and sweeps up after killed writers. A root with an alarm is told of and left alone, and the exit code says so.
pub(super) async fn collect(arguments: &GcArguments) -> Ended {
    let store = open_store(&arguments.store)?;
    let live = arguments.live.as_deref().map(read_live).transpose()?;
    let (mut lines, mut objects, mut good) = (Vec::new(), Vec::new(), true);
    let done = |word: &str| {
        if arguments.dry_run { format!("would be {word}") } else { word.to_owned() }
    };
    let roots = Root::all(&store).await?;
    if let Some(live) = &live {
        let copied = gc::migrate(&store, live, arguments.dry_run).await?;
        let (n, bytes) = (copied.objects, copied.bytes);
        lines.push(format!("{n} objects, {bytes} bytes {} to the active root", done("copied")));
        objects.push(json!({ "action": "copy", "objects": n, "bytes": bytes }));
        for root in roots.iter().filter(|root| root.state == RootState::Retired) {
            if !arguments.dry_run {
                gc::expire(&store, root.id).await?;
            }
            lines.push(format!("root {} {}", root.id, done("expired")));
            objects.push(json!({ "action": "expire", "root": root.id.to_string() }));
        }
    }
    for root in roots.iter().filter(|root| root.state == RootState::Expired) {
        let id = root.id.to_string();
        match gc::delete(&store, root.id, EXPIRED_FOR_MIN, arguments.dry_run).await {
            Ok(deleted) => {
                let (n, bytes) = (deleted.objects, deleted.bytes);
                lines.push(format!("root {id}: {n} objects, {bytes} bytes {}", done("deleted")));
                let object =
                    json!({ "action": "delete", "root": id, "objects": n, "bytes": bytes });
                objects.push(object);
            }
            Err(error @ gc::GcError::Early { .. }) => {
                lines.push(error.to_string());
                objects.push(json!({ "action": "wait", "root": id }));
            }
            Err(error @ gc::GcError::Alarm { .. }) => {
                good = false;
                lines.push(format!("ALARM: {error}"));
                objects.push(json!({ "action": "alarm", "root": id }));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let swept = store.sweep(UNFINISHED_FOR_MIN, arguments.dry_run).await?;
    if swept.objects > 0 {
        let (n, bytes) = (swept.objects, swept.bytes);
        lines.push(format!("{n} unfinished files, {bytes} bytes {}", done("deleted")));
        objects.push(json!({ "action": "sweep", "files": n, "bytes": bytes }));
    }
    if lines.is_empty() {
        lines.push("nothing to collect".to_owned());
    }
    let json: Value = json!({ "dryRun": arguments.dry_run, "actions": objects });
    Ok(Output { text: lines.join("\n"), json, good })
}

fn read_live(path: &Path) -> Result<BTreeSet<String>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}
