//! Layouts and layers for tests, made by the `tar` crate and by hand.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};

use super::super::OciSource;
use crate::digest::Digest;

/// A tar in the making.
pub(in crate::oci) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(in crate::oci) fn new() -> Tar {
        Tar(tar::Builder::new(Vec::new()))
    }

    pub(in crate::oci) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.get_ref().clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    pub(in crate::oci) fn file(self, name: &str, content: &[u8]) -> Tar {
        self.file_of(name, 0o644, (0, 0), 1000, content)
    }

    pub(in crate::oci) fn file_of(
        mut self,
        name: &str,
        mode: u32,
        (user, group): (u64, u64),
        time: u64,
        content: &[u8],
    ) -> Tar {
        let mut header = header(tar::EntryType::Regular, mode, content.len());
        header.set_uid(user);
        header.set_gid(group);
        header.set_mtime(time);
        self.0.append_data(&mut header, name, content).unwrap();
        self
    }

    pub(in crate::oci) fn folder(mut self, name: &str) -> Tar {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.0.append_data(&mut header, format!("{name}/"), &b""[..]).unwrap();
        self
    }

    pub(in crate::oci) fn link(self, name: &str, target: &str) -> Tar {
        self.linked(tar::EntryType::Symlink, name, target)
    }

    pub(in crate::oci) fn hard_link(self, name: &str, target: &str) -> Tar {
        self.linked(tar::EntryType::Link, name, target)
    }

    fn linked(mut self, kind: tar::EntryType, name: &str, target: &str) -> Tar {
        let mut header = header(kind, 0o777, 0);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    /// Pax records before the next entry.
    pub(in crate::oci) fn pax(mut self, records: &[(&str, &[u8])]) -> Tar {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    /// An entry with any name and letter, as nobody would make it.
    pub(in crate::oci) fn raw(
        mut self,
        name: &[u8],
        flag: u8,
        target: &[u8],
        content: &[u8],
    ) -> Tar {
        let mut header = header(tar::EntryType::new(flag), 0o644, content.len());
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }
}

/// A header without a name.
pub(in crate::oci) fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A layer, as it is stored and as it was.
#[derive(Clone)]
pub(in crate::oci) struct Blob {
    pub(in crate::oci) stored: Vec<u8>,
    pub(in crate::oci) unpacked: Digest,
    pub(in crate::oci) media_type: String,
}

impl Blob {
    fn new(suffix: &str, tar: &[u8], stored: Vec<u8>) -> Blob {
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        Blob { stored, unpacked: Digest::of(tar), media_type }
    }

    pub(in crate::oci) fn plain(tar: Vec<u8>) -> Blob {
        Blob::new("", &tar, tar.clone())
    }

    pub(in crate::oci) fn gzip(tar: Vec<u8>) -> Blob {
        Blob::new("+gzip", &tar, gzipped(&tar))
    }

    /// Several gzip streams one after another, as parallel compressors write them.
    pub(in crate::oci) fn gzip_members(tar: Vec<u8>) -> Blob {
        let stored = tar.chunks(3000).flat_map(gzipped).collect();
        Blob::new("+gzip", &tar, stored)
    }

    pub(in crate::oci) fn zstd(tar: Vec<u8>) -> Blob {
        Blob::new("+zstd", &tar, zstandard(&tar))
    }

    /// Several zstd frames with one between them that is to be skipped, as zstd:chunked writes them.
    pub(in crate::oci) fn zstd_frames(tar: Vec<u8>) -> Blob {
        let skipped = [&0x184d_2a50_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"hello"].concat();
        let mut stored = Vec::new();
        for part in tar.chunks(5000) {
            stored.extend(zstandard(part));
            stored.extend(&skipped);
        }
        Blob::new("+zstd", &tar, stored)
    }
}

pub(in crate::oci) fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(in crate::oci) fn zstandard(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd is in PATH");
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// A layout in a folder of its own.
pub(in crate::oci) struct LayoutFolder {
    folder: TempDir,
    layers: Vec<Blob>,
}

impl LayoutFolder {
    pub(in crate::oci) fn new(layers: impl IntoIterator<Item = Blob>) -> LayoutFolder {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = LayoutFolder { folder, layers: layers.into_iter().collect() };
        layout.execution(json!({}));
        layout
    }

    pub(in crate::oci) fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(in crate::oci) fn source(&self) -> OciSource {
        OciSource::folder(self.folder.path())
    }

    /// Writes everything, with this section of the configuration.
    pub(in crate::oci) fn execution(&self, section: Value) {
        let manifest = self.image("amd64", &self.layers, section);
        self.index(vec![manifest]);
    }

    pub(in crate::oci) fn blob(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes);
        fs::write(self.folder.path().join(format!("blobs/sha256/{digest}")), bytes).unwrap();
        format!("sha256:{digest}")
    }

    pub(in crate::oci) fn document(&self, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = self.blob(&bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The descriptor of an image that is written.
    pub(in crate::oci) fn image(
        &self,
        architecture: &str,
        layers: &[Blob],
        section: Value,
    ) -> Value {
        let diff_ids: Vec<String> =
            layers.iter().map(|l| format!("sha256:{}", l.unpacked)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": section,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.document("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.blob(&layer.stored);
                json!({ "mediaType": layer.media_type, "digest": digest, "size": layer.stored.len() })
            })
            .collect();
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        self.document("application/vnd.oci.image.manifest.v1+json", &manifest)
    }

    pub(in crate::oci) fn index(&self, manifests: Vec<Value>) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.folder.path().join("index.json"), index.to_string()).unwrap();
    }

    /// Writes everything, with a tag.
    pub(in crate::oci) fn tag(&self, tag: &str) {
        let mut manifest = self.image("amd64", &self.layers, json!({}));
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        self.index(vec![manifest]);
    }

    /// The same as one tar.
    pub(in crate::oci) fn archive(&self) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        builder.append_dir_all(".", self.folder.path()).unwrap();
        builder.finish().unwrap();
        file
    }
}

/// A layout with an image for two platforms, tagged `many`, and another one, tagged `one`.
pub(in crate::oci) fn two_platforms_and_two_tags() -> LayoutFolder {
    let layout = LayoutFolder::new([]);
    let image = |architecture: &str, file: &str| {
        let layer = Blob::gzip(Tar::new().file(file, b"").bytes());
        let mut image = layout.image(architecture, &[layer], json!({}));
        image["platform"] = json!({ "architecture": architecture, "os": "linux" });
        image
    };
    let many = json!({
        "schemaVersion": 2, "manifests": [image("arm64", "arm64"), image("amd64", "amd64")],
    });
    let mut many = layout.document("application/vnd.oci.image.index.v1+json", &many);
    let mut one = image("amd64", "one");
    one.as_object_mut().unwrap().remove("platform");
    for (descriptor, tag) in [(&mut many, "many"), (&mut one, "one")] {
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    }
    layout.index(vec![one, many]);
    layout
}
