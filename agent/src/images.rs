//! The folder that holds a worker's images: kernel, initramfs, runtimes, the VMM and its jailer.

use std::path::{Path, PathBuf};

use crate::function::Function;

/// The environment variable that names the folder.
pub const FOLDER_VARIABLE: &str = "VOTIVE_IMAGES";

/// The files that a microVM is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    folder: PathBuf,
    vmm: PathBuf,
}

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// No folder is known.
    #[error("no folder with images: name one with --images or {FOLDER_VARIABLE}")]
    NoFolder,
    /// A file of the folder.
    #[error("{what} {path} cannot be used")]
    Missing {
        /// What it is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Images {
    /// The images in `folder`; without one, those that were built last, `~/.cache/votive/current`. `vmm` overrides the VMM's place.
    ///
    /// # Errors
    /// [`ImagesError::NoFolder`]
    pub fn find(folder: Option<&Path>, vmm: Option<&Path>) -> Result<Self, ImagesError> {
        let folder = match folder {
            Some(folder) => folder.to_owned(),
            None => current_set().ok_or(ImagesError::NoFolder)?,
        };
        let vmm = vmm.map_or_else(|| folder.join("bin").join("votive-vmm"), Path::to_owned);
        Ok(Self { folder, vmm })
    }

    /// No images: what stands where they are not known yet.
    #[must_use]
    pub fn none() -> Self {
        Self { folder: PathBuf::new(), vmm: PathBuf::new() }
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The VMM's program.
    #[must_use]
    pub fn vmm(&self) -> &Path {
        &self.vmm
    }

    /// The program that makes jails.
    #[must_use]
    pub fn jailer(&self) -> PathBuf {
        self.folder.join("bin").join("votive-jailer")
    }

    /// The guest's kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The guest's initramfs, which holds PID 1.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("init.cpio")
    }

    /// The image of a function's runtime.
    #[must_use]
    pub fn runtime(&self, function: &Function) -> PathBuf {
        self.folder.join(format!("{}.erofs", function.image()))
    }

    /// The runtimes that there are images of, sorted.
    #[must_use]
    pub fn runtimes(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> =
            names.filter_map(|name| name.strip_suffix(".erofs").map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// Opens one of the images for reading.
    ///
    /// # Errors
    /// [`ImagesError::Missing`] with `what` it is.
    pub fn open(what: &'static str, path: PathBuf) -> Result<std::fs::File, ImagesError> {
        std::fs::File::open(&path).map_err(|source| ImagesError::Missing { what, path, source })
    }
}

fn current_set() -> Option<PathBuf> {
    let named = std::env::var_os("VOTIVE_CACHE").map(PathBuf::from);
    let cache = named.or_else(|| {
        let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = xdg.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        Some(base?.join("votive"))
    })?;
    Some(cache.join("current"))
}
