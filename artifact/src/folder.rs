//! Lays an archive's files out in a folder that no entry can leave.
//!
//! Every name is one part, checked to be a plain file name, and is used relative to the descriptor of the folder it lies
//! in; links are never followed. So no path is ever resolved that an archive could have a say in.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::archive::{Archive, ArchiveError};
use crate::tree::Node;

/// Why files could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The archive is refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file could not be written.
    #[error("cannot write {name:?}")]
    Write {
        /// The file's name in its folder.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How many files and links were laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) files: usize,
    pub(crate) links: usize,
    pub(crate) folders: usize,
}

/// Writes all files of `archive` below `folder`, which exists. What is there already hides what the archive has under the same
/// name, as an upper layer hides a lower one; a folder shows what both have.
pub(crate) fn fill<R: Read + Seek>(
    archive: &mut Archive<R>,
    folder: &Path,
) -> Result<Count, FolderError> {
    let open = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let descriptor = rustix::fs::open(folder, open, Mode::empty()).map_err(|error| {
        FolderError::Write { name: folder.display().to_string(), source: error.into() }
    })?;
    let root = archive.take_root();
    let mut count = Count::default();
    fill_folder(archive, &root, descriptor.as_fd(), &mut count)?;
    Ok(count)
}

/// Recursion is bounded by `limits::DEPTH`, which every name has been checked against.
fn fill_folder<R: Read + Seek>(
    archive: &mut Archive<R>,
    node: &Node,
    folder: BorrowedFd<'_>,
    count: &mut Count,
) -> Result<(), FolderError> {
    let Node::Folder { children, .. } = node else { return Ok(()) };
    for (name, child) in children {
        let failed = |error: rustix::io::Errno| FolderError::Write {
            name: name.to_string(),
            source: error.into(),
        };
        match child {
            Node::Folder { mode, .. } => {
                let Some((inner, made)) = make_folder(folder, name, *mode).map_err(failed)? else {
                    continue;
                };
                count.folders += usize::from(made);
                fill_folder(archive, child, inner.as_fd(), count)?;
            }
            Node::File { entry, mode } => {
                let Some(mut file) = make_file(folder, name, *mode).map_err(failed)? else {
                    continue;
                };
                count.files += 1;
                archive.read(*entry, |piece| {
                    file.write_all(piece)
                        .map_err(|source| FolderError::Write { name: name.to_string(), source })
                })?;
            }
            Node::Link { target } => {
                let made = unless_hidden(rustix::fs::symlinkat(&**target, folder, &**name));
                count.links += usize::from(made.map_err(failed)?.is_some());
            }
        }
    }
    Ok(())
}

/// Nothing if the name is taken.
fn unless_hidden<T>(made: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(rustix::io::Errno::EXIST) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The folder, and whether it is new; nothing if something else hides it and all below.
fn make_folder(
    parent: BorrowedFd<'_>,
    name: &str,
    mode: u32,
) -> rustix::io::Result<Option<(OwnedFd, bool)>> {
    let made = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
    let made = unless_hidden(made)?.is_some();
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) if !made => return Ok(None),
        Err(error) => return Err(error),
    };
    if made {
        // The process's umask has no say in the image.
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
    }
    Ok(Some((folder, made)))
}

/// The file; nothing if something else hides it.
fn make_file(parent: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<Option<File>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
    let Some(file) = unless_hidden(file)? else { return Ok(None) };
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(Some(file.into()))
}
