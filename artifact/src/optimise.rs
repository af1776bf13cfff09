//! From an uploaded ZIP to the image that every microVM of the function maps.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::archive::{Archive, ArchiveError};
use crate::erofs::{self, ErofsError};
use crate::folder::{self, FolderError};
use crate::limits::Limits;
use crate::workplace::Workplace;

/// What became of a ZIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    #[error("cannot make a temporary folder in {path}")]
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
}

/// Makes the EROFS image of a ZIP at `out`: the same ZIP gives the same bytes anywhere.
///
/// `out` appears whole or not at all; intermediate files live in a [`Workplace`] beside it.
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
    let parent = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let (_workplace, image, summary) = optimise_in(zips, parent.unwrap_or(Path::new(".")), limits)?;
    std::fs::rename(image, out)
        .map_err(|source| ErofsError::Write { path: out.to_owned(), source })?;
    Ok(summary)
}

/// As [`optimise_zip`], with an image that has no name any more: nothing is left of it once it is closed. `folder` is
/// where temporary files may be.
///
/// # Errors
/// [`OptimiseError`]
pub fn optimise_zip_unnamed(
    zip: &Path,
    folder: &Path,
    limits: &Limits,
) -> Result<(File, Summary), OptimiseError> {
    let (_workplace, image, summary) = optimise_in(&[zip], folder, limits)?;
    let file = File::open(&image).map_err(|source| ErofsError::Write { path: image, source })?;
    Ok((file, summary))
}

/// Makes the image inside a new workplace in `folder`.
fn optimise_in(
    zips: &[impl AsRef<Path>],
    folder: &Path,
    limits: &Limits,
) -> Result<(Workplace, PathBuf, Summary), OptimiseError> {
    let scratch = |source| OptimiseError::Scratch { path: folder.to_owned(), source };
    let workplace = Workplace::new_in(folder).map_err(scratch)?;
    let files = workplace.path().join("files");
    std::fs::create_dir(&files).map_err(scratch)?;
    // It becomes `/var/task` or `/opt`, which the function's user may read, whatever the umask is here.
    std::fs::set_permissions(&files, Permissions::from_mode(0o755)).map_err(scratch)?;
    let mut summary = Summary::default();
    let mut left = *limits;
    // The uppermost first: what is there hides what comes after it.
    for zip in zips.iter().rev() {
        let layer = lay_out(zip.as_ref(), &files, &left)?;
        summary.files += layer.files;
        summary.links += layer.links;
        summary.folders += layer.folders;
        summary.zipped_bytes += layer.zipped_bytes;
        summary.unzipped_bytes += layer.unzipped_bytes;
        left.unzipped_bytes = left.unzipped_bytes.saturating_sub(layer.unzipped_bytes);
        left.nodes = left.nodes.saturating_sub(layer.files + layer.links + layer.folders);
    }
    let image = workplace.path().join("image.erofs");
    erofs::pack(&files, &image)?;
    summary.image_bytes =
        image.metadata().map_err(|source| ErofsError::Write { path: image.clone(), source })?.len();
    Ok((workplace, image, summary))
}

/// Lays the files of one ZIP out below `files`.
fn lay_out(zip: &Path, files: &Path, limits: &Limits) -> Result<Summary, OptimiseError> {
    let open =
        || File::open(zip).map_err(|source| OptimiseError::Open { path: zip.to_owned(), source });
    let file = open()?;
    let zipped_bytes = file
        .metadata()
        .map_err(|source| OptimiseError::Open { path: zip.to_owned(), source })?
        .len();
    let mut archive = Archive::open(file, open()?, limits).map_err(OptimiseError::Refused)?;
    let count = folder::fill(&mut archive, files).map_err(|error| match error {
        FolderError::Archive(error) => OptimiseError::Refused(error),
        error @ FolderError::Write { .. } => OptimiseError::Write(error),
    })?;
    Ok(Summary {
        files: count.files,
        links: count.links,
        folders: count.folders,
        zipped_bytes,
        unzipped_bytes: archive.unzipped(),
        image_bytes: 0,
    })
}

#[cfg(test)]
mod tests;
