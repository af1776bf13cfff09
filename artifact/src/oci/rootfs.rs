//! Layers flattened into one tree: what a later one adds, replaces and takes away.
//!
//! Names are resolved as in a container that holds what came before: symbolic links on the way are followed, an absolute one
//! from the image's root, and nothing lies above the root. Nothing is resolved on the host.

use std::collections::{BTreeSet, VecDeque};

use super::entries::{Entry, EntryKind};
use super::limits::{DEPTH, FOLLOWED, LOOKED_UP, METADATA_BYTES, TARGET_BYTES};
use crate::archive::shown;
use crate::erofs::{Attributes, Inode, InodeId, Kind, Tree, XATTRS_SIZE_MAX, Xattr, xattrs_size};
use crate::tree::{BadName, Name};

/// What the name of an entry begins with that takes another one away.
const WHITEOUT: &str = ".wh.";

/// The name of an entry that takes away all that lower layers have in its folder.
const OPAQUE: &str = ".wh..wh..opq";

/// Names that begin like this are notes of an old storage driver and no files.
const NOTE: &str = ".wh..wh.";

/// What PID 1 mounts on in a root, and who may write to it if the image does not have it.
pub(super) const MOUNT_POINTS: [(&str, u16); 3] =
    [("dev", 0o755), ("proc", 0o555), ("tmp", 0o1777)];

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Its name cannot be used.
    #[error("has a name that {0}")]
    Name(BadName),
    /// It is a hard link to a name that cannot be used.
    #[error("is a hard link to {target:?}, a name that {reason}")]
    HardLinkName {
        /// Where it points.
        target: String,
        /// What is wrong.
        reason: BadName,
    },
    /// It is a hard link to what is not there, or to a folder.
    #[error("is a hard link to {target:?}, which is no file that came before")]
    HardLink {
        /// Where it points.
        target: String,
    },
    /// It is a symbolic link whose target is not a path in UTF-8.
    #[error("is a symbolic link whose target {target:?} is no path")]
    Target {
        /// Where it points.
        target: String,
    },
    /// A device, a pipe, or something unknown.
    #[error("is neither a file, a folder nor a link (type {flag:?})")]
    Kind {
        /// The letter of its type.
        flag: char,
    },
    /// It lies below what is no folder.
    #[error("lies below {part:?}, which is no folder")]
    NotAFolder {
        /// The part of its name.
        part: String,
    },
    /// Too many symbolic links lead to it.
    #[error("is reached over too many symbolic links")]
    Followed,
    /// An extended attribute that cannot be kept.
    #[error("has the extended attribute {name:?}, which is too long")]
    Xattr {
        /// Its name.
        name: String,
    },
    /// All entries so far have more names, targets and extended attributes than is held in memory.
    #[error("takes the names, targets and extended attributes over {METADATA_BYTES} bytes")]
    Metadata,
    /// There are more files and folders than allowed.
    #[error("is one more than the {limit} files and folders allowed")]
    TooMany {
        /// The most that is allowed.
        limit: usize,
    },
    /// The image would be larger than one may be.
    #[error("takes the image over the size allowed")]
    TooBig,
}

/// A tree that grows by layers.
#[derive(Debug)]
pub(super) struct Rootfs {
    pub(super) tree: Tree,
    /// How many names each inode got in the layer that made it.
    own_links: Vec<u32>,
    /// The first inode of the current layer.
    first: usize,
    /// The names that the current layer has listed.
    listed: BTreeSet<(InodeId, Box<str>)>,
    nodes_max: usize,
    metadata_left: usize,
    lookups_left: usize,
}

impl Rootfs {
    /// Nothing but a root folder.
    pub(super) fn new(nodes_max: usize) -> Rootfs {
        Rootfs {
            tree: Tree::new(Attributes::of_root(0o755)),
            own_links: vec![1],
            first: 1,
            listed: BTreeSet::new(),
            nodes_max,
            metadata_left: METADATA_BYTES,
            lookups_left: LOOKED_UP,
        }
    }

