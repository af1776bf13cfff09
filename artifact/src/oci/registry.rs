//! Fetches a container image from a registry, by digest, into a layout of its own.
//!
//! skopeo does the talking. Registries have many ways to say who may pull (tokens, credential helpers of clouds, mirrors,
//! client certificates), skopeo knows them all with the operator's existing configuration, and an image is pulled once, when a
//! function is made: a program that is started and ends keeps an HTTP client and its parsers out of the agent.
//! Nothing that skopeo says is believed: manifests are compared with the digests that were asked for, and the
//! blobs with the manifest's when the image is made of them.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::document::{DocumentKind, Index, Manifest};
use super::limits::{DOCUMENT_BYTES, LAYERS};
use super::select;
use super::{OciError, OciSource};
use crate::archive::shown;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::workplace::Workplace;

/// The program that talks to registries.
const SKOPEO: &str = "skopeo";

/// The longest a pull may take, in seconds: 10 GiB at 100 Mbit/s.
const SECONDS: u32 = 900;

/// The longest reference, in bytes: a host's name, a path of 255 bytes and a digest.
const REFERENCE_BYTES: usize = 600;

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference does not name one image for ever.
    #[error("{reference:?} is not of the form registry/name@sha256:digest")]
    Reference {
        /// What was given.
        reference: String,
    },
    /// skopeo is not there.
    #[error("skopeo is not in PATH; it is in Debian's package skopeo")]
    Missing,
    /// A process could not be started or read from.
    #[error("cannot run skopeo")]
    Run(#[source] io::Error),
    /// skopeo did not get it.
    #[error("skopeo cannot fetch {reference}: {reason}")]
    Failed {
        /// What was to be fetched.
        reference: String,
        /// The last line that skopeo wrote.
        reason: String,
    },
    /// The manifest is not the one that was asked for.
    #[error("the registry gave another manifest than {reference} names")]
    Digest {
        /// What was to be fetched.
        reference: String,
    },
    /// The manifest is refused.
    #[error(transparent)]
    Refused(#[from] OciError),
    /// The layout could not be written.
    #[error("cannot write in {path}")]
    Write {
        /// The folder for temporary files.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An image that was pulled. It is removed when dropped.
#[derive(Debug)]
pub struct PulledImage {
    source: OciSource,
    _workplace: Workplace,
}

impl PulledImage {
    /// The layout that holds it.
    #[must_use]
    pub fn source(&self) -> &OciSource {
        &self.source
    }
}

/// How to talk to a registry, where skopeo's own configuration does not say.
#[derive(Clone, Debug, Default)]
pub struct PullSpec {
    /// A file of credentials in the form of `containers-auth.json`.
    pub auth_file: Option<PathBuf>,
    /// Talk to the registry without TLS: for one on this machine.
    pub plain_http: bool,
}

/// Pulls `registry/name@sha256:digest` for linux/amd64; `folder` is where temporary files may be.
///
/// # Errors
/// [`PullError`]
pub fn pull(
    reference: &str,
    spec: &PullSpec,
    folder: &Path,
    limits: &Limits,
) -> Result<PulledImage, PullError> {
    let write = |source| PullError::Write { path: folder.to_owned(), source };
    let (name, digest) = parse_reference(reference)?;
    let workplace = Workplace::new_in(folder).map_err(write)?;
    let pull = Pull { name, spec, workplace: workplace.path() };
    let mut digest = digest;
    let mut bytes = pull.manifest(&digest)?;
    if kind_of(&bytes) == DocumentKind::Index {
        let index: Index = select::parse(&bytes, "index of platforms")?;
        let chosen = select::choose(&index.manifests, &format!("under {reference}"))?;
        digest = select::digest_of(&chosen.digest)?;
        bytes = pull.manifest(&digest)?;
    }
    let manifest: Manifest = select::parse(&bytes, "manifest")?;
    let layers = manifest.layers.iter().chain([&manifest.config]);
    let packed = layers.fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    if packed > limits.zipped_bytes {
        let limit = limits.zipped_bytes;
        let what = "layers".to_owned();
        return Err(OciError::TooBig { what, bytes: packed, limit }.into());
    }
    if manifest.layers.len() > LAYERS {
        let layers = manifest.layers.len();
        return Err(OciError::Layers { layers, unpacked: layers }.into());
    }
    let got = workplace.path().join("got");
    pull.copy(&digest, &got, packed)?;
    let layout = workplace.path().join("layout");
    make_layout(&got, &layout, &digest, &bytes).map_err(write)?;
    Ok(PulledImage { source: OciSource::folder(layout), _workplace: workplace })
}

/// Splits a reference into the part before the digest, and the digest.
fn parse_reference(reference: &str) -> Result<(&str, Digest), PullError> {
    let bad = || PullError::Reference { reference: shown(reference.as_bytes()) };
    let (name, digest) = reference.split_once('@').ok_or_else(bad)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    if reference.len() > REFERENCE_BYTES
        || !starts
        || !name.contains('/')
        || !name.chars().all(plain)
    {
        return Err(bad());
    }
    let digest = digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    Ok((name, digest.ok_or_else(bad)?))
}

/// What a manifest's bytes are. Both have a schema version and a media type that some leave out.
fn kind_of(bytes: &[u8]) -> DocumentKind {
    match serde_json::from_slice::<Index>(bytes) {
        Ok(_) => DocumentKind::Index,
        Err(_) => DocumentKind::Manifest,
    }
}

/// One pull.
struct Pull<'a> {
    name: &'a str,
    spec: &'a PullSpec,
    workplace: &'a Path,
}

impl Pull<'_> {
    /// Fetches one manifest, and compares it with its digest.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, PullError> {
        let reference = format!("{}@sha256:{digest}", self.name);
        let mut command = self.skopeo(DOCUMENT_BYTES);
        command.args(["inspect", "--raw"]);
        if self.spec.plain_http {
            command.arg("--tls-verify=false");
        }
        self.authenticate(&mut command);
        command.arg(format!("docker://{reference}"));
        let bytes = run(command, &reference)?;
        if Digest::of(&bytes) != *digest {
            return Err(PullError::Digest { reference });
        }
        Ok(bytes)
    }

    /// Fetches one image with its blobs; no file may be larger than `bytes`, which is what the manifest says of them all.
    fn copy(&self, digest: &Digest, into: &Path, bytes: u64) -> Result<(), PullError> {
        let reference = format!("{}@sha256:{digest}", self.name);
        let mut command = self.skopeo(bytes.max(DOCUMENT_BYTES));
        command.arg("--tmpdir").arg(self.workplace).args(["copy", "--preserve-digests", "--quiet"]);
        if self.spec.plain_http {
            command.arg("--src-tls-verify=false");
        }
        self.authenticate(&mut command);
        command.arg(format!("docker://{reference}"));
        let mut place = std::ffi::OsString::from("dir:");
        place.push(into);
        command.arg(place);
        run(command, &reference).map(drop)
    }

    /// skopeo with an end in time, and no file of its larger than this.
    fn skopeo(&self, file_bytes: u64) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", &SECONDS.to_string()]);
        command.args(["prlimit", &format!("--fsize={file_bytes}"), SKOPEO]);
        command
    }

    fn authenticate(&self, command: &mut Command) {
        if let Some(file) = &self.spec.auth_file {
            command.arg("--authfile").arg(file);
        }
    }
}

