//! `votive image create`: from ZIPs or a container image to an artifact in a store.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;
use clap::Args;
use serde_json::json;
use votive_artifact::digest::{Digest, Hasher};
use votive_artifact::oci::{self, OciSource};
use votive_artifact::seal::Method;
use votive_artifact::store::upload::{Stored, UploadProgress, UploadSpec, Uploader};
use votive_artifact::store::verify::find;
use votive_artifact::store::{READS_BYTES_MAX, Store, StoreError};
use votive_artifact::{Limits, optimise_zips_unnamed};

use super::progress::Progress;
use super::{
    Ended, Failure, KeysArguments, Output, StoreArguments, open_keys, open_store, say, table,
};
use crate::artifacts::ReadList;

/// What images are made by: another number for another way, so that what was made before is made anew.
const FORMAT: &[u8] = b"votive image source 2";

/// Where ZIPs' images are built: in memory, so that their content is on no disk in the clear.
const MEMORY: &str = "/dev/shm";

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    #[command(flatten)]
    source: SourceArguments,
    #[command(flatten)]
    store: StoreArguments,
    #[command(flatten)]
    keys: KeysArguments,
    /// The key that wraps the artifact's data key, and the salt of a new root; by default `votive`, or the first one of
    /// awskms:
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// What the artifact is for, such as the ARN of a function's version; by default a name that follows from its content
    #[arg(long, value_name = "IDENTITY")]
    artifact: Option<String>,
    /// Lay the image out for starts like those of this artifact, which is of the same container image and has been started:
    /// what they read lies together
    #[arg(long, value_name = "IDENTITY", conflicts_with = "zip")]
    starts_like: Option<String>,
    /// Where the image is built, in a file without a name; by default in memory for ZIPs, in the system's folder for temporary
    /// files for container images
    #[arg(long, value_name = "DIR")]
    temporary: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct SourceArguments {
    /// A function's ZIP; given several times, layers in their order and then the code
    #[arg(long, value_name = "FILE")]
    zip: Vec<PathBuf>,
    /// A container image: an OCI image layout, a folder or a tar of one, with :TAG or @sha256:DIGEST if it has several
    #[arg(long, value_name = "PATH[:TAG|@DIGEST]")]
    oci: Option<String>,
}

/// Makes the artifact.
pub(super) async fn run(arguments: &CreateArguments) -> Ended {
    let store = open_store(&arguments.store)?;
    let keys = open_keys(&arguments.keys.keys)?;
    let key = arguments.key.clone().unwrap_or_else(|| keys.default_key().to_owned());
    let (zips, oci) =
        (arguments.source.zip.clone(), arguments.source.oci.as_deref().map(oci_source));
    let method = if oci.is_some() { Method::Convergent } else { Method::ServiceKey };
    let source = match &oci {
        Some(oci) => Digest::of_parts(&[FORMAT, oci::manifest_digest(oci)?.as_bytes()]),
        None => digest_zips(&zips)?,
    };
    let mut spec = UploadSpec {
        identity: arguments.artifact.clone(),
        key: key.clone(),
        method,
        source,
        config: Vec::new(),
    };
    let uploader = Uploader::new(store.clone(), keys, &key).await?;
    let reads = match &arguments.starts_like {
        Some(started) => {
            let reads = recorded(&store, &uploader, &spec, started).await?;
            let parts = [FORMAT, b" for starts", spec.source.as_bytes(), &reads.encode()];
            spec.source = Digest::of_parts(&parts);
            Some(reads)
        }
        None => None,
    };
    if let Some(stored) = uploader.find(&spec).await? {
        say(arguments.quiet, "made before: nothing is made and nothing is stored");
        return Ok(summary(&stored));
    }
    say(arguments.quiet, "making the image");
    let temporary = arguments.temporary.clone();
    let made = tokio::task::spawn_blocking(move || match oci {
        Some(oci) => from_oci(&oci, temporary.as_deref(), reads.as_ref()),
        None => from_zips(&zips, temporary.as_deref()),
    });
    let (image, bytes, config) = made.await.map_err(std::io::Error::other)??;
    spec.config = config;
    let chunks = votive_artifact::chunk::chunks_of(bytes).unwrap_or(0);
    let mut progress = Progress::new(arguments.quiet, "storing", chunks);
    let mut tell = |at: UploadProgress| progress.at(at.done, &format!("({} new)", at.new_chunks));
    let stored = uploader.upload(&spec, Arc::new(image), bytes, &mut tell).await?;
    progress.end();
    Ok(summary(&stored))
}

