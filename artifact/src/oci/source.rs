//! Where an image comes from: an OCI image layout, as a folder or as one tar, as skopeo, buildah and umoci write them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::OciError;
use super::entries::{Entries, EntryKind, TarError};
use super::limits::ARCHIVE_FILES;
use crate::digest::Digest;

/// An image layout, and which of its images is meant.
#[derive(Clone, Debug)]
pub struct OciSource {
    path: PathBuf,
    is_archive: bool,
    reference: Option<Box<str>>,
}

impl OciSource {
    /// A folder with `index.json`.
    #[must_use]
    pub fn folder(path: impl Into<PathBuf>) -> OciSource {
        OciSource { path: path.into(), is_archive: false, reference: None }
    }

    /// A tar of such a folder, not compressed.
    #[must_use]
    pub fn archive(path: impl Into<PathBuf>) -> OciSource {
        OciSource { path: path.into(), is_archive: true, reference: None }
    }

    /// One of several images: its tag, or the digest of its manifest or index as `sha256:...`.
    #[must_use]
    pub fn with_reference(mut self, reference: &str) -> OciSource {
        self.reference = Some(reference.into());
        self
    }

    pub(super) fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// Where it is, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A layout that has been opened.
#[derive(Debug)]
pub(super) enum Layout {
    Folder(OwnedFd),
    Archive { file: Arc<File>, files: Files },
}

/// The files of a tar by their names: where each begins in it, and how long it is, in bytes.
type Files = HashMap<Box<[u8]>, (u64, u64)>;

impl Layout {
    pub(super) fn open(source: &OciSource) -> Result<Layout, OciError> {
        let failed = |source_error: io::Error| OciError::Open {
            path: source.path.clone(),
            source: source_error,
        };
        if source.is_archive {
            let file = File::open(&source.path).map_err(failed)?;
            let files = files_of(file.try_clone().map_err(failed)?)
                .map_err(|source| OciError::Archive { source })?;
            return Ok(Layout::Archive { file: Arc::new(file), files });
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&source.path, flags, Mode::empty());
        folder.map(Layout::Folder).map_err(|error| failed(error.into()))
    }

    /// A file at the layout's top, such as `index.json`.
    pub(super) fn file(&self, name: &str) -> io::Result<Blob> {
        match self {
            Layout::Folder(folder) => {
                // A name that leads elsewhere, or a pipe that nobody writes to, is no part of a layout.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                let file = File::from(file);
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::other("it is no file"));
                }
                Ok(Blob { file: Arc::new(file), at: 0, left: metadata.len() })
            }
            Layout::Archive { file, files } => {
                let (at, left) = files.get(name.as_bytes()).ok_or(io::ErrorKind::NotFound)?;
                Ok(Blob { file: file.clone(), at: *at, left: *left })
            }
        }
    }

    /// The blob of this name; its content has not been checked.
    pub(super) fn blob(&self, digest: &Digest) -> io::Result<Blob> {
        self.file(&format!("blobs/sha256/{digest}"))
    }
}

/// The files of a tar, with their places in it.
fn files_of(file: File) -> Result<Files, TarError> {
    let mut entries = Entries::new(file);
    let mut files = HashMap::new();
    while let Some(entry) = entries.next()? {
        let EntryKind::File { size } = entry.kind else { continue };
        if files.len() == ARCHIVE_FILES {
            return Err(io::Error::other("it holds too many files").into());
        }
        let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name);
        files.insert(name.into(), (entries.position(), size));
    }
    Ok(files)
}

/// A file of a layout, read from its beginning.
#[derive(Debug)]
pub(super) struct Blob {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Blob {
    /// Its size, in bytes, of which nothing has been read yet.
    pub(super) fn size(&self) -> u64 {
        self.left
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.min(buffer.len() as u64) as usize;
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
