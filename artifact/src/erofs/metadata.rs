//! Where each inode of a tree lies, and writing them all.

use super::dirents::{self, Dirent};
use super::image::{ErofsError, ImageFile};
use super::inode::{DataLayout, Form, Record};
use super::superblock::Superblock;
use super::table::{self, SLOT, Table};
use super::tree::{Attributes, InodeId, Kind, Tree};
use super::{BLOCK, blocks};

/// How much metadata is gathered before it is written, in bytes.
const GATHERED: usize = 256 << 10;

/// Where one inode and its data lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Position of the inode, in bytes.
    pub(crate) at: u64,
    /// First block of its data, of as much as lies in blocks.
    pub(crate) block: u32,
    form: Form,
    layout: DataLayout,
}

impl Place {
    /// Size of the inode with its extended attributes, in bytes.
    pub(crate) fn head(&self, attributes: &Attributes) -> usize {
        Record::head(self.form, attributes)
    }

    /// How many of `size` bytes of data lie in blocks; the others follow the inode.
    pub(crate) fn in_blocks(&self, size: u64) -> u64 {
        match self.layout {
            DataLayout::Plain | DataLayout::Mapped => size,
            DataLayout::Inline => size - size % BLOCK,
        }
    }
}

/// Which inodes may be small, and whose data may follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each as small as it can be, the ends of files in the space between inodes: the smallest image.
    Small,
    /// All of one form, and no file's data between them: what lies where depends on little.
    Even,
}

/// The places of a tree's inodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    places: Vec<Option<Place>>,
}

impl Places {
    /// Where an inode lies, if it has been placed.
    pub(crate) fn get(&self, id: InodeId) -> Option<&Place> {
        self.places.get(id.index())?.as_ref()
    }

    /// Says where the data of an inode begins.
    ///
    /// # Panics
    /// If the inode has no place.
    pub(crate) fn set_block(&mut self, id: InodeId, block: u32) {
        let place = self.places.get_mut(id.index()).and_then(Option::as_mut);
        place.expect("an inode is placed before its data").block = block;
    }

    /// Places an inode into a table.
    pub(crate) fn place(
        &mut self,
        tree: &Tree,
        id: InodeId,
        links: u32,
        shape: Shape,
        table: &mut Table,
    ) {
        let inode = tree.get(id);
        let size = data_size(tree, id);
        let form = match shape {
            Shape::Small => Form::of(&inode.attributes, links, size),
            Shape::Even => Form::Extended,
        };
        let head = Record::head(form, &inode.attributes);
        let tail = (size % BLOCK) as usize;
        let may = shape == Shape::Small || !matches!(inode.kind, Kind::File { .. });
        let inline = may && tail > 0 && table::inline_fits(head, tail);
        let (layout, tail) =
            if inline { (DataLayout::Inline, tail) } else { (DataLayout::Plain, 0) };
        let at = table.place(form.size(), head, tail);
        if self.places.len() < tree.len() {
            self.places.resize(tree.len(), None);
        }
        self.places[id.index()] = Some(Place { at, block: 0, form, layout });
    }

    /// Places an inode that has its place anew. What is a file's stays where it is; the data of others gets its place later.
    ///
    /// # Panics
    /// If the inode has no place.
    pub(crate) fn place_anew(&mut self, tree: &Tree, id: InodeId, table: &mut Table) {
        let before = *self.get(id).expect("an inode is placed before it is placed anew");
        self.place(tree, id, 2, Shape::Even, table);
        if matches!(tree.get(id).kind, Kind::File { .. }) {
            self.set_block(id, before.block);
        }
    }

    /// Places a file anew, its blocks to be mapped one by one. Returns where the map lies: the number of each block, in 32 bits,
    /// little-endian.
    ///
    /// # Panics
    /// If the inode has no place.
    pub(crate) fn place_mapped(&mut self, tree: &Tree, id: InodeId, table: &mut Table) -> u64 {
        self.place(tree, id, 2, Shape::Even, table);
        let place = self.places.get_mut(id.index()).and_then(Option::as_mut);
        let place = place.expect("it has just been placed");
        place.layout = DataLayout::Mapped;
        table.set_aside(blocks(data_size(tree, id)) * size_of::<u32>() as u64)
    }

