//! The image of a tree that is known as a whole before the first of its files is read.
//!
//! ```text
//! superblock | inodes, and with them links, small folders and the ends of files | folders' blocks | files' blocks
//! ```
//! Everything is in the order of paths, so that what lies in one folder is read together.

use std::fs::File;

use super::BLOCK;
use super::image::{ErofsError, ImageFile};
use super::metadata::{Metadata, Places, Shape};
use super::table::Table;
use super::tree::{InodeId, Kind, Tree};

/// A tree's layout, into which the contents of files can be written in any order.
#[derive(Debug)]
pub(crate) struct Flat {
    tree: Tree,
    places: Places,
    image: ImageFile,
}

impl Flat {
    /// Lays a tree out in `file`, which is empty, and writes all of it but the files' contents.
    pub(crate) fn new(tree: Tree, file: File) -> Result<Flat, ErofsError> {
        let mut image = ImageFile::new(file);
        let order = tree.in_path_order();
        let links = tree.link_counts();
        let mut places = Places::default();
        let mut table = Table::new(BLOCK);
        for id in &order {
            places.place(&tree, *id, links[id.index()], Shape::Small, &mut table);
        }
        image.reserve(table.end() - BLOCK)?;
        let is_file = |id: &&InodeId| matches!(tree.get(**id).kind, Kind::File { .. });
        for id in order.iter().filter(|id| !is_file(id)) {
            places.reserve(&tree, *id, &mut image)?;
        }
        for id in order.iter().filter(is_file) {
            places.reserve(&tree, *id, &mut image)?;
        }
        let named = order.len() as u64;
        let metadata = Metadata { tree: &tree, places: &places, links: &links, named };
        metadata.write(order.iter().copied(), &image)?;
        Ok(Flat { tree, places, image })
    }

    /// Size of the image, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.image.blocks()) * BLOCK
    }

    /// A writer of one file's content.
    ///
    /// # Panics
    /// If it is no file.
    pub(crate) fn content(&self, id: InodeId) -> Content<'_> {
        let place = self.places.get(id).expect("every inode in the tree has a place");
        let Kind::File { size } = self.tree.get(id).kind else {
            unreachable!("contents are files'");
        };
        Content {
            image: &self.image,
            blocks: u64::from(place.block) * BLOCK,
            tail: place.at + place.head(&self.tree.get(id).attributes) as u64,
            in_blocks: place.in_blocks(size),
            size,
            written: 0,
        }
    }

    /// Ends the image. Contents that were not written are zeros.
    pub(crate) fn finish(self) -> Result<File, ErofsError> {
        self.image.finish()
    }
}

/// Writes one file's content in pieces, from its beginning.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    image: &'a ImageFile,
    blocks: u64,
    tail: u64,
    in_blocks: u64,
    size: u64,
    written: u64,
}

impl Content<'_> {
    /// Writes the next bytes.
    ///
    /// # Panics
    /// With more bytes than the file has: whoever knows the size checks it first.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        let after = self.written + bytes.len() as u64;
        assert!(after <= self.size, "a file has no more bytes than its inode says");
        let left = self.in_blocks.saturating_sub(self.written);
        let (whole, tail) = bytes.split_at(left.min(bytes.len() as u64) as usize);
        self.image.write(self.blocks + self.written, whole)?;
        let into_tail = (self.written + whole.len() as u64).saturating_sub(self.in_blocks);
        self.image.write(self.tail + into_tail, tail)?;
        self.written = after;
        Ok(())
    }
}
