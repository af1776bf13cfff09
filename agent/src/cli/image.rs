//! `votive image`: artifacts in a store, and the keys that they are encrypted with.

use std::io::{self, Write as _};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use votive_artifact::keys::{self as key_services, KeyService, OpenKeysError};
use votive_artifact::seal::Method;
use votive_artifact::store::Store;
use votive_artifact::store::verify::{Found, find, identities, verify};

use crate::cli::{EXIT_FAILURE, EXIT_USAGE, complain, print};

mod create;
mod gc;
mod keys;
mod progress;

#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Make an artifact of ZIPs or of a container image, once: the second time nothing is made and nothing stored
    Create(create::CreateArguments),
    /// Tell what an artifact is made of; needs no key
    Inspect(InspectArguments),
    /// Read every chunk of an artifact, or of all, and compare it with its name; with --keys, decrypt it as well
    ///
    /// Exit code 0 if all is well, 1 if something is missing or damaged.
    Verify(VerifyArguments),
    /// Copy what is needed out of retired roots, and delete the roots that have expired
    ///
    /// In a folder, files that killed writers have left go as well, an hour later.
    /// A root whose artifacts are read after it has expired raises an alarm, and is not deleted.
    Gc(gc::GcArguments),
    /// Open, list and reopen roots: the parts of a store that are deleted as a whole
    Root(gc::RootArguments),
    /// Make, rotate, disable and enable the keys of the embedded key service, and list those of either
    Key(keys::KeyArguments),
}

#[derive(Debug, Args)]
struct StoreArguments {
    /// The store: a folder, file:///folder or s3://bucket/prefix; S3's endpoint and credentials come from AWS_ENDPOINT_URL,
    /// AWS_REGION, AWS_ACCESS_KEY_ID and their like
    #[arg(long, value_name = "URL", env = "VOTIVE_STORE")]
    store: String,
}

#[derive(Debug, Args)]
struct KeysArguments {
    /// The key service: the embedded one's folder, as `votive image key create` makes it, or
    /// `awskms:[//HOST[:PORT]/]KEY[,KEY...][?region=REGION]` for AWS KMS's API
    #[arg(long, value_name = "KEYS", env = "VOTIVE_KEYS")]
    keys: String,
}

#[derive(Debug, Args)]
struct InspectArguments {
    /// The artifact's identity; without one, all artifacts are listed
    #[arg(value_name = "IDENTITY")]
    identity: Option<String>,
    #[command(flatten)]
    store: StoreArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArguments {
    /// The artifact's identity; all artifacts without one
    #[arg(value_name = "IDENTITY")]
    identity: Option<String>,
    #[command(flatten)]
    store: StoreArguments,
    /// The key service: a folder, or awskms:KEY
    #[arg(long, value_name = "KEYS", env = "VOTIVE_KEYS")]
    keys: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Why a subcommand failed, kept apart by exit code.
enum Failure {
    /// The caller's mistake: nothing was done.
    Usage(String),
    /// Anything else.
    Failed(Box<dyn std::error::Error>),
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Failed(Box::new(error))
    }
}

/// What a subcommand ends with.
type Ended = Result<Output, Failure>;

/// What goes to standard output, and whether all is well.
struct Output {
    text: String,
    json: Value,
    good: bool,
}

/// Does what the arguments say; gives the exit code.
pub(super) fn run(arguments: &ImageArguments) -> u8 {
    // Chunks are sealed on threads of their own; what waits for a store needs few.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return super::fail(&error),
    };
    let (ended, as_json) = runtime.block_on(async {
        match &arguments.command {
            ImageCommand::Create(arguments) => (create::run(arguments).await, arguments.json),
            ImageCommand::Inspect(arguments) => (inspect(arguments).await, arguments.json),
            ImageCommand::Verify(arguments) => (verify_all(arguments).await, arguments.json),
            ImageCommand::Gc(arguments) => (gc::collect(arguments).await, arguments.json),
            ImageCommand::Root(arguments) => (gc::roots(arguments).await, arguments.json()),
            ImageCommand::Key(arguments) => (keys::run(arguments).await, arguments.json()),
        }
    });
    match ended {
        Ok(output) => {
            let text = if as_json { output.json.to_string() } else { output.text };
            let printed = text.is_empty() || print(text.as_bytes()).is_ok();
            if printed && output.good { 0 } else { EXIT_FAILURE }
        }
        Err(Failure::Usage(text)) => {
            complain(&format!("votive: {text}"));
            EXIT_USAGE
        }
        Err(Failure::Failed(error)) => super::fail(&*error),
    }
}

fn open_store(arguments: &StoreArguments) -> Result<Store, Failure> {
    Ok(Store::open(&arguments.store)?)
}

fn open_keys(spec: &str) -> Result<Arc<dyn KeyService>, Failure> {
    key_services::open(spec).map_err(refuse)
}