/// The image, its size and its configuration.
type Made = Result<(File, u64, Vec<u8>), MadeError>;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
enum MadeError {
    #[error(transparent)]
    Zip(#[from] votive_artifact::OptimiseError),
    #[error(transparent)]
    Oci(#[from] oci::OciError),
}

fn from_zips(zips: &[PathBuf], temporary: Option<&Path>) -> Made {
    let folder = temporary.unwrap_or(Path::new(MEMORY));
    let (file, summary) = optimise_zips_unnamed(zips, folder, &Limits::LAMBDA)?;
    Ok((file, summary.image_bytes, Vec::new()))
}

/// What starts of the artifact `started` have read, which must be the container image of `spec`, laid out as ever.
async fn recorded(
    store: &Store,
    uploader: &Uploader,
    spec: &UploadSpec,
    started: &str,
) -> Result<ReadList, Failure> {
    let found = find(store, started).await?;
    let plain = UploadSpec { identity: Some(started.to_owned()), ..spec.clone() };
    let refused = |why| Failure::Usage(format!("--starts-like {started}: {why}"));
    if uploader.find(&plain).await?.is_none_or(|known| known.manifest != found.artifact.manifest) {
        return Err(refused("the artifact is not of this container image"));
    }
    let path = store.reads_path(found.root, &found.artifact.manifest);
    match store.get(&path, READS_BYTES_MAX).await {
        Ok(bytes) => ReadList::parse(&bytes).ok_or_else(|| refused("what it read is damaged")),
        Err(StoreError::NotFound { .. }) => Err(refused("no start of it has been recorded")),
        Err(error) => Err(error.into()),
    }
}

fn from_oci(source: &OciSource, temporary: Option<&Path>, reads: Option<&ReadList>) -> Made {
    let (system, limits) = (std::env::temp_dir(), &Limits::CONTAINER_IMAGE);
    let folder = temporary.unwrap_or(&system);
    let image = match reads {
        Some(reads) => oci::image_for_starts(source, folder, limits, reads.chunks())?,
        None => oci::image(source, folder, limits)?,
    };
    Ok((image.file, image.summary.image_bytes, image.config.encode()))
}

/// `PATH`, `PATH:TAG` or `PATH@sha256:DIGEST`; what exists under the whole name is meant by it.
fn oci_source(text: &str) -> OciSource {
    let (path, reference) = if Path::new(text).exists() {
        (text, None)
    } else if let Some((path, digest)) = text.split_once("@sha256:") {
        (path, Some(format!("sha256:{digest}")))
    } else {
        match text.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (text, None),
        }
    };
    let source =
        if Path::new(path).is_dir() { OciSource::folder(path) } else { OciSource::archive(path) };
    match reference {
        Some(reference) => source.with_reference(&reference),
        None => source,
    }
}

/// The digest of the ZIPs' contents in their order.
fn digest_zips(zips: &[PathBuf]) -> Result<Digest, Failure> {
    let mut all = Hasher::new();
    all.update(FORMAT);
    for zip in zips {
        let read = || {
            let (mut file, mut one) = (File::open(zip)?, Hasher::new());
            let mut piece = vec![0; 1 << 20];
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(one.finish()),
                    length => one.update(&piece[..length]),
                }
            }
        };
        let digest: std::io::Result<Digest> = read();
        let digest = digest
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", zip.display())))?;
        all.update(digest.as_bytes());
    }
    Ok(all.finish())
}

fn summary(stored: &Stored) -> Output {
    let data_chunks = stored.chunks - stored.zero_chunks;
    let known = data_chunks - stored.new_chunks;
    let ratio = if data_chunks == 0 { 0.0 } else { f64::from(known) / f64::from(data_chunks) };
    let rows = [
        ("artifact", stored.identity.clone()),
        ("manifest", stored.manifest.to_string()),
        ("root", stored.root.to_string()),
        ("logical", ByteSize(stored.image_bytes).to_string()),
        ("stored", format!("{} new", ByteSize(stored.stored_bytes))),
        (
            "chunks",
            format!(
                "{}: {} new, {known} known, {} of zeros",
                stored.chunks, stored.new_chunks, stored.zero_chunks
            ),
        ),
        ("dedup", format!("{:.1} %", ratio * 100.0)),
    ];
    let json = json!({
        "artifact": stored.identity,
        "manifest": stored.manifest.to_string(),
        "root": stored.root.to_string(),
        "logicalBytes": stored.image_bytes,
        "storedBytes": stored.stored_bytes,
        "chunks": stored.chunks,
        "zeroChunks": stored.zero_chunks,
        "newChunks": stored.new_chunks,
        "dedupRatio": ratio,
    });
    Output { text: table(&rows), json, good: true }
}