/// Runs a command; returns what it wrote.
fn run(mut command: Command, reference: &str) -> Result<Vec<u8>, PullError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(PullError::Run)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // Both are read at once: a process that fills one pipe does not wait for the other.
    let (out, err) = std::thread::scope(|scope| {
        let err = scope.spawn(|| read_bounded(err));
        (read_bounded(out), err.join())
    });
    let status = child.wait().map_err(PullError::Run)?;
    let out = out.map_err(PullError::Run)?;
    if status.success() {
        return Ok(out);
    }
    let err = err.ok().and_then(Result::ok).unwrap_or_default();
    let text = String::from_utf8_lossy(&err);
    // What `prlimit` exits with when there is no such program.
    if status.code() == Some(127) || text.contains("failed to execute skopeo") {
        return Err(PullError::Missing);
    }
    let reason = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    let (reference, reason) = (reference.to_owned(), shown(reason.trim().as_bytes()));
    Err(PullError::Failed { reference, reason })
}

/// Reads up to the size of a document; the rest is dropped.
fn read_bounded(stream: Option<impl io::Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.by_ref().take(DOCUMENT_BYTES).read_to_end(&mut bytes)?;
        io::copy(&mut stream, &mut io::sink())?;
    }
    Ok(bytes)
}

/// Makes a layout of what skopeo left: a folder of blobs by their digits.
///
/// skopeo would write a layout itself, but it would have to rewrite Docker's manifests for that, and then their digests
/// would be others.
fn make_layout(got: &Path, layout: &Path, digest: &Digest, manifest: &[u8]) -> io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for file in fs::read_dir(got)? {
        let file = file?;
        let name = file.file_name();
        if name.to_str().is_some_and(|name| name.parse::<Digest>().is_ok()) {
            fs::rename(file.path(), blobs.join(name))?;
        }
    }
    fs::write(blobs.join(digest.to_string()), manifest)?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [
            { "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": manifest.len() }
        ],
    });
    fs::write(layout.join("index.json"), index.to_string())
}

#[cfg(test)]
mod tests;