/// What names no key service is the caller's mistake.
fn refuse(error: OpenKeysError) -> Failure {
    match error {
        OpenKeysError::NoService { folder } => {
            let folder = folder.display();
            Failure::Usage(format!(
                "there is no key service in {folder}: make one with `votive image key create NAME --keys {folder}`"
            ))
        }
        OpenKeysError::Spec { .. } => Failure::Usage(error.to_string()),
        OpenKeysError::Key(_) | OpenKeysError::Client { .. } => error.into(),
    }
}

async fn inspect(arguments: &InspectArguments) -> Ended {
    let store = open_store(&arguments.store)?;
    let found = match &arguments.identity {
        Some(identity) => vec![find(&store, identity).await?],
        None => find_all(&store).await?,
    };
    let text = match (&arguments.identity, found.first()) {
        (Some(_), Some(found)) => describe(found),
        _ => found.iter().map(line).collect::<Vec<_>>().join("\n"),
    };
    let json = json!({ "artifacts": found.iter().map(to_json).collect::<Vec<_>>() });
    Ok(Output { text, json, good: true })
}

async fn find_all(store: &Store) -> Result<Vec<Found>, Failure> {
    let mut all = std::collections::BTreeSet::new();
    for root in votive_artifact::store::root::Root::all(store).await? {
        all.extend(identities(store, root.id).await?);
    }
    let mut found = Vec::with_capacity(all.len());
    for identity in all {
        found.push(find(store, &identity).await?);
    }
    Ok(found)
}

async fn verify_all(arguments: &VerifyArguments) -> Ended {
    let store = open_store(&arguments.store)?;
    let keys = arguments.keys.as_deref().map(open_keys).transpose()?;
    let keys = keys.as_deref();
    let found = match &arguments.identity {
        Some(identity) => vec![find(&store, identity).await?],
        None => find_all(&store).await?,
    };
    let (mut lines, mut objects, mut good) = (Vec::new(), Vec::new(), true);
    for found in &found {
        let chunks = found.manifest.zeros().stored();
        let mut progress = progress::Progress::new(arguments.quiet, "verifying", chunks);
        let verified = verify(&store, found, keys, &mut |done| progress.at(done, "")).await?;
        progress.end();
        let (missing, damaged) = (&verified.missing, &verified.damaged);
        good &= missing.is_empty() && damaged.is_empty();
        let identity = &found.artifact.identity;
        let wrong = match (missing.len(), damaged.len()) {
            (0, 0) => "good".to_owned(),
            (missing, damaged) => format!("{missing} chunks missing, {damaged} damaged"),
        };
        lines.push(format!("{identity}  {} chunks  {wrong}", verified.chunks));
        objects.push(json!({
            "artifact": identity,
            "chunks": verified.chunks,
            "bytes": verified.bytes,
            "missing": missing,
            "damaged": damaged,
        }));
    }
    Ok(Output { text: lines.join("\n"), json: json!({ "artifacts": objects }), good })
}

fn method(found: &Found) -> &'static str {
    match found.manifest.method() {
        Method::Convergent => "convergent",
        Method::ServiceKey => "service key",
    }
}

fn line(found: &Found) -> String {
    let (manifest, artifact) = (&found.manifest, &found.artifact);
    let bytes = bytesize::ByteSize(manifest.image_bytes());
    format!("{}  {}  {bytes}  root {}", artifact.identity, method(found), found.root)
}

fn describe(found: &Found) -> String {
    let (manifest, artifact) = (&found.manifest, &found.artifact);
    let zeros = manifest.zeros();
    let rows = [
        ("artifact", artifact.identity.clone()),
        ("manifest", artifact.manifest.to_string()),
        ("root", found.root.to_string()),
        ("encryption", method(found).to_owned()),
        ("key", artifact.key.clone()),
        ("image", format!("{} bytes", manifest.image_bytes())),
        ("chunks", format!("{}, {} of zeros", zeros.chunks(), zeros.chunks() - zeros.stored())),
    ];
    table(&rows)
}

/// Names and values in two columns.
fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {value}");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn to_json(found: &Found) -> Value {
    let (manifest, artifact) = (&found.manifest, &found.artifact);
    json!({
        "artifact": artifact.identity,
        "manifest": artifact.manifest.to_string(),
        "root": found.root.to_string(),
        "sealedInRoot": manifest.root().to_string(),
        "method": method(found),
        "key": artifact.key,
        "imageBytes": manifest.image_bytes(),
        "chunks": manifest.zeros().chunks(),
        "zeroChunks": manifest.zeros().chunks() - manifest.zeros().stored(),
    })
}

/// Says something on standard error, where progress is as well.
fn say(quiet: bool, text: &str) {
    if !quiet {
        // Nobody reads: there is nobody to tell.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
