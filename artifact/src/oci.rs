//! From a container image to the one image that every microVM of the function maps.
//!
//! Everything of a container image is hostile input: documents, tars, names, sizes. The layers are read once, in their order, and
//! each file's content goes straight from its layer into the image; what `limits` allows bounds time, memory and disk. All
//! digests are compared, so the manifest's digest says all that the image depends on.
//!
//! - `source` opens an OCI image layout, `document` is the JSON in it, `config` what the image says about how it is run.
//! - `layer` unpacks a layer, `entries` reads the tar in it, and `pax` its extended headers.
//! - `rootfs` flattens layers into one tree; `region` chooses where their files lie.
//! - `registry` has skopeo pull an image by its digest into a layout.

mod config;
mod document;
mod entries;
pub mod fuzz;
mod gathered;
mod layer;
mod limits;
mod pax;
mod region;
mod registry;
mod rootfs;
mod select;
mod source;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use self::entries::{Entries, EntryKind, Stream};
use self::gathered::Gathered;
use self::layer::LayerReader;
use self::region::{Head, LiveChunks, Region};
use self::rootfs::Rootfs;
use self::source::Layout;
use crate::archive::shown;
use crate::chunk::ChunkReads;
use crate::digest::Digest;
use crate::erofs::{BLOCK, ErofsError, ImageFile, InodeId, Kind, Metadata, Places, Tree, blocks};
use crate::limits::Limits;
use crate::optimise::Summary;

pub use config::{ConfigError, ContainerConfig};
pub use entries::TarError;
pub use layer::LayerError;
pub use region::OciLayout;
pub use registry::{PullError, PullSpec, PulledImage, pull};
pub use rootfs::BadEntry;
pub use source::OciSource;

/// How much of a file is copied at once, in bytes.
const PIECE: usize = 64 << 10;

