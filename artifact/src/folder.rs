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

/// Writes all files of `archive` below `folder`, which exists and is empty.
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
                let inner = make_folder(folder, name, *mode).map_err(failed)?;
                count.folders += 1;
                fill_folder(archive, child, inner.as_fd(), count)?;
            }
            Node::File { entry, mode } => {
                let mut file = make_file(folder, name, *mode).map_err(failed)?;
                count.files += 1;
                archive.read(*entry, |piece| {
                    file.write_all(piece)
                        .map_err(|source| FolderError::Write { name: name.to_string(), source })
                })?;
            }
            Node::Link { target } => {
                rustix::fs::symlinkat(&**target, folder, &**name).map_err(failed)?;
                count.links += 1;
            }
        }
    }
    Ok(())
}

fn make_folder(parent: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    // The process's umask has no say in the image.
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
    Ok(folder)
}

fn make_file(parent: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(file.into())
}
