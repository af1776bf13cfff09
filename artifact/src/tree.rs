//! The files that an archive names, each name checked, in one tree that has no two meanings.

use std::collections::BTreeMap;

use crate::limits::{DEPTH, NAME_BYTES, PATH_BYTES, TARGET_BYTES};

/// Why a name cannot be a file below the function's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// Nothing remains of it.
    #[error("is empty")]
    Empty,
    /// A NUL byte.
    #[error("holds a NUL byte")]
    Nul,
    /// Starts with a slash.
    #[error("is absolute")]
    Absolute,
    /// Has a `..`.
    #[error("holds `..`")]
    Parent,
    /// One part or the whole is too long, or it is nested too deeply.
    #[error("is too long or nested too deeply")]
    TooLong,
    /// Another entry has the same name.
    #[error("appears twice")]
    Duplicate,
    /// One entry needs it to be a folder and another one says that it is a file or a link.
    #[error("is both a folder and something else")]
    Conflict,
}

/// Why a symbolic link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// Not UTF-8, empty, with a NUL byte or too long.
    #[error("is no path")]
    NotAPath,
    /// Points outside of the function's folder.
    #[error("points out of the archive")]
    Outside,
}

/// One file, link or folder.
#[derive(Debug)]
pub(crate) enum Node {
    /// A folder. `listed` tells whether an entry named it or other names imply it.
    Folder { children: BTreeMap<Box<str>, Node>, mode: u32, listed: bool },
    /// A regular file whose content is that of the archive's entry with this index.
    File { entry: usize, mode: u32 },
    /// A symbolic link.
    Link { target: Box<str> },
}

impl Node {
    /// A folder that no entry has named yet.
    pub(crate) fn implied() -> Node {
        Node::Folder { children: BTreeMap::new(), mode: 0o755, listed: false }
    }
}

/// A checked entry name: its parts, each a plain file name.
#[derive(Debug)]
pub(crate) struct Name<'a> {
    parts: Vec<&'a str>,
    /// The name ends with a slash, which is how archives mark folders.
    pub(crate) folder: bool,
}

impl<'a> Name<'a> {
    /// Checks a raw name. `.` and empty parts in the middle mean nothing and are dropped, as unzip does.
    pub(crate) fn parse(raw: &'a [u8]) -> Result<Name<'a>, BadName> {
        Name::parse_within(raw, DEPTH)
    }

    /// As [`Name::parse`], with another limit of nesting.
    pub(crate) fn parse_within(raw: &'a [u8], depth: usize) -> Result<Name<'a>, BadName> {
        let text = str::from_utf8(raw).map_err(|_| BadName::NotUtf8)?;
        if text.contains('\0') {
            return Err(BadName::Nul);
        }
        if text.starts_with('/') {
            return Err(BadName::Absolute);
        }
        if text.len() > PATH_BYTES {
            return Err(BadName::TooLong);
        }
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => return Err(BadName::Parent),
                _ if part.len() > NAME_BYTES || parts.len() == depth => {
                    return Err(BadName::TooLong);
                }
                _ => parts.push(part),
            }
        }
        let folder = text.ends_with('/') || text == "." || text.ends_with("/.");
        if text.is_empty() || (parts.is_empty() && !folder) {
            return Err(BadName::Empty);
        }
        Ok(Name { parts, folder })
    }

    /// Its parts; none for the root.
    pub(crate) fn parts(&self) -> &[&'a str] {
        &self.parts
    }

    /// How many folders stand above it.
    pub(crate) fn depth(&self) -> usize {
        self.parts.len().saturating_sub(1)
    }
}

/// Puts `node` at `name` below `root`. Adds the nodes that it made to `made`, the folders on the way included.
pub(crate) fn insert(
    root: &mut Node,
    name: &Name<'_>,
    node: Node,
    made: &mut usize,
) -> Result<(), BadName> {
    let Some((last, parents)) = name.parts.split_last() else {
        // An entry for the archive's own root, `./`, says nothing.
        return Ok(());
    };
    let mut folder = root;
    for part in parents {
        let Node::Folder { children, .. } = folder else { return Err(BadName::Conflict) };
        if !children.contains_key(*part) {
            *made += 1;
        }
        folder = children.entry((*part).into()).or_insert_with(Node::implied);
    }
    let Node::Folder { children, .. } = folder else { return Err(BadName::Conflict) };
    match (children.get_mut(*last), node) {
        (None, node) => {
            children.insert((*last).into(), node);
            *made += 1;
            Ok(())
        }
        // A folder may be named after its content, and more than once: that adds nothing that could be ambiguous.
        (Some(Node::Folder { mode, listed, .. }), Node::Folder { mode: new, .. }) => {
            if !*listed {
                (*mode, *listed) = (new, true);
            }
            Ok(())
        }
        (Some(Node::Folder { .. }), _) | (Some(_), Node::Folder { .. }) => Err(BadName::Conflict),
        (Some(_), _) => Err(BadName::Duplicate),
    }
}

/// Checks a link's target: relative, and `..` only at its beginning and not above the root.
///
/// As no entry lies below a link, the folders above a link are real, and as every link obeys this rule, following links
/// never leaves the tree.
pub(crate) fn check_target(raw: &[u8], depth: usize) -> Result<&str, BadTarget> {
    let text = str::from_utf8(raw).map_err(|_| BadTarget::NotAPath)?;
    if text.is_empty() || text.contains('\0') || text.len() > TARGET_BYTES {
        return Err(BadTarget::NotAPath);
    }
    if text.starts_with('/') {
        return Err(BadTarget::Outside);
    }
    let mut rising = 0;
    let mut named = false;
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if named || rising == depth => return Err(BadTarget::Outside),
            ".." => rising += 1,
            _ => named = true,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
