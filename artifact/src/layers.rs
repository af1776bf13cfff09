//! ZIPs laid one over the other: the tree that all of them make, and from which entry each file comes.

use std::io::{Read, Seek};

use crate::archive::{Archive, ArchiveError};
use crate::erofs::{Attributes, Inode, InodeId, Kind, Tree};
use crate::limits::Limits;
use crate::tree::Node;

/// How many files, links and folders there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) files: usize,
    pub(crate) links: usize,
    pub(crate) folders: usize,
}

/// What ZIPs hold together.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The files, links and folders that can be seen. All belong to root and their times are zero.
    pub(crate) tree: Tree,
    /// How many they are.
    pub(crate) count: Count,
    left: Limits,
}

impl Layers {
    /// No ZIP yet. `limits` hold for each one; the unzipped size and the number of nodes for all together.
    pub(crate) fn new(limits: &Limits) -> Layers {
        // It becomes `/var/task` or `/opt`, which the function's user may read.
        let tree = Tree::new(Attributes::of_root(0o755));
        Layers { tree, count: Count::default(), left: *limits }
    }

    /// What the next ZIP may hold at most.
    pub(crate) fn left(&self) -> &Limits {
        &self.left
    }

    /// Lays a ZIP under those that are there already: what they have hides what it has under the same name, and a folder shows
    /// what all have. Returns its files that can be seen, in the order of paths, each with the entry it comes from.
    pub(crate) fn add<R: Read + Seek>(
        &mut self,
        archive: &mut Archive<R>,
    ) -> Result<Vec<(InodeId, usize)>, ArchiveError> {
        let root = archive.take_root();
        let before = self.tree.len();
        let mut layer = Layer { tree: &mut self.tree, count: &mut self.count, files: Vec::new() };
        layer.add_folder(Tree::ROOT, root);
        let files = layer.files;
        let limit = self.left.unzipped_bytes;
        let mut bytes = archive.unzipped();
        for (_, entry) in &files {
            bytes = bytes.saturating_add(archive.claimed(*entry));
            if bytes > limit {
                return Err(ArchiveError::TooMuch { name: archive.name(*entry), limit });
            }
        }
        for (id, entry) in &files {
            self.tree.get_mut(*id).kind = Kind::File { size: archive.claimed(*entry) };
        }
        self.left.unzipped_bytes = limit - bytes;
        self.left.nodes = self.left.nodes.saturating_sub(self.tree.len() - before);
        Ok(files)
    }
}

/// One ZIP while it is added.
struct Layer<'a> {
    tree: &'a mut Tree,
    count: &'a mut Count,
    files: Vec<(InodeId, usize)>,
}

impl Layer<'_> {
    /// Recursion is bounded by `limits::DEPTH`, which every name has been checked against.
    fn add_folder(&mut self, folder: InodeId, node: Node) {
        let Node::Folder { children, .. } = node else { return };
        for (name, child) in children {
            let there =
                self.tree.children(folder).and_then(|children| children.get(&name).copied());
            match (there, &child) {
                (Some(id), Node::Folder { .. }) if self.tree.children(id).is_some() => {
                    self.add_folder(id, child);
                }
                (Some(_), _) => {}
                (None, _) => self.add_node(folder, name, child),
            }
        }
    }

    fn add_node(&mut self, folder: InodeId, name: Box<str>, node: Node) {
        let (permissions, kind) = match &node {
            Node::Folder { mode, .. } => (*mode, Kind::folder(folder)),
            Node::File { mode, .. } => (*mode, Kind::File { size: 0 }),
            Node::Link { target } => (0o777, Kind::Link { target: target.clone() }),
        };
        let attributes = Attributes::of_root((permissions & 0o7777) as u16);
        let id = self.tree.add(Inode { attributes, kind });
        if let Some(children) = self.tree.children_mut(folder) {
            children.insert(name, id);
        }
        match node {
            Node::Folder { .. } => {
                self.count.folders += 1;
                self.add_folder(id, node);
            }
            Node::File { entry, .. } => {
                self.count.files += 1;
                self.files.push((id, entry));
            }
            Node::Link { .. } => self.count.links += 1,
        }
    }
}
