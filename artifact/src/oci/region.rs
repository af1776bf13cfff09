//! Where the files of a container image lie, so that images which share layers share chunks.
//!
//! ```text
//! chunk 0                                        | chunk 1 ...                | next multiple of a chunk ...
//! superblock, folders, small layers              | first layer: files, inodes | second layer ...      | more folders
//! ```
//! What a layer's region holds depends on that layer alone and on where it begins, and so on the layers below it: images on one base
//! have its chunks in common. A file that a later layer hides stays where it is, for its chunks are stored already,
//! unless nothing in a chunk can be reached any more. Folders are the image's own: they name what all layers have.
//!
//! Inodes of a layer lie together after its files, and no file's end lies between them: looking for a file that is or is not
//! there, which runtimes do most, touches few chunks.

use crate::chunk::CHUNK_BYTES;
use crate::erofs::{
    BLOCK, ErofsError, ImageFile, InodeId, Kind, Places, Shape, Table, Tree, blocks,
};
use crate::limits::IMAGE_BYTES_MAX;

const CHUNK: u64 = CHUNK_BYTES as u64;
const CHUNK_BLOCKS: u32 = (CHUNK / BLOCK) as u32;

/// What of the first chunk small layers may take, in blocks; the rest is for folders.
const HEAD_BLOCKS: u32 = CHUNK_BLOCKS / 2;

/// Gaps before large files that are remembered, to be filled with small ones.
const GAPS: usize = 64;

/// Choices in laying an image out. The default is what votive does; the others are there to be measured against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OciLayout {
    /// A file of a chunk or more begins with a chunk.
    pub align_large: bool,
    /// A layer that fits lies in the first chunk, which is each image's own anyway.
    pub small_in_head: bool,
    /// Files that cannot be reached become zeros.
    pub erase_hidden: bool,
}

impl Default for OciLayout {
    fn default() -> OciLayout {
        OciLayout { align_large: true, small_in_head: true, erase_hidden: false }
    }
}

/// The beginning of an image, which is no layer's.
#[derive(Debug)]
pub(super) struct Head {
    /// The next free block, behind the superblock and small layers.
    pub(super) next: u32,
}

impl Head {
    /// The first chunk of `image`, which is empty.
    pub(super) fn new(image: &mut ImageFile) -> Result<Head, ErofsError> {
        let next = image.blocks();
        image.align(CHUNK)?;
        Ok(Head { next })
    }

    /// The end of the chunk, in blocks.
    pub(super) const END: u32 = CHUNK_BLOCKS;
}

/// The place of one layer, while it is read.
#[derive(Debug)]
pub(super) struct Region {
    layout: OciLayout,
    /// The first block, once it is decided; before that, contents wait in memory.
    base: Option<u32>,
    waiting: Vec<u8>,
    /// Blocks given to files so far.
    blocks: u32,
    /// Free runs between files: first block and length.
    gaps: Vec<(u32, u32)>,
    files: Vec<(InodeId, u32)>,
}

impl Region {
    pub(super) fn new(layout: OciLayout) -> Region {
        let (waiting, gaps, files) = (Vec::new(), Vec::new(), Vec::new());
        Region { layout, base: None, waiting, blocks: 0, gaps, files }
    }

    /// Finds a place for a file of `size` bytes; returns where it begins in the region, in bytes.
    pub(super) fn place(
        &mut self,
        id: InodeId,
        size: u64,
        image: &mut ImageFile,
    ) -> Result<u64, ErofsError> {
        let most = IMAGE_BYTES_MAX.saturating_sub(u64::from(image.blocks()) * BLOCK);
        if size > most {
            return Err(ErofsError::TooBig);
        }
        let wanted = blocks(size) as u32;
        let at = if self.layout.align_large && size >= CHUNK {
            self.at_chunk(wanted)
        } else {
            self.in_gap(wanted).unwrap_or_else(|| self.at_end(wanted))
        };
        self.files.push((id, at));
        if self.base.is_none() && (!self.layout.small_in_head || self.blocks > HEAD_BLOCKS) {
            self.settle(image)?;
        }
        if let Some(base) = self.base {
            let missing = base + self.blocks - image.blocks();
            image.reserve(u64::from(missing) * BLOCK)?;
        }
        Ok(u64::from(at) * BLOCK)
    }

