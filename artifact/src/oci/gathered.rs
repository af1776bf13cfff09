//! What starts read of an image, gathered at its end.
//!
//! ```text
//! layers and folders as ever             | next chunk: inodes and maps | folders | pages of files
//! ```
//! The layers' regions stay what they are without it, so that images on one base have their chunks in common all the same; what
//! is gathered are copies, which names lead to. A file that was read in part has a map of its blocks: those that were
//! read lie here, the others where they were. So a start that reads what an earlier one read finds it in few chunks.
//!
//! Reads come from workers, whom nobody trusts with more than a hint: they choose places, and no content.

use std::collections::BTreeSet;

use crate::chunk::{CHUNK_BYTES, ChunkReads, PAGE_BYTES};
use crate::erofs::{
    BLOCK, ErofsError, ImageFile, InodeId, Kind, Metadata, Places, Table, Tree, blocks,
};

const CHUNK: u64 = CHUNK_BYTES as u64;
const CHUNK_BLOCKS: u32 = (CHUNK / BLOCK) as u32;
const _: () = assert!(PAGE_BYTES as u64 == BLOCK);

/// What is gathered, and where.
#[derive(Debug)]
pub(super) struct Gathered {
    first: u32,
    /// The inodes, in the order of their places.
    moved: Vec<InodeId>,
    is_moved: BTreeSet<InodeId>,
    /// Where each map lies, and what it holds.
    maps: Vec<(u64, Vec<u32>)>,
}

impl Gathered {
    /// Finds what was read of the image as `places` has it, copies it behind `image`, and has `places` lead there. Inodes are
    /// placed and not written. What cannot be `reached` stays.
    pub(super) fn new(
        reads: &[ChunkReads],
        tree: &Tree,
        reached: &[bool],
        places: &mut Places,
        image: &mut ImageFile,
    ) -> Result<Gathered, ErofsError> {
        let pages = Pages::new(reads, image.blocks());
        image.align(CHUNK)?;
        let first = image.blocks();
        let mut found: Vec<_> = tree.ids().filter(|id| reached[id.index()]).collect();
        // The root has its place in the first chunk, where the superblock can name it.
        found.retain(|id| *id != Tree::ROOT && pages.hold(places, tree, *id));
        found.sort_unstable_by_key(|id| places.get(*id).map(|place| place.at));
        let mut table = Table::new(u64::from(first) * BLOCK);
        let (mut maps, mut files) = (Vec::new(), Vec::new());
        for id in &found {
            let was = *places.get(*id).expect("what was found has a place");
            let count = blocks(crate::erofs::data_size(tree, *id)) as u32;
            let is_file = matches!(tree.get(*id).kind, Kind::File { .. });
            let read = if is_file { pages.count(was.block, count) } else { 0 };
            if read == 0 {
                places.place_anew(tree, *id, &mut table);
            } else if read == count {
                places.place_anew(tree, *id, &mut table);
                files.push((was.block, count, *id, None));
            } else {
                let at = places.place_mapped(tree, *id, &mut table);
                files.push((was.block, count, *id, Some(at)));
            }
        }
        image.reserve(table.end() - u64::from(first) * BLOCK)?;
        for id in found.iter().filter(|id| !matches!(tree.get(**id).kind, Kind::File { .. })) {
            places.reserve(tree, *id, image)?;
        }
        files.sort_unstable();
        for (was, count, id, map) in files {
            let mut here = |block| {
                let at = image.reserve(BLOCK)?;
                image.copy(block, at).map(|()| at)
            };
            let Some(at) = map else {
                let all = (was..was + count).map(here).collect::<Result<Vec<_>, _>>()?;
                places.set_block(id, all.first().copied().unwrap_or(0));
                continue;
            };
            let place = |block| if pages.has(block) { here(block) } else { Ok(block) };
            maps.push((at, (was..was + count).map(place).collect::<Result<_, _>>()?));
        }
        let is_moved = found.iter().copied().collect();
        Ok(Gathered { first, moved: found, is_moved, maps })
    }

    /// Where it begins.
    pub(super) fn first_block(&self) -> u32 {
        self.first
    }

    /// Whether an inode lies here.
    pub(super) fn moved(&self, id: InodeId) -> bool {
        self.is_moved.contains(&id)
    }

    /// Writes inodes and maps, and the superblock.
    pub(super) fn write(&self, all: &Metadata<'_>, image: &ImageFile) -> Result<(), ErofsError> {
        all.write_inodes(self.moved.iter().copied(), image)?;
        for (at, map) in &self.maps {
            let bytes: Vec<u8> = map.iter().flat_map(|block| block.to_le_bytes()).collect();
            image.write(*at, &bytes)?;
        }
        all.write_superblock(image, !self.maps.is_empty())
    }
}

/// Which blocks of an image were read.
struct Pages {
    chunks: Vec<u128>,
}

impl Pages {
    /// Of an image of so many blocks; what lies behind it is left out.
    fn new(reads: &[ChunkReads], blocks: u32) -> Pages {
        let mut chunks = vec![0; blocks.div_ceil(CHUNK_BLOCKS) as usize];
        for read in reads {
            if let Some(chunk) = chunks.get_mut(read.index as usize) {
                *chunk |= read.pages;
            }
        }
        Pages { chunks }
    }

    fn has(&self, block: u32) -> bool {
        let chunk = self.chunks.get((block / CHUNK_BLOCKS) as usize);
        chunk.is_some_and(|chunk| chunk >> (block % CHUNK_BLOCKS) & 1 == 1)
    }

    /// How many of these blocks were read.
    fn count(&self, first: u32, count: u32) -> u32 {
        (first..first + count).filter(|block| self.has(*block)).count() as u32
    }

    /// Whether anything of an inode or its data was read.
    fn hold(&self, places: &Places, tree: &Tree, id: InodeId) -> bool {
        let Some(place) = places.get(id) else { return false };
        let data = blocks(place.in_blocks(crate::erofs::data_size(tree, id))) as u32;
        self.has((place.at / BLOCK) as u32) || self.count(place.block, data) > 0
    }
}
