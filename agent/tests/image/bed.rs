//! A folder with a store, a key service and sources, and `votive image` in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Everything of one test.
pub(crate) struct Bed(tempfile::TempDir);

/// What a run of `votive` has said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Said { code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// The one JSON object that was printed.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.err);
        serde_json::from_str(&self.out).unwrap()
    }
}

impl Bed {
    /// With a key service that has the key `votive`.
    pub(crate) fn new() -> Bed {
        let bed = Bed(tempfile::tempdir().unwrap());
        fs::create_dir(bed.path("tmp")).unwrap();
        let said = bed.run(&["key", "create", "votive"], false);
        assert_eq!(said.out.trim(), "votive  enabled  version 1", "{}", said.err);
        bed
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `votive image ...` with this bed's store and keys.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_votive"));
        command.arg("image").args(arguments).stdin(Stdio::null()).current_dir(self.0.path());
        command.env("VOTIVE_STORE", self.path("store")).env("VOTIVE_KEYS", self.path("keys"));
        command.env("TMPDIR", self.path("tmp"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], json: bool) -> Said {
        let more: &[&str] = if json { &["--json"] } else { &[] };
        Said::of(self.command(&[arguments, more].concat()).output().unwrap())
    }

    /// The object that a run with `--json` prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(arguments, true).json()
    }

    /// A ZIP of these files.
    pub(crate) fn zip(&self, name: &str, files: &[(&str, &[u8])]) -> String {
        let path = self.path(name);
        let mut zip = zip::ZipWriter::new(fs::File::create(&path).unwrap());
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        for (name, content) in files {
            zip.start_file(*name, options).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// An OCI image layout with these layers and this section of its configuration.
    pub(crate) fn layout(&self, name: &str, layers: &[Vec<u8>], execution: &Value) -> String {
        let folder = self.path(name);
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let blob = |media_type: &str, bytes: &[u8]| {
            let digest: String =
                Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(blobs.join(&digest), bytes).unwrap();
            let media_type = format!("application/vnd.oci.image.{media_type}");
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
        };
        let layers: Vec<Value> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": execution,
            "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = blob("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        folder.to_str().unwrap().to_owned()
    }

    /// All files of the store, by their paths in it.
    pub(crate) fn stored(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for path in files(&self.path("store")) {
            let name = path.strip_prefix(self.path("store")).unwrap().to_str().unwrap().to_owned();
            found.insert(name, fs::read(path).unwrap());
        }
        found
    }
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// A layer of these files.
pub(crate) fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = header(tar::EntryType::Regular, content.len());
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A layer of one entry that is no file.
pub(crate) fn entry(kind: tar::EntryType, name: &str, target: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = header(kind, 0);
    if target.is_empty() {
        tar.append_data(&mut header, name, &b""[..]).unwrap();
    } else {
        tar.append_link(&mut header, name, target).unwrap();
    }
    tar.into_inner().unwrap()
}

fn header(kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size as u64);
    header.set_mtime(1000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// So many bytes that nothing compresses, another for each number.
pub(crate) fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect()
}
