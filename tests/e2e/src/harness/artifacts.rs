//! A store of artifacts with its key service, as `votive image` makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use votive_artifact::digest::Digest;

use super::bounded;
use super::home::votive;
use super::worker::PATIENCE;

/// The key.
const KEY: &str = "votive";
/// The unit of tar archives.
const BLOCK: usize = 512;

/// A store and a key service in a folder of their own.
#[derive(Debug)]
pub struct ArtifactStore {
    folder: TempDir,
}

impl ArtifactStore {
    /// One with a key and nothing else.
    ///
    /// # Errors
    /// No images.
    pub fn new() -> Result<Self> {
        let store = Self { folder: tempfile::tempdir()? };
        store.key("create")?;
        Ok(store)
    }

    /// The folder that everything is in.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    fn keys(&self) -> PathBuf {
        self.path().join("keys")
    }

    /// What a worker's configuration needs for it.
    #[must_use]
    pub fn settings(&self) -> [(&'static str, String); 2] {
        let text = |path: PathBuf| format!("\"{}\"", path.display());
        [("artifacts.store", text(self.store())), ("artifacts.keys", text(self.keys()))]
    }

    /// Does with the key what `votive image key` calls `verb`.
    ///
    /// # Errors
    /// It is refused.
    pub fn key(&self, verb: &str) -> Result<()> {
        let mut command = Command::new(votive()?);
        command.args(["image", "key", verb, KEY, "--keys"]).arg(self.keys());
        let ended = bounded(&mut command, PATIENCE)?;
        ensure!(ended.status.success(), "votive image key {verb}: {}", ended.stderr);
        Ok(())
    }

    /// Makes an artifact of a ZIP (`--zip`) or of a container image (`--oci`); gives its identity.
    ///
    /// # Errors
    /// It is refused.
    pub fn create(&self, kind: &str, source: &Path) -> Result<String> {
        let mut command = Command::new(votive()?);
        command.args(["image", "create", "--json", "--quiet", kind]).arg(source);
        command.arg("--store").arg(self.store()).arg("--keys").arg(self.keys());
        let ended = bounded(&mut command, PATIENCE)?;
        ensure!(ended.status.success(), "votive image create: {}", ended.stderr);
        let made: Value = serde_json::from_slice(&ended.stdout)?;
        Ok(made["artifact"].as_str().context("no identity")?.to_owned())
    }

    /// Takes the store away: whatever is read of it is not there.
    ///
    /// # Errors
    /// The file system's.
    pub fn lose(&self) -> Result<()> {
        Ok(fs::rename(self.store(), self.path().join("lost"))?)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// The file system's.
    pub fn restore(&self) -> Result<()> {
        // Something may have been stored meanwhile, and is lost with it.
        if self.store().exists() {
            fs::remove_dir_all(self.store())?;
        }
        Ok(fs::rename(self.path().join("lost"), self.store())?)
    }
}

/// Writes a container image of one layer as an OCI image layout: these programs, and how they are run.
///
/// # Errors
/// The file system's.
pub fn write_layout(place: &Path, programs: &[(&str, &[u8])], config: &Value) -> Result<()> {
    let mut layer = Vec::new();
    for (name, bytes) in programs {
        layer.extend_from_slice(&header(name, bytes.len()));
        layer.extend_from_slice(bytes);
        layer.resize(layer.len().next_multiple_of(BLOCK), 0);
    }
    layer.resize(layer.len() + 2 * BLOCK, 0);
    let blobs = place.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |kind: &str, bytes: &[u8]| -> Result<Value> {
        let digest = Digest::of(bytes).to_string();
        fs::write(blobs.join(&digest), bytes)?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
        }))
    };
    let layer = blob("layer.v1.tar", &layer)?;
    let document = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob("config.v1+json", document.to_string().as_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let document =
        json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
    let manifest = blob("manifest.v1+json", document.to_string().as_bytes())?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(place.join("index.json"), index.to_string())?;
    Ok(fs::write(place.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}

/// The header of a program of root's in a tar archive, as POSIX describes it.
fn header(name: &str, bytes: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{bytes:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