    /// Moves an inode that has its place.
    ///
    /// # Panics
    /// If the inode has no place.
    pub(crate) fn move_by(&mut self, id: InodeId, bytes: u64) {
        let place = self.places.get_mut(id.index()).and_then(Option::as_mut);
        place.expect("an inode is placed before it is moved").at += bytes;
    }

    /// Places folders, the root first: into the free blocks from `next` to `end` while all of one fits there, the
    /// others behind all that there is.
    pub(crate) fn place_folders(
        &mut self,
        tree: &Tree,
        folders: impl Iterator<Item = InodeId>,
        next: u32,
        end: u32,
        image: &mut ImageFile,
    ) -> Result<(), ErofsError> {
        let start = u64::from(next) * BLOCK;
        let (mut table, mut in_blocks) = (Table::new(start), 0);
        let (mut here, mut behind) = (Vec::new(), Vec::new());
        for id in folders {
            let before = table;
            if behind.is_empty() {
                self.place(tree, id, 2, Shape::Even, &mut table);
                in_blocks += self.blocks_of(tree, id);
                let used = u64::from(next) + blocks(table.end() - start) + in_blocks;
                if used <= u64::from(end) || id == Tree::ROOT {
                    here.push(id);
                    continue;
                }
                table = before;
            }
            behind.push(id);
        }
        let mut block = u64::from(next) + blocks(table.end() - start);
        for id in here {
            let count = self.blocks_of(tree, id);
            if block + count <= u64::from(end) {
                self.set_block(id, u32::try_from(block).map_err(|_| ErofsError::TooBig)?);
                block += count;
            } else {
                // The root alone may have so many names.
                self.reserve(tree, id, image)?;
            }
        }
        let start = u64::from(image.blocks()) * BLOCK;
        let mut table = Table::new(start);
        for id in &behind {
            self.place(tree, *id, 2, Shape::Even, &mut table);
        }
        image.reserve(table.end() - start)?;
        behind.iter().try_for_each(|id| self.reserve(tree, *id, image))
    }

    /// How many blocks the data of a placed inode takes.
    fn blocks_of(&self, tree: &Tree, id: InodeId) -> u64 {
        self.get(id).map_or(0, |place| blocks(place.in_blocks(data_size(tree, id))))
    }

    /// Hands out the blocks for the data of a folder or link.
    pub(crate) fn reserve(
        &mut self,
        tree: &Tree,
        id: InodeId,
        image: &mut ImageFile,
    ) -> Result<(), ErofsError> {
        if let Some(place) = self.places.get_mut(id.index()).and_then(Option::as_mut) {
            let bytes = place.in_blocks(data_size(tree, id));
            if blocks(bytes) > 0 {
                place.block = image.reserve(bytes)?;
            }
        }
        Ok(())
    }

    fn nid(&self, id: InodeId) -> u64 {
        self.get(id).expect("every inode with a name has a place").at / SLOT
    }
}

/// Size of an inode's data, in bytes.
pub(crate) fn data_size(tree: &Tree, id: InodeId) -> u64 {
    match &tree.get(id).kind {
        Kind::File { size } => *size,
        Kind::Link { target } => target.len() as u64,
        Kind::Folder { .. } => dirents::size(names(tree, id).iter().map(|(name, _)| name.len())),
    }
}

/// All names in a folder, those of itself and the one above included, in their order.
fn names(tree: &Tree, folder: InodeId) -> Vec<(&str, InodeId)> {
    let Kind::Folder { children, parent } = &tree.get(folder).kind else { return Vec::new() };
    let mut names = Vec::with_capacity(children.len() + 2);
    names.extend([(".", folder), ("..", *parent)]);
    names.extend(children.iter().map(|(name, child)| (&**name, *child)));
    names.sort_unstable();
    names
}