/// Why a container image is refused or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The layout cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tar of a layout cannot be read.
    #[error("the layout's archive cannot be read")]
    Archive {
        /// Why.
        #[source]
        source: TarError,
    },
    /// A file of the layout is missing or cannot be read.
    #[error("cannot read the layout's {what}")]
    Read {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is not what it should be.
    #[error("the layout's {what} is malformed")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A document or a layer is too big.
    #[error("the layout's {what} has {bytes} bytes, more than the {limit} allowed")]
    TooBig {
        /// Which one.
        what: String,
        /// Its size.
        bytes: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A blob is not the one that its name says.
    #[error("the layout's {what} is not what its digest says")]
    Digest {
        /// Which one.
        what: String,
    },
    /// A digest that is none, or made by another function than SHA-256.
    #[error("{digest:?} is no SHA-256 digest")]
    NotADigest {
        /// What was read.
        digest: String,
    },
    /// No image is there, or none for this platform.
    #[error("there is no image for linux/amd64 {which}")]
    NoImage {
        /// Which one was sought.
        which: String,
    },
    /// There are several, and nothing says which is meant.
    #[error("there are several images, and the layout does not say which is meant: {names}")]
    Ambiguous {
        /// Their tags or digests.
        names: String,
    },
    /// A layer's media type is unknown.
    #[error("a layer has the media type {media_type:?}, which is not supported")]
    MediaType {
        /// What it says.
        media_type: String,
    },
    /// Too many layers, or another number than the configuration says.
    #[error("there are {layers} layers in the manifest and {unpacked} in the configuration")]
    Layers {
        /// Of the manifest.
        layers: usize,
        /// Of the configuration.
        unpacked: usize,
    },
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer cannot be read.
    #[error("layer {layer} cannot be read")]
    Layer {
        /// Its number, from 1.
        layer: usize,
        /// Why.
        #[source]
        source: TarError,
    },
    /// An entry of a layer is refused.
    #[error("entry {name:?} of layer {layer} {reason}")]
    Entry {
        /// The number of the layer, from 1.
        layer: usize,
        /// The entry.
        name: String,
        /// What is wrong.
        reason: BadEntry,
    },
    /// Where PID 1 mounts is something that nothing can be mounted on.
    #[error("the image's {name:?} is no folder: every microVM mounts on it")]
    MountPoint {
        /// Its name in the root.
        name: &'static str,
    },
    /// There is no place for the image.
    #[error("cannot make a temporary file in {path}")]
    Scratch {
        /// The folder for temporary files.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be made.
    #[error(transparent)]
    Image(#[from] ErofsError),
}

/// An image that microVMs can be given.
#[derive(Debug)]
pub struct Image {
    /// The EROFS image: a file without a name, its length a multiple of 4096.
    pub file: File,
    /// How the container image is run.
    pub config: ContainerConfig,
    /// The digest of its manifest, on which everything above depends and nothing else.
    pub manifest: Digest,
    /// What was in it.
    pub summary: Summary,
}

/// Makes the EROFS image of a container image: the same manifest gives the same bytes anywhere. `folder` is where temporary
/// files may be.
///
/// # Errors
/// [`OciError`]
pub fn image(source: &OciSource, folder: &Path, limits: &Limits) -> Result<Image, OciError> {
    image_laid_out(source, folder, limits, OciLayout::default())
}

/// As [`image`], with what starts of that image read gathered at the end: the same manifest and the same reads give the same
/// bytes anywhere. Reads are a hint: whatever they say, the files are the same.
///
/// # Errors
/// [`OciError`]
pub fn image_for_starts(
    source: &OciSource,
    folder: &Path,
    limits: &Limits,
    reads: &[ChunkReads],
) -> Result<Image, OciError> {
    image_with(source, folder, limits, OciLayout::default(), Some(reads))
}

/// The digest of the manifest that [`image`] would make an image of: whoever has made it before need not read its layers.
///
/// # Errors
/// [`OciError`]
pub fn manifest_digest(source: &OciSource) -> Result<Digest, OciError> {
    select::image_of(&Layout::open(source)?, source).map(|(digest, ..)| digest)
}

/// As [`image`], with another layout of the same files.
///
/// # Errors
/// [`OciError`]
pub fn image_laid_out(
    source: &OciSource,
    folder: &Path,
    limits: &Limits,
    layout: OciLayout,
) -> Result<Image, OciError> {
    image_with(source, folder, limits, layout, None)
}

fn image_with(
    source: &OciSource,
    folder: &Path,
    limits: &Limits,
    layout: OciLayout,
    reads: Option<&[ChunkReads]>,
) -> Result<Image, OciError> {
    let opened = Layout::open(source)?;
    let (digest, manifest, configuration) = select::image_of(&opened, source)?;
    let config = ContainerConfig::new(configuration.config.unwrap_or_default())?;
    let layers = select::layers(&manifest, &configuration.rootfs, limits)?;
    let file = tempfile::tempfile_in(folder)
        .map_err(|source| OciError::Scratch { path: folder.to_owned(), source })?;
    let mut flattened = Flattened::new(file, limits, layout)?;
    for (index, layer) in layers.iter().enumerate() {
        flattened.add(&opened, index + 1, layer)?;
    }
    let mut summary = flattened.summary();
    summary.zipped_bytes = layers.iter().map(|layer| layer.size).sum();
    flattened.rootfs.add_mount_points().map_err(|name| OciError::MountPoint { name })?;
    let (file, image_bytes) = flattened.finish(reads)?;
    summary.image_bytes = image_bytes;
    Ok(Image { file, config, manifest: digest, summary })
}

/// An image to which layers are added.
struct Flattened {
    limits: Limits,
    layout: OciLayout,
    rootfs: Rootfs,
    image: ImageFile,
    head: Head,
    places: Places,
    unpacked: u64,
}

impl Flattened {
    fn new(file: File, limits: &Limits, layout: OciLayout) -> Result<Flattened, ErofsError> {
        let mut image = ImageFile::new(file);
        let head = Head::new(&mut image)?;
        let (rootfs, places) = (Rootfs::new(limits.nodes), Places::default());
        Ok(Flattened { limits: *limits, layout, rootfs, image, head, places, unpacked: 0 })
    }

    /// Reads one layer, the `number`th from 1.
    fn add(
        &mut self,
        opened: &Layout,
        number: usize,
        layer: &select::Layer,
    ) -> Result<(), OciError> {
        let blob = select::open_blob(opened, &layer.digest, layer.size, "layer")?;
        let limit = self.limits.unzipped_bytes;
        let reader = LayerReader::new(blob, layer.compression, limit - self.unpacked, limit);
        let reader = self.add_entries(number, Entries::new(reader))?;
        let unpacked = reader.finish(&layer.digest, &layer.unpacked);
        let failed = |source: io::Error| OciError::Layer { layer: number, source: source.into() };
        self.unpacked += unpacked.map_err(failed)?;
        Ok(())
    }

    /// Reads one layer's tar up to its end; returns what it was read from.
    fn add_entries<R: Stream>(
        &mut self,
        number: usize,
        mut entries: Entries<R>,
    ) -> Result<R, OciError> {
        let failed = |source| OciError::Layer { layer: number, source };
        let mut region = Region::new(self.layout);
        let first = self.rootfs.tree.len();
        self.rootfs.begin_layer();
        let mut buffer = vec![0; PIECE];
        while let Some(entry) = entries.next().map_err(failed)? {
            let name = shown(&entry.name);
            let refused = |reason| OciError::Entry { layer: number, name: name.clone(), reason };
            let size = match entry.kind {
                EntryKind::File { size } => size,
                _ => 0,
            };
            let Some(id) = self.rootfs.add(entry).map_err(refused)? else { continue };
            if size == 0 {
                continue;
            }
            let mut at = region.place(id, size, &mut self.image).map_err(|error| match error {
                ErofsError::TooBig => refused(BadEntry::TooBig),
                error => error.into(),
            })?;
            loop {
                let count = entries.read(&mut buffer).map_err(failed)?;
                if count == 0 {
                    break;
                }
                region.write(at, &buffer[..count], &self.image)?;
                at += count as u64;
            }
        }
        let tree = &self.rootfs.tree;
        region.finish(tree, first, &mut self.places, &mut self.head, &mut self.image)?;
        Ok(entries.into_source())
    }

    /// What can be reached in the image so far.
    fn summary(&self) -> Summary {
        let mut summary = Summary { unzipped_bytes: self.unpacked, ..Summary::default() };
        for id in self.rootfs.tree.in_path_order() {
            match self.rootfs.tree.get(id).kind {
                Kind::File { .. } => summary.files += 1,
                Kind::Link { .. } => summary.links += 1,
                Kind::Folder { .. } => summary.folders += 1,
            }
        }
        // The root is not counted.
        summary.folders -= 1;
        summary
    }

    /// Writes what names lead to, gathers what was read, and ends the image; also gives its size.
    fn finish(mut self, reads: Option<&[ChunkReads]>) -> Result<(File, u64), OciError> {
        let tree = &self.rootfs.tree;
        let order = tree.in_path_order();
        let folders = || order.iter().copied().filter(|id| tree.children(*id).is_some());
        self.places.place_folders(tree, folders(), self.head.next, Head::END, &mut self.image)?;
        let linked = tree.link_counts();
        let reached: Vec<bool> = linked.iter().map(|links| *links > 0).collect();
        let mut places = self.places.clone();
        let gather = |reads| Gathered::new(reads, tree, &reached, &mut places, &mut self.image);
        let gathered = reads.map(gather).transpose()?;
        let bytes = u64::from(self.image.blocks()) * BLOCK;
        if bytes > crate::limits::IMAGE_BYTES_MAX {
            return Err(ErofsError::TooBig.into());
        }
        let named = linked.iter().filter(|links| **links > 0).count() as u64;
        let links = self.rootfs.links(linked);
        let others = tree.ids().filter(|id| tree.children(*id).is_none());
        let metadata = Metadata { tree, places: &places, links: &links, named };
        match &gathered {
            None => metadata.write(others.chain(folders()), &self.image)?,
            Some(gathered) => {
                // A layer's inodes stay where they are as well, so that its chunks are what they are in other images.
                let plain = Metadata { places: &self.places, ..metadata };
                plain.write_inodes(others, &self.image)?;
                let folders = folders().filter(|id| !gathered.moved(*id));
                metadata.write_inodes(folders, &self.image)?;
                gathered.write(&metadata, &self.image)?;
            }
        }
        self.make_holes(&reached, gathered.as_ref())?;
        Ok((self.image.finish()?, bytes))
    }

    /// Leaves out what nothing leads to any more.
    fn make_holes(&self, reached: &[bool], gathered: Option<&Gathered>) -> Result<(), ErofsError> {
        let tree = &self.rootfs.tree;
        let mut live = LiveChunks::new(self.image.blocks());
        live.mark(0, BLOCK);
        if let Some(gathered) = gathered {
            let at = u64::from(gathered.first_block()) * BLOCK;
            live.mark(at, u64::from(self.image.blocks()) * BLOCK - at);
        }
        for id in tree.ids() {
            let Some((inode, data)) = self.extents(tree, id) else { continue };
            if reached[id.index()] {
                live.mark(inode.0, inode.1);
                live.mark(data.0, data.1);
            } else if self.layout.erase_hidden && data.1 > 0 {
                self.image.punch(data.0, data.1)?;
            }
        }
        live.punch_others(&self.image)
    }

    /// Where an inode and its blocks lie: position and length of each, in bytes.
    fn extents(&self, tree: &Tree, id: InodeId) -> Option<((u64, u64), (u64, u64))> {
        let place = self.places.get(id)?;
        let size = crate::erofs::data_size(tree, id);
        let in_blocks = place.in_blocks(size);
        let head = place.head(&tree.get(id).attributes) as u64 + (size - in_blocks);
        Some(((place.at, head), (u64::from(place.block) * BLOCK, blocks(in_blocks) * BLOCK)))
    }
}

#[cfg(test)]
mod tests;
