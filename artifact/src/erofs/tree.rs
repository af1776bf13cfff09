//! What an image is to hold: inodes, and the names they have in folders.

use std::collections::BTreeMap;

use super::xattrs::Xattr;

/// One inode of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InodeId(u32);

impl InodeId {
    /// Its place among all inodes of its tree, hidden ones included.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// What `stat` shows where inode numbers have 32 bits. It starts at 1.
    pub(crate) fn number(self) -> u32 {
        self.0 + 1
    }
}

/// When something was last changed, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp {
    /// Seconds, negative before 1970.
    pub(crate) seconds: i64,
    /// Nanoseconds after that second.
    pub(crate) nanoseconds: u32,
}

/// What every inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// The lower twelve bits of the mode.
    pub(crate) permissions: u16,
    /// Owner.
    pub(crate) user: u32,
    /// Owning group.
    pub(crate) group: u32,
    /// Time of the last change.
    pub(crate) modified: Timestamp,
    /// Extended attributes, sorted by name, each name once.
    pub(crate) xattrs: Box<[Xattr]>,
}

impl Attributes {
    /// Those of something that belongs to root, whose time is nobody's business.
    pub(crate) fn of_root(permissions: u16) -> Attributes {
        Attributes { permissions, ..Attributes::default() }
    }
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A folder.
    Folder {
        /// What is in it. The order of UTF-8 strings is that of their bytes, which EROFS asks for.
        children: BTreeMap<Box<str>, InodeId>,
        /// The folder it is in; the root's is itself.
        parent: InodeId,
    },
    /// A regular file.
    File {
        /// Its size, in bytes.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// Where it points; at most a block less an inode.
        target: Box<str>,
    },
}

impl Kind {
    /// A folder without anything in it.
    pub(crate) fn folder(parent: InodeId) -> Kind {
        Kind::Folder { children: BTreeMap::new(), parent }
    }
}

/// A file, folder or link.
#[derive(Debug)]
pub(crate) struct Inode {
    /// Owner, mode, time.
    pub(crate) attributes: Attributes,
    /// What it is.
    pub(crate) kind: Kind,
}

/// Inodes and names. The first inode is the root.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
}

impl Tree {
    /// The root folder of every tree.
    pub(crate) const ROOT: InodeId = InodeId(0);

    /// A tree of nothing but a root.
    pub(crate) fn new(root: Attributes) -> Tree {
        Tree { inodes: vec![Inode { attributes: root, kind: Kind::folder(Tree::ROOT) }] }
    }

    /// How many inodes there are, those included that no name leads to.
    pub(crate) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// All inodes in the order in which they were added.
    pub(crate) fn ids(&self) -> impl Iterator<Item = InodeId> + use<> {
        (0..self.inodes.len() as u32).map(InodeId)
    }

    /// An inode.
    pub(crate) fn get(&self, id: InodeId) -> &Inode {
        &self.inodes[id.index()]
    }

    /// An inode, to be changed.
    pub(crate) fn get_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    /// Adds an inode that has no name yet.
    ///
    /// # Panics
    /// With more than 2^32 - 1 inodes: the caller's limits are far below.
    pub(crate) fn add(&mut self, inode: Inode) -> InodeId {
        let index = u32::try_from(self.inodes.len()).ok().filter(|index| *index < u32::MAX);
        let id = InodeId(index.expect("the limits of entries are far below 2^32"));
        self.inodes.push(inode);
        id
    }

    /// What is in a folder; nothing if it is none.
    pub(crate) fn children(&self, id: InodeId) -> Option<&BTreeMap<Box<str>, InodeId>> {
        match &self.get(id).kind {
            Kind::Folder { children, .. } => Some(children),
            _ => None,
        }
    }

    /// What is in a folder, to be changed; nothing if it is none.
    pub(crate) fn children_mut(&mut self, id: InodeId) -> Option<&mut BTreeMap<Box<str>, InodeId>> {
        match &mut self.get_mut(id).kind {
            Kind::Folder { children, .. } => Some(children),
            _ => None,
        }
    }

    /// Every inode that a name leads to, once: a folder before what is in it, siblings by name, a file at its first name.
    pub(crate) fn in_path_order(&self) -> Vec<InodeId> {
        let mut order = Vec::with_capacity(self.len());
        let mut seen = vec![false; self.len()];
        let mut stack = vec![Tree::ROOT];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            order.push(id);
            if let Some(children) = self.children(id) {
                stack.extend(children.values().rev());
            }
        }
        order
    }

    /// For each inode the number of its names as `stat` counts them; zero for those that no name leads to.
    pub(crate) fn link_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.len()];
        // The root is named by itself alone.
        counts[Tree::ROOT.index()] = 1;
        for folder in self.in_path_order() {
            for child in self.children(folder).into_iter().flat_map(BTreeMap::values) {
                counts[child.index()] += 1;
                if self.children(*child).is_some() {
                    // Each folder's `..` is a name of the one above it.
                    counts[folder.index()] += 1;
                }
            }
            counts[folder.index()] += u32::from(self.children(folder).is_some());
        }
        counts
    }
}

#[cfg(test)]
mod tests;