/// A tree with all its places, ready to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) places: &'a Places,
    /// How many names each inode has.
    pub(crate) links: &'a [u32],
    /// How many inodes have a name.
    pub(crate) named: u64,
}

impl Metadata<'_> {
    /// Writes inodes, folders, links and the superblock. Of `ids` those without a place are left out.
    ///
    /// All blocks have been handed out. Between inodes there may be zeros afterwards: data that is to lie there comes later.
    pub(crate) fn write(
        &self,
        ids: impl Iterator<Item = InodeId>,
        image: &ImageFile,
    ) -> Result<(), ErofsError> {
        self.write_inodes(ids, image)?;
        self.write_superblock(image, false)
    }

    /// As [`Metadata::write`], without the superblock.
    pub(crate) fn write_inodes(
        &self,
        ids: impl Iterator<Item = InodeId>,
        image: &ImageFile,
    ) -> Result<(), ErofsError> {
        let mut gathered = Gathered { image, start: 0, bytes: Vec::new() };
        for id in ids {
            self.write_inode(id, &mut gathered)?;
        }
        gathered.flush()
    }

    /// Writes the superblock; `mapped` if the blocks of any file are.
    pub(crate) fn write_superblock(
        &self,
        image: &ImageFile,
        mapped: bool,
    ) -> Result<(), ErofsError> {
        let root = u16::try_from(self.places.nid(Tree::ROOT));
        let superblock = Superblock {
            root: root.expect("the root is placed first"),
            inodes: self.named,
            blocks: image.blocks(),
            mapped,
        };
        image.write(0, &superblock.encode())
    }

    fn write_inode(&self, id: InodeId, gathered: &mut Gathered<'_>) -> Result<(), ErofsError> {
        let Some(place) = self.places.get(id) else { return Ok(()) };
        let inode = self.tree.get(id);
        let content = self.content(id);
        let size = match &inode.kind {
            Kind::File { size } => *size,
            _ => content.len() as u64,
        };
        let record = Record {
            id,
            form: place.form,
            layout: place.layout,
            attributes: &inode.attributes,
            kind: &inode.kind,
            links: self.links[id.index()],
            size,
            block: place.block,
        };
        let buffer = gathered.at(place.at)?;
        record.encode(buffer);
        if !content.is_empty() {
            let (blocks, inline) = content.split_at(place.in_blocks(size) as usize);
            buffer.extend(inline);
            gathered.image.write(u64::from(place.block) * BLOCK, blocks)?;
        }
        Ok(())
    }

    /// What a folder or link holds; nothing for files.
    fn content(&self, id: InodeId) -> Vec<u8> {
        match &self.tree.get(id).kind {
            Kind::File { .. } => Vec::new(),
            Kind::Link { target } => target.as_bytes().to_vec(),
            Kind::Folder { .. } => {
                let entries = names(self.tree, id).into_iter().map(|(name, child)| Dirent {
                    name,
                    nid: self.places.nid(child),
                    kind: self.tree.get(child).kind.dirent(),
                });
                dirents::encode(&entries.collect::<Vec<_>>())
            }
        }
    }
}

/// Metadata that lies together and is written together.
struct Gathered<'a> {
    image: &'a ImageFile,
    start: u64,
    bytes: Vec<u8>,
}

impl Gathered<'_> {
    /// The buffer, for what lies at `at`.
    fn at(&mut self, at: u64) -> Result<&mut Vec<u8>, ErofsError> {
        let end = self.start + self.bytes.len() as u64;
        let near = at >= end && at - end <= BLOCK && self.bytes.len() < GATHERED;
        if near {
            self.bytes.resize((at - self.start) as usize, 0);
        } else {
            self.flush()?;
            self.start = at;
        }
        Ok(&mut self.bytes)
    }

    fn flush(&mut self) -> Result<(), ErofsError> {
        self.image.write(self.start, &self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}