    /// Writes bytes of a file that has its place.
    pub(super) fn write(
        &mut self,
        at: u64,
        bytes: &[u8],
        image: &ImageFile,
    ) -> Result<(), ErofsError> {
        if let Some(base) = self.base {
            return image.write(u64::from(base) * BLOCK + at, bytes);
        }
        // All of it lies in the blocks that a small layer may have.
        let (start, end) = (at as usize, at as usize + bytes.len());
        if self.waiting.len() < end {
            self.waiting.resize(end, 0);
        }
        self.waiting[start..end].copy_from_slice(bytes);
        Ok(())
    }

    /// Ends the layer, whose inodes are all of `tree` from `first` on: those that are no folders get their places.
    pub(super) fn finish(
        mut self,
        tree: &Tree,
        first: usize,
        places: &mut Places,
        head: &mut Head,
        image: &mut ImageFile,
    ) -> Result<(), ErofsError> {
        let ids: Vec<InodeId> =
            tree.ids().skip(first).filter(|id| tree.children(*id).is_none()).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let start = u64::from(self.blocks) * BLOCK;
        let mut table = Table::new(start);
        for id in &ids {
            places.place(tree, *id, 1, Shape::Even, &mut table);
        }
        let in_all = self.blocks + blocks(table.end() - start) as u32;
        if self.base.is_none() && head.next + in_all <= HEAD_BLOCKS {
            self.base = Some(head.next);
            head.next += in_all;
        } else {
            self.settle(image)?;
            let missing = blocks(table.end() - start) * BLOCK;
            image.reserve(missing)?;
        }
        let base = self.base.expect("it has just been decided");
        image.write(u64::from(base) * BLOCK, &self.waiting)?;
        for id in &ids {
            places.move_by(*id, u64::from(base) * BLOCK);
            // Targets of links that no inode's block holds; there are hardly any.
            if matches!(tree.get(*id).kind, Kind::Link { .. }) {
                places.reserve(tree, *id, image)?;
            }
        }
        for (id, at) in &self.files {
            places.set_block(*id, base + at);
        }
        Ok(())
    }

    /// Decides that the region begins at the image's next chunk.
    fn settle(&mut self, image: &mut ImageFile) -> Result<(), ErofsError> {
        if self.base.is_none() {
            image.align(CHUNK)?;
            let base = image.blocks();
            image.reserve(u64::from(self.blocks) * BLOCK)?;
            image.write(u64::from(base) * BLOCK, &self.waiting)?;
            self.waiting = Vec::new();
            self.base = Some(base);
        }
        Ok(())
    }

    fn at_end(&mut self, wanted: u32) -> u32 {
        let at = self.blocks;
        self.blocks += wanted;
        at
    }

    fn at_chunk(&mut self, wanted: u32) -> u32 {
        let at = self.blocks.next_multiple_of(CHUNK_BLOCKS);
        if at > self.blocks && self.gaps.len() < GAPS {
            self.gaps.push((self.blocks, at - self.blocks));
        }
        self.blocks = at + wanted;
        at
    }

    /// The first gap that is large enough gives the blocks.
    fn in_gap(&mut self, wanted: u32) -> Option<u32> {
        let index = self.gaps.iter().position(|(_, length)| *length >= wanted)?;
        let (at, length) = self.gaps[index];
        if length == wanted {
            self.gaps.remove(index);
        } else {
            self.gaps[index] = (at + wanted, length - wanted);
        }
        Some(at)
    }
}

/// Which chunks hold something that can be reached.
#[derive(Debug)]
pub(super) struct LiveChunks(Vec<bool>);

impl LiveChunks {
    /// None yet, of an image of so many blocks.
    pub(super) fn new(blocks: u32) -> LiveChunks {
        LiveChunks(vec![false; blocks.div_ceil(CHUNK_BLOCKS) as usize])
    }

    /// Marks the chunks that hold these bytes.
    pub(super) fn mark(&mut self, at: u64, bytes: u64) {
        if bytes > 0 {
            let (first, last) = (at / CHUNK, (at + bytes - 1) / CHUNK);
            self.0[first as usize..=last as usize].fill(true);
        }
    }

    /// Makes holes of all others.
    pub(super) fn punch_others(&self, image: &ImageFile) -> Result<(), ErofsError> {
        for (index, live) in self.0.iter().enumerate() {
            if !live {
                let at = index as u64 * CHUNK;
                let end = (u64::from(image.blocks()) * BLOCK).min(at + CHUNK);
                image.punch(at, end - at)?;
            }
        }
        Ok(())
    }
}
