//! From an uploaded ZIP to the image that every microVM of the function maps.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::{Archive, ArchiveError};
use crate::erofs::{self, ErofsError};
use crate::folder::{self, FolderError};
use crate::limits::Limits;

/// What became of a ZIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Regular files.
    pub files: usize,
    /// Symbolic links.
    pub links: usize,
    /// Folders, the root left out.
    pub folders: usize,
    /// Size of the ZIP, in bytes.
    pub zipped_bytes: u64,
    /// Sum of the sizes of all contents, in bytes.
    pub unzipped_bytes: u64,
    /// Size of the image, in bytes.
    pub image_bytes: u64,
}

/// Why a ZIP did not become an image.
#[derive(Debug, thiserror::Error)]
pub enum OptimiseError {
    /// The ZIP could not be opened.
    #[error("cannot open {path}")]
    Open {
        /// The ZIP.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ZIP is refused: the customer's fault.
    #[error(transparent)]
    Refused(ArchiveError),
    /// The files could not be written.
    #[error("cannot lay out the archive's files")]
    Write(#[source] FolderError),
    /// There is no place for intermediate files.
    #[error("cannot make a temporary folder beside {path}")]
    Scratch {
        /// The image that was wanted.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be made.
    #[error(transparent)]
    Image(#[from] ErofsError),
}

/// Makes the EROFS image of a ZIP at `out`: the same ZIP gives the same bytes anywhere.
///
/// `out` appears whole or not at all; intermediate files live in a folder beside it that is removed in every case.
pub fn optimise_zip(zip: &Path, out: &Path, limits: &Limits) -> Result<Summary, OptimiseError> {
    let open =
        || File::open(zip).map_err(|source| OptimiseError::Open { path: zip.to_owned(), source });
    let file = open()?;
    let zipped_bytes = file
        .metadata()
        .map_err(|source| OptimiseError::Open { path: zip.to_owned(), source })?
        .len();
    let mut archive = Archive::open(file, open()?, limits).map_err(OptimiseError::Refused)?;
    let beside = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let scratch = tempfile::Builder::new()
        .prefix(".unzip-")
        .tempdir_in(beside.unwrap_or(Path::new(".")))
        .map_err(|source| OptimiseError::Scratch { path: out.to_owned(), source })?;
    let count = folder::fill(&mut archive, scratch.path()).map_err(|error| match error {
        FolderError::Archive(error) => OptimiseError::Refused(error),
        error @ FolderError::Write { .. } => OptimiseError::Write(error),
    })?;
    erofs::pack(scratch.path(), out)?;
    let image_bytes =
        out.metadata().map_err(|source| ErofsError::Write { path: out.to_owned(), source })?.len();
    Ok(Summary {
        files: count.files,
        links: count.links,
        folders: count.folders,
        zipped_bytes,
        unzipped_bytes: archive.unzipped(),
        image_bytes,
    })
}

#[cfg(test)]
mod tests;
