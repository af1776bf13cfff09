//! Images of code and layers, packed once and kept under the digest of what they were made of.
//!
//! Beside each image lies the image's own digest. An image that is there already is used only if it still has it: a file that
//! was cut short or changed is packed anew. Both appear whole or not at all.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use votive_artifact::Limits;

use crate::limits::IMAGES_KEPT_MAX_BYTES;
use crate::worker::api::CodeSource;

#[cfg(test)]
mod tests;

/// A SHA-256.
pub(crate) type Sha256Digest = [u8; 32];

/// The folder of packed images.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// An image with the digest of what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) image: PathBuf,
    pub(crate) sha256: Sha256Digest,
}

/// Why there is no image. It names no path of the worker's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("the archive is refused")]
    Refused(#[source] votive_artifact::OptimiseError),
    #[error("the image cannot be kept")]
    Keep(#[source] io::Error),
    #[error("layers are ZIPs: they cannot be images or artifacts")]
    LayerImage,
    #[error("an artifact is no file of this host")]
    Artifact,
}

impl Store {
    /// The store in `state_dir`, made if it is not there. Of what a worker before left, the newest images stay.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let folder = state_dir.join("images");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let store = Self { folder };
        store.prune(IMAGES_KEPT_MAX_BYTES)?;
        Ok(store)
    }

    /// The image of a function's code.
    pub(crate) fn code(&self, code: &CodeSource) -> Result<Packed, StoreError> {
        match code {
            CodeSource::Image(path) => Ok(Packed { image: path.clone(), sha256: digest_of(path)? }),
            CodeSource::Zip(path) => self.pack("code", std::slice::from_ref(path)),
            CodeSource::Artifact(_) => Err(StoreError::Artifact),
        }
    }

    /// The image of layers, merged in this order; none without any.
    pub(crate) fn layers(&self, layers: &[CodeSource]) -> Result<Option<Packed>, StoreError> {
        let path = |layer: &CodeSource| match layer {
            CodeSource::Zip(path) => Ok(path.clone()),
            CodeSource::Image(_) | CodeSource::Artifact(_) => Err(StoreError::LayerImage),
        };
        let zips: Vec<_> = layers.iter().map(path).collect::<Result<_, _>>()?;
        if zips.is_empty() { Ok(None) } else { self.pack("layers", &zips).map(Some) }
    }

    /// Removes an image of this store that nothing needs any more. What still reads it keeps what it has opened.
    pub(crate) fn forget(&self, image: &Path) {
        if image.parent() == Some(&self.folder) {
            // It may be gone already; a second failure changes nothing.
            let _ = std::fs::remove_file(seal_of(image));
            let _ = std::fs::remove_file(image);
        }
    }

    /// Removes the oldest images until the rest is no more than `max` bytes. Nothing may be in use yet.
    fn prune(&self, max: u64) -> io::Result<()> {
        let mut images = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if entry.path().extension().is_some_and(|extension| extension == "erofs") {
                images.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        images.sort();
        let mut kept = 0_u64;
        for (_, len, image) in images.iter().rev() {
            kept = kept.saturating_add(*len);
            if kept > max {
                self.forget(image);
            }
        }
        Ok(())
    }

    fn pack(&self, kind: &str, zips: &[PathBuf]) -> Result<Packed, StoreError> {
        let digests: Vec<_> = zips.iter().map(|zip| digest_of(zip)).collect::<Result<_, _>>()?;
        let sha256 = together(&digests);
        let image = self.folder.join(format!("{kind}-{}.erofs", hexadecimal(&sha256)));
        if !is_intact(&image) {
            make(zips, &image)?;
            // What was packed is what was digested, or it is nothing: the files may have changed between.
            let again: Vec<_> = zips.iter().map(|zip| digest_of(zip)).collect::<Result<_, _>>()?;
            if again != digests {
                self.forget(&image);
                let changed = io::Error::other("the archive changed while it was packed");
                return Err(StoreError::Keep(changed));
            }
            seal(&image).map_err(StoreError::Keep)?;
        }
        Ok(Packed { image, sha256 })
    }
}

fn make(zips: &[PathBuf], image: &Path) -> Result<(), StoreError> {
    let made = votive_artifact::optimise_zips(zips, image, &Limits::default());
    made.map(drop).map_err(StoreError::Refused)
}

/// One digest for several: that of the only one is itself.
pub(crate) fn together(digests: &[Sha256Digest]) -> Sha256Digest {
    match digests {
        [one] => *one,
        several => Sha256::digest(several.concat()).into(),
    }
}

fn digest_of(path: &Path) -> Result<Sha256Digest, StoreError> {
    let read = |source| StoreError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(read(io::Error::other("it is not a file")));
    }
    digest(file).map_err(read)
}

fn digest(mut file: File) -> io::Result<Sha256Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn is_intact(image: &Path) -> bool {
    let told = std::fs::read_to_string(seal_of(image));
    let is = File::open(image).and_then(digest);
    matches!((told, is), (Ok(told), Ok(is)) if told.trim_end() == hexadecimal(&is))
}

fn seal(image: &Path) -> io::Result<()> {
    let digest = File::open(image).and_then(digest)?;
    let folder = image.parent().unwrap_or(Path::new("."));
    let mut partial = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut partial, format!("{}\n", hexadecimal(&digest)).as_bytes())?;
    partial.persist(seal_of(image)).map_err(|error| error.error)?;
    Ok(())
}

fn seal_of(image: &Path) -> PathBuf {
    image.with_extension("sha256")
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
