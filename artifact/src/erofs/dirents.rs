//! A folder's content: blocks of `erofs_dirent`, each block's entries first and their names after them.
//!
//! All names of a folder, `.` and `..` among them, are in the order of their bytes, over all blocks: Linux finds a name by
//! halving first the blocks and then the entries of one.

use super::BLOCK;
use super::tree::Kind;

/// Size of an entry without its name, in bytes.
const ENTRY: usize = 12;

/// One name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a str,
    /// Where the inode lies, in units of 32 bytes.
    pub(super) nid: u64,
    pub(super) kind: DirentKind,
}

/// What a name leads to: `EROFS_FT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirentKind {
    File = 1,
    Folder = 2,
    Link = 7,
}

impl Kind {
    /// Its kind in a folder's entry.
    pub(super) fn dirent(&self) -> DirentKind {
        match self {
            Kind::Folder { .. } => DirentKind::Folder,
            Kind::File { .. } => DirentKind::File,
            Kind::Link { .. } => DirentKind::Link,
        }
    }
}

/// The size of a folder that holds names of these lengths, in the order of the names, `.` and `..` included.
pub(super) fn size(lengths: impl Iterator<Item = usize>) -> u64 {
    let mut whole = 0;
    let mut used = 0;
    for length in lengths {
        if used + ENTRY + length > BLOCK as usize {
            whole += BLOCK;
            used = 0;
        }
        used += ENTRY + length;
    }
    whole + used as u64
}

/// The content of a folder. `entries` are sorted by name and hold `.` and `..`.
pub(super) fn encode(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        // A block before another one is filled up with zeros.
        content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
        let (block, later) = rest.split_at(fitting(rest));
        encode_block(block, &mut content);
        rest = later;
    }
    content
}

/// How many entries the next block takes.
fn fitting(entries: &[Dirent<'_>]) -> usize {
    let mut used = 0;
    entries
        .iter()
        .take_while(|entry| {
            used += ENTRY + entry.name.len();
            used <= BLOCK as usize
        })
        .count()
}

fn encode_block(entries: &[Dirent<'_>], content: &mut Vec<u8>) {
    let mut name_at = entries.len() * ENTRY;
    for entry in entries {
        content.extend(entry.nid.to_le_bytes());
        let at = u16::try_from(name_at).expect("all names of a block lie in it");
        content.extend(at.to_le_bytes());
        content.extend([entry.kind as u8, 0]);
        name_at += entry.name.len();
    }
    for entry in entries {
        content.extend(entry.name.as_bytes());
    }
}