    /// Begins the next layer: from here on, what is there is what whiteouts take away.
    pub(super) fn begin_layer(&mut self) {
        self.first = self.tree.len();
        self.listed.clear();
    }

    /// Makes the folders that PID 1 mounts on and no layer has, root's, of the beginning of time. Gives the one that is something
    /// else.
    pub(super) fn add_mount_points(&mut self) -> Result<(), &'static str> {
        // They are no part of what the image's maker may be refused for.
        self.nodes_max = usize::MAX;
        for (name, permissions) in MOUNT_POINTS {
            match self.child(Tree::ROOT, name) {
                Some(id) if self.tree.children(id).is_some() => {}
                Some(_) => return Err(name),
                None => {
                    let id = self.make_folder(Tree::ROOT, name).map_err(|_| name)?;
                    self.tree.get_mut(id).attributes.permissions = permissions;
                }
            }
        }
        Ok(())
    }

    /// How many names an inode has in the image, `linked`, or had in its own layer if all are hidden: so what is written of it
    /// depends on as few layers as can be.
    pub(super) fn links(&self, linked: Vec<u32>) -> Vec<u32> {
        let own = self.own_links.iter().copied();
        linked.into_iter().zip(own).map(|(now, own)| if now == 0 { own } else { now }).collect()
    }

    /// Adds one entry. Returns the inode of a file, whose content comes next.
    pub(super) fn add(&mut self, entry: Entry) -> Result<Option<InodeId>, BadEntry> {
        let Entry { name, kind, permissions, user, group, modified, xattrs } = entry;
        let parsed = Name::parse_within(&name, DEPTH).map_err(BadEntry::Name)?;
        let place = parsed.parts().split_last();
        if let Some((last, parents)) = place
            && let Some(hidden) = last.strip_prefix(WHITEOUT)
        {
            self.take_away(parents, last, hidden)?;
            return Ok(None);
        }
        let xattrs = self.check_xattrs(&xattrs)?;
        let attributes = Attributes { permissions, user, group, modified, xattrs };
        let Some((last, parents)) = place else {
            if kind != EntryKind::Folder {
                return Err(BadEntry::Name(BadName::Conflict));
            }
            self.tree.get_mut(Tree::ROOT).attributes = attributes;
            return Ok(None);
        };
        let kind = match kind {
            EntryKind::Other(flag) => return Err(BadEntry::Kind { flag: char::from(flag) }),
            EntryKind::HardLink { target } => {
                self.add_name(parents, last, &target)?;
                return Ok(None);
            }
            EntryKind::Link { target } => Kind::Link { target: self.check_target(&target)? },
            EntryKind::File { size } => Kind::File { size },
            EntryKind::Folder => Kind::folder(Tree::ROOT),
        };
        let folder = self.resolve(parents, true)?.ok_or(BadEntry::Followed)?;
        self.add_inode(folder, last, Inode { attributes, kind })
    }

    /// Puts an inode into a folder, in the place of what is there under its name. A folder that is there keeps what is in it.
    fn add_inode(
        &mut self,
        folder: InodeId,
        name: &str,
        mut inode: Inode,
    ) -> Result<Option<InodeId>, BadEntry> {
        if let Kind::Folder { parent, .. } = &mut inode.kind {
            if let Some(there) = self.child(folder, name)
                && self.tree.children(there).is_some()
            {
                self.tree.get_mut(there).attributes = inode.attributes;
                self.list(folder, name)?;
                return Ok(None);
            }
            *parent = folder;
            self.check_depth(folder)?;
        }
        let is_file = matches!(inode.kind, Kind::File { .. });
        let id = self.new_inode(inode)?;
        self.name(folder, name, id)?;
        Ok(is_file.then_some(id))
    }

    /// A hard link: one more name for what another entry made.
    fn add_name(&mut self, parents: &[&str], name: &str, target: &[u8]) -> Result<(), BadEntry> {
        let missing = || BadEntry::HardLink { target: shown(target) };
        let parsed = Name::parse_within(target, DEPTH)
            .map_err(|reason| BadEntry::HardLinkName { target: shown(target), reason })?;
        let (last, above) = parsed.parts().split_last().ok_or_else(missing)?;
        let folder = self.resolve(parents, true)?.ok_or(BadEntry::Followed)?;
        // What was there under the new name is gone before the target is sought: it may be the target, or above it.
        self.take_name(folder, name);
        let there = self.resolve(above, false)?.and_then(|folder| self.child(folder, last));
        let id = there.filter(|id| self.tree.children(*id).is_none()).ok_or_else(missing)?;
        self.name(folder, name, id)
    }

    /// A whiteout: hides what lower layers have, never what this one has, in whatever order they come.
    fn take_away(&mut self, parents: &[&str], whole: &str, hidden: &str) -> Result<(), BadEntry> {
        let bad = |reason| Err(BadEntry::Name(reason));
        let folder = match self.resolve(parents, false) {
            Ok(Some(folder)) => folder,
            // Where nothing can be, there is nothing to hide.
            Ok(None) | Err(BadEntry::NotAFolder { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if whole == OPAQUE {
            let names = self.tree.children(folder).into_iter().flat_map(|c| c.keys().cloned());
            for name in names.collect::<Vec<_>>() {
                self.hide(folder, &name);
            }
            return Ok(());
        }
        match hidden {
            _ if whole.starts_with(NOTE) => Ok(()),
            "" => bad(BadName::Empty),
            "." | ".." => bad(BadName::Parent),
            name => {
                self.hide(folder, name);
                Ok(())
            }
        }
    }

    /// Hides one name and what is below it, but for what the current layer has listed. Recursion is bounded by `DEPTH`.
    fn hide(&mut self, folder: InodeId, name: &str) {
        let Some(id) = self.child(folder, name) else { return };
        let below = self.tree.children(id).map(|c| c.keys().cloned().collect::<Vec<_>>());
        for inner in below.into_iter().flatten() {
            self.hide(id, &inner);
        }
        let holds_some = self.tree.children(id).is_some_and(|children| !children.is_empty());
        // Names are compared as they are held: there is no look-up of a pair without making one.
        if !holds_some && !self.listed.contains(&(folder, name.into())) {
            self.tree.children_mut(folder).and_then(|children| children.remove(name));
        }
    }

    /// The folder that these parts lead to. What is missing is made if `make`; without it, there is nothing then.
    fn resolve(&mut self, parts: &[&str], make: bool) -> Result<Option<InodeId>, BadEntry> {
        let mut folder = Tree::ROOT;
        let mut links = 0;
        let mut waiting: VecDeque<Box<str>> = VecDeque::new();
        let mut own = parts.iter();
        loop {
            let (part, from_link) = match waiting.pop_front() {
                Some(part) => (part, true),
                None => match own.next() {
                    Some(part) => (Box::from(*part), false),
                    None => return Ok(Some(folder)),
                },
            };
            if from_link {
                self.lookups_left = self.lookups_left.checked_sub(1).ok_or(BadEntry::Followed)?;
            }
            match &*part {
                "" | "." => continue,
                ".." => {
                    if let Kind::Folder { parent, .. } = self.tree.get(folder).kind {
                        folder = parent;
                    }
                    continue;
                }
                _ => {}
            }
            let Some(id) = self.child(folder, &part) else {
                if !make {
                    return Ok(None);
                }
                folder = self.make_folder(folder, &part)?;
                continue;
            };
            match &self.tree.get(id).kind {
                Kind::Folder { .. } => folder = id,
                Kind::File { .. } => {
                    return Err(BadEntry::NotAFolder { part: shown(part.as_bytes()) });
                }
                Kind::Link { target } => {
                    links += 1;
                    if links > FOLLOWED {
                        return Err(BadEntry::Followed);
                    }
                    if target.starts_with('/') {
                        folder = Tree::ROOT;
                    }
                    for part in target.split('/').rev() {
                        waiting.push_front(part.into());
                    }
                }
            }
        }
    }

    /// A folder that only names imply.
    fn make_folder(&mut self, parent: InodeId, name: &str) -> Result<InodeId, BadEntry> {
        self.check_depth(parent)?;
        if name.len() > crate::limits::NAME_BYTES {
            return Err(BadEntry::Name(BadName::TooLong));
        }
        let inode = Inode { attributes: Attributes::of_root(0o755), kind: Kind::folder(parent) };
        let id = self.new_inode(inode)?;
        self.name(parent, name, id)?;
        Ok(id)
    }

    fn new_inode(&mut self, inode: Inode) -> Result<InodeId, BadEntry> {
        if self.tree.len() > self.nodes_max {
            return Err(BadEntry::TooMany { limit: self.nodes_max });
        }
        self.own_links.push(0);
        Ok(self.tree.add(inode))
    }

    /// Gives an inode a name.
    fn name(&mut self, folder: InodeId, name: &str, id: InodeId) -> Result<(), BadEntry> {
        self.spend(name.len())?;
        self.list(folder, name)?;
        if id.index() >= self.first {
            self.own_links[id.index()] += 1;
        }
        self.take_name(folder, name);
        let children = self.tree.children_mut(folder).expect("names are resolved to folders");
        children.insert(name.into(), id);
        Ok(())
    }

    /// Takes a name away, if it is there.
    fn take_name(&mut self, folder: InodeId, name: &str) {
        let before = self.tree.children_mut(folder).and_then(|children| children.remove(name));
        if let Some(before) = before.filter(|id| id.index() >= self.first) {
            self.own_links[before.index()] = self.own_links[before.index()].saturating_sub(1);
        }
    }

    fn list(&mut self, folder: InodeId, name: &str) -> Result<(), BadEntry> {
        self.spend(name.len())?;
        self.listed.insert((folder, name.into()));
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), BadEntry> {
        self.metadata_left = self.metadata_left.checked_sub(bytes).ok_or(BadEntry::Metadata)?;
        Ok(())
    }

    fn child(&self, folder: InodeId, name: &str) -> Option<InodeId> {
        self.tree.children(folder)?.get(name).copied()
    }

    fn check_depth(&self, mut folder: InodeId) -> Result<(), BadEntry> {
        for _ in 0..DEPTH {
            match self.tree.get(folder).kind {
                Kind::Folder { parent, .. } if folder != Tree::ROOT => folder = parent,
                _ => return Ok(()),
            }
        }
        Err(BadEntry::Name(BadName::TooLong))
    }

    fn check_target(&mut self, target: &[u8]) -> Result<Box<str>, BadEntry> {
        let text = str::from_utf8(target).ok();
        let good =
            |text: &&str| !text.is_empty() && !text.contains('\0') && text.len() <= TARGET_BYTES;
        let bad = || BadEntry::Target { target: shown(target) };
        let text = text.filter(good).ok_or_else(bad)?;
        self.spend(text.len())?;
        Ok(text.into())
    }

    /// Keeps `user.*` and `security.capability`. What else there may be means something to the host that made the image, and
    /// nothing in a guest without that host's security modules and file systems.
    fn check_xattrs(&mut self, xattrs: &[(String, Vec<u8>)]) -> Result<Box<[Xattr]>, BadEntry> {
        let mut kept: Vec<Xattr> = Vec::new();
        for (name, value) in xattrs {
            if name != "security.capability" && !name.starts_with("user.") {
                continue;
            }
            let bad = || BadEntry::Xattr { name: shown(name.as_bytes()) };
            let xattr = Xattr::new(name, value).ok_or_else(bad)?;
            kept.retain(|other| other.key() != xattr.key());
            kept.push(xattr);
            if xattrs_size(&kept) > XATTRS_SIZE_MAX {
                return Err(bad());
            }
        }
        self.spend(xattrs_size(&kept))?;
        kept.sort();
        Ok(kept.into())
    }
}

#[cfg(test)]
mod tests;
