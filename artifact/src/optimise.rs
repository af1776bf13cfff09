//! From uploaded ZIPs to the image that every microVM of the function maps.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::{Archive, ArchiveError};
use crate::erofs::{ErofsError, Flat, InodeId};
use crate::layers::Layers;
use crate::limits::Limits;
use crate::workplace::Workplace;

/// What became of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files.
    pub files: usize,
    /// Symbolic links.
    pub links: usize,
    /// Folders, the root left out.
    pub folders: usize,
    /// Size of the ZIPs or of an image's layers as they were uploaded, in bytes.
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
    Refused(#[from] ArchiveError),
    /// There is no place for intermediate files.
    #[error("cannot make a temporary file in {path}")]
    Scratch {
        /// The folder for temporary files.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The image could not be made.
    #[error(transparent)]
    Image(#[from] ErofsError),
    /// The image could not be put in its place.
    #[error("cannot write {path}")]
    Place {
        /// Where it was to be.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the EROFS image of a ZIP at `out`: the same ZIP gives the same bytes anywhere.
///
/// `out` appears whole or not at all; until then it lives in a [`Workplace`] beside it.
///
/// # Errors
/// [`OptimiseError`]
pub fn optimise_zip(zip: &Path, out: &Path, limits: &Limits) -> Result<Summary, OptimiseError> {
    optimise_zips(&[zip], out, limits)
}

/// As [`optimise_zip`], of several ZIPs, one laid over the other in this order: of two files of one name the later one's
/// is in the image. `limits` hold for each ZIP, the unzipped size and the number of files for all together.
///
/// # Errors
/// [`OptimiseError`]
pub fn optimise_zips(
    zips: &[impl AsRef<Path>],
    out: &Path,
    limits: &Limits,
) -> Result<Summary, OptimiseError> {
    let parent = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let scratch = |source| OptimiseError::Scratch { path: parent.to_owned(), source };
    let workplace = Workplace::new_in(parent).map_err(scratch)?;
    let path = workplace.path().join("image.erofs");
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let (_, summary) = write(zips, file.map_err(scratch)?, limits)?;
    std::fs::rename(&path, out)
        .map_err(|source| OptimiseError::Place { path: out.to_owned(), source })?;
    Ok(summary)
}

/// As [`optimise_zip`], with an image that has no name: nothing is left of it once it is closed. `folder` is
/// where temporary files may be.
///
/// # Errors
/// [`OptimiseError`]
pub fn optimise_zip_unnamed(
    zip: &Path,
    folder: &Path,
    limits: &Limits,
) -> Result<(File, Summary), OptimiseError> {
    optimise_zips_unnamed(&[zip], folder, limits)
}

/// As [`optimise_zips`], with an image that has no name.
///
/// # Errors
/// [`OptimiseError`]
pub fn optimise_zips_unnamed(
    zips: &[impl AsRef<Path>],
    folder: &Path,
    limits: &Limits,
) -> Result<(File, Summary), OptimiseError> {
    let scratch = |source| OptimiseError::Scratch { path: folder.to_owned(), source };
    write(zips, tempfile::tempfile_in(folder).map_err(scratch)?, limits)
}

/// One ZIP and what is to be taken from it.
struct Source {
    archive: Archive<File>,
    files: Vec<(InodeId, usize)>,
}

/// Writes the image into `file`: first all headers are read and everything has its place, then contents go straight to it.
fn write(
    zips: &[impl AsRef<Path>],
    file: File,
    limits: &Limits,
) -> Result<(File, Summary), OptimiseError> {
    let mut layers = Layers::new(limits);
    let mut summary = Summary::default();
    let mut sources = Vec::new();
    // The uppermost first: it hides what the others have.
    for zip in zips.iter().rev() {
        let (mut archive, bytes) = open(zip.as_ref(), layers.left())?;
        summary.zipped_bytes += bytes;
        let files = layers.add(&mut archive)?;
        sources.push(Source { archive, files });
    }
    let count = layers.count;
    (summary.files, summary.links, summary.folders) = (count.files, count.links, count.folders);
    let flat = Flat::new(layers.tree, file)?;
    for source in &mut sources {
        for (id, entry) in &source.files {
            let mut content = flat.content(*id);
            source.archive.read::<OptimiseError>(*entry, |piece| Ok(content.write(piece)?))?;
        }
        summary.unzipped_bytes += source.archive.unzipped();
    }
    summary.image_bytes = flat.bytes();
    Ok((flat.finish()?, summary))
}

/// Opens a ZIP and checks its headers; also gives its size.
fn open(zip: &Path, limits: &Limits) -> Result<(Archive<File>, u64), OptimiseError> {
    let failed = |source| OptimiseError::Open { path: zip.to_owned(), source };
    let open = || File::open(zip).map_err(failed);
    let file = open()?;
    let bytes = file.metadata().map_err(failed)?.len();
    Ok((Archive::open(file, open()?, limits)?, bytes))
}

#[cfg(test)]
mod tests;
