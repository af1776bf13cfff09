//! Which image of a layout is meant, and its documents, each compared with its digest.

use std::io::Read as _;

use serde::de::DeserializeOwned;

use super::OciError;
use super::document::{Configuration, Descriptor, DocumentKind, Index, Manifest, Rootfs};
use super::layer::Compression;
use super::limits::{DOCUMENT_BYTES, INDEX_DEPTH, LAYERS};
use super::source::{Blob, Layout, OciSource};
use crate::archive::shown;
use crate::digest::Digest;
use crate::limits::Limits;

/// One layer of an image that was chosen.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) unpacked: Digest,
    pub(super) compression: Compression,
    pub(super) size: u64,
}

/// The digest of the image's manifest, the manifest, and the configuration.
pub(super) fn image_of(
    layout: &Layout,
    source: &OciSource,
) -> Result<(Digest, Manifest, Configuration), OciError> {
    let bytes = read_document(layout.file("index.json"), "index.json")?;
    let index: Index = parse(&bytes, "index.json")?;
    let which = match source.reference() {
        Some(reference) => format!("under {reference:?} in {}", source.path().display()),
        None => format!("in {}", source.path().display()),
    };
    let meant = |descriptor: &Descriptor| match source.reference() {
        None => true,
        Some(reference) => {
            let tag = descriptor.annotations.as_ref().and_then(|a| a.reference.as_deref());
            tag == Some(reference) || descriptor.digest == reference
        }
    };
    let mut candidates: Vec<Descriptor> = index.manifests.into_iter().filter(meant).collect();
    for _ in 0..=INDEX_DEPTH {
        let chosen = choose(&candidates, &which)?;
        let digest = digest_of(&chosen.digest)?;
        match chosen.kind() {
            Some(DocumentKind::Index) => {
                let index: Index = blob(layout, &digest, chosen.size, "index of platforms")?;
                candidates = index.manifests;
            }
            _ => {
                let manifest: Manifest = blob(layout, &digest, chosen.size, "manifest")?;
                let config = digest_of(&manifest.config.digest)?;
                let config: Configuration =
                    blob(layout, &config, manifest.config.size, "configuration")?;
                if !config.platform().is_ours() {
                    return Err(OciError::NoImage { which });
                }
                return Ok((digest, manifest, config));
            }
        }
    }
    Err(OciError::NoImage { which })
}

/// The one for our platform, or else the only one that names no platform.
pub(super) fn choose<'a>(
    candidates: &'a [Descriptor],
    which: &str,
) -> Result<&'a Descriptor, OciError> {
    let images = || candidates.iter().filter(|descriptor| descriptor.kind().is_some());
    let ours = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|platform| platform.is_ours())
    };
    let mut chosen: Vec<&Descriptor> = images().filter(ours).collect();
    if chosen.is_empty() {
        chosen = images().filter(|descriptor| descriptor.platform.is_none()).collect();
    }
    chosen.sort_by(|a, b| a.digest.cmp(&b.digest));
    chosen.dedup_by(|a, b| a.digest == b.digest);
    match chosen[..] {
        [] => Err(OciError::NoImage { which: which.to_owned() }),
        [one] => Ok(one),
        _ => {
            let name = |descriptor: &&Descriptor| {
                let tag = descriptor.annotations.as_ref().and_then(|a| a.reference.as_ref());
                shown(tag.unwrap_or(&descriptor.digest).as_bytes())
            };
            let names: Vec<String> = chosen.iter().take(10).map(name).collect();
            Err(OciError::Ambiguous { names: names.join(", ") })
        }
    }
}

/// The layers of a manifest, from the lowest, with what the configuration says about them.
pub(super) fn layers(
    manifest: &Manifest,
    rootfs: &Rootfs,
    limits: &Limits,
) -> Result<Vec<Layer>, OciError> {
    let (layers, unpacked) = (manifest.layers.len(), rootfs.diff_ids.len());
    if layers != unpacked || layers > LAYERS {
        return Err(OciError::Layers { layers, unpacked });
    }
    let mut left = limits.zipped_bytes;
    let pairs = manifest.layers.iter().zip(&rootfs.diff_ids);
    pairs
        .map(|(layer, unpacked)| {
            left = left.checked_sub(layer.size).ok_or_else(|| OciError::TooBig {
                what: "layers".to_owned(),
                bytes: layer.size,
                limit: limits.zipped_bytes,
            })?;
            Ok(Layer {
                digest: digest_of(&layer.digest)?,
                unpacked: digest_of(unpacked)?,
                compression: layer.compression().ok_or_else(|| OciError::MediaType {
                    media_type: shown(layer.media_type.as_bytes()),
                })?,
                size: layer.size,
            })
        })
        .collect()
}

/// Opens a blob whose size is known.
pub(super) fn open_blob(
    layout: &Layout,
    digest: &Digest,
    size: u64,
    what: &str,
) -> Result<Blob, OciError> {
    let what = || format!("{what} sha256:{digest}");
    let blob = layout.blob(digest).map_err(|source| OciError::Read { what: what(), source })?;
    if blob.size() != size {
        return Err(OciError::Digest { what: what() });
    }
    Ok(blob)
}

/// Reads a document by its digest.
fn blob<T: DeserializeOwned>(
    layout: &Layout,
    digest: &Digest,
    size: u64,
    what: &str,
) -> Result<T, OciError> {
    let opened = open_blob(layout, digest, size, what)?;
    let bytes = read_document(Ok(opened), what)?;
    if Digest::of(&bytes) != *digest {
        return Err(OciError::Digest { what: format!("{what} sha256:{digest}") });
    }
    parse(&bytes, what)
}

fn read_document(blob: std::io::Result<Blob>, what: &str) -> Result<Vec<u8>, OciError> {
    let failed = |source| OciError::Read { what: what.to_owned(), source };
    let mut blob = blob.map_err(failed)?;
    let bytes = blob.size();
    if bytes > DOCUMENT_BYTES {
        return Err(OciError::TooBig { what: what.to_owned(), bytes, limit: DOCUMENT_BYTES });
    }
    let mut document = Vec::new();
    blob.read_to_end(&mut document).map_err(failed)?;
    Ok(document)
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, OciError> {
    serde_json::from_slice(bytes)
        .map_err(|source| OciError::Document { what: what.to_owned(), source })
}

pub(super) fn digest_of(text: &str) -> Result<Digest, OciError> {
    let digest = text.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    digest.ok_or_else(|| OciError::NotADigest { digest: shown(text.as_bytes()) })
}
