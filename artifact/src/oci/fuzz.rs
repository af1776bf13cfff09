//! Entry points for fuzzing container images: foreign bytes in, nothing but a verdict out.

use std::fs::File;

use super::config::ContainerConfig;
use super::document::{Configuration, Index, Manifest};
use super::entries::Entries;
use super::region::OciLayout;
use super::{Flattened, OciError, select};
use crate::limits::Limits;

/// Small, so that one input costs little.
const LIMITS: Limits = Limits { zipped_bytes: 1 << 20, unzipped_bytes: 4 << 20, nodes: 1000 };

/// The most layers that an input is cut into.
const LAYERS: usize = 4;

/// Bytes of a block of a tar.
const BLOCK: usize = 512;

/// Makes an image of layers. The first byte says how many they are; the rest is their tars, whose checksums are
/// corrected first: with wrong ones nothing would be read. Must neither panic nor take long.
pub fn layers(data: &[u8]) {
    let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
    // Refusal is the usual end of hostile input.
    let _ = image(data, file);
}

fn image(data: &[u8], file: File) -> Result<File, OciError> {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let count = usize::from(*first) % LAYERS + 1;
    let mut tars = rest.to_vec();
    tars.chunks_exact_mut(BLOCK).for_each(correct);
    let length = tars.len().div_ceil(count).next_multiple_of(BLOCK).max(BLOCK);
    let mut flattened = Flattened::new(file, &LIMITS, OciLayout::default())?;
    for (index, tar) in tars.chunks(length).enumerate() {
        flattened.add_entries(index + 1, Entries::new(tar))?;
    }
    let summary = flattened.summary();
    let nodes = summary.files + summary.links + summary.folders;
    assert!(nodes <= LIMITS.nodes, "the limit of nodes holds");
    Ok(flattened.finish(None)?.0)
}

/// Gives a block the checksum that a header must have.
fn correct(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Reads documents as those of a layout are read.
pub fn documents(data: &[u8]) {
    if let Ok(index) = serde_json::from_slice::<Index>(data) {
        let _ = select::choose(&index.manifests, "anywhere");
    }
    let configuration = serde_json::from_slice::<Configuration>(data).ok();
    if let (Ok(manifest), Some(configuration)) =
        (serde_json::from_slice::<Manifest>(data), &configuration)
    {
        let _ = select::layers(&manifest, &configuration.rootfs, &LIMITS);
    }
    if let Some(execution) = configuration.and_then(|configuration| configuration.config) {
        let Ok(config) = ContainerConfig::new(execution) else { return };
        assert!(config.working_folder.starts_with('/'), "it is absolute");
        assert!(config.environment.iter().all(|(name, _)| !name.is_empty()), "names are there");
        assert_eq!(ContainerConfig::parse(&config.encode()), Ok(config), "it can be sealed");
    }
}

/// Reads what is sealed with an image: what is read is written alike.
pub fn config(data: &[u8]) {
    let Ok(config) = ContainerConfig::parse(data) else { return };
    assert!(config.encode() == data, "there is one way to write a configuration");
    assert!(config.working_folder.starts_with('/'), "it is absolute");
}

#[cfg(test)]
mod tests;
