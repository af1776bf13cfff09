//! The build cache: every image is an entry named by the hash of what it was made from.
//!
//! An entry is a folder `<root>/<kind>-<hash>`. It is built in a temporary folder and renamed into place, so that an
//! entry which exists is complete. `<root>/current/` holds links to the entries in use, under fixed names.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// A folder of finished entries, shared by all runs of this user.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$VOTIVE_CACHE`, else `$XDG_CACHE_HOME/votive`, else `~/.cache/votive`, and makes it when it is missing.
    /// What an earlier run left half-built is removed.
    pub(crate) fn open() -> Result<Self> {
        let root = root_from(|name| std::env::var_os(name))?;
        Self::open_at(&root)
    }

    /// Opens the cache in `root`.
    pub(crate) fn open_at(root: &Path) -> Result<Self> {
        for folder in ["tmp", "current", "locks"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let cache = Self { root: root.canonicalize()? };
        cache.sweep()?;
        Ok(cache)
    }

    /// The cache folder itself, absolute.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of links to what is in use now: `vmlinux`, `init.cpio`, `bin/votive`, ...
    pub(crate) fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    /// The finished entry for `key`, built by `build` in an empty folder if it does not exist yet.
    ///
    /// Two runs that want the same entry wait for each other; the second one finds it made.
    pub(crate) fn entry(
        &self,
        key: Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = key.name();
        let path = self.root.join(&name);
        if path.exists() {
            return Ok(path);
        }
        let lock = self.lock(&name)?;
        if !path.exists() {
            let scratch = self.scratch()?;
            let made = scratch.path().join("entry");
            fs::create_dir(&made)?;
            build(&made)?;
            fs::rename(&made, &path)
                .with_context(|| format!("cannot put {} into place", path.display()))?;
        }
        drop(lock);
        Ok(path)
    }

    /// Waits for and holds the lock called `name` until the returned file is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let file = File::create(self.root.join("locks").join(name))?;
        file.lock().with_context(|| format!("cannot lock {name}"))?;
        Ok(file)
    }

    /// Makes `current/<name>` a link to `target`; `name` may hold folders (`bin/votive`).
    pub(crate) fn link(&self, name: &str, target: &Path) -> Result<PathBuf> {
        let link = self.current().join(name);
        let parent = link.parent().context("a link needs a name")?;
        fs::create_dir_all(parent)?;
        if !target.exists() {
            bail!("{} does not exist, so current/{name} cannot point to it", target.display());
        }
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            return Ok(link);
        }
        // Renaming over the old link leaves no moment without one.
        let scratch = self.scratch()?;
        let fresh = scratch.path().join("link");
        std::os::unix::fs::symlink(target, &fresh)?;
        fs::rename(&fresh, &link).with_context(|| format!("cannot link {}", link.display()))?;
        Ok(link)
    }

    /// A folder of one's own inside the cache, on the same file system as its entries, removed when dropped.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(self.root.join("tmp"))?;
        // Under its name the lock is held from the first moment: another run takes one that is free for a dead run's.
        let unnamed = folder.path().join(".lock-to-be");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, folder.path().join(SCRATCH_LOCK))?;
        Ok(Scratch { folder, _lock: lock })
    }

    /// Removes the scratch folders whose owner died: those whose lock nobody holds.
    fn sweep(&self) -> Result<()> {
        for item in fs::read_dir(self.root.join("tmp"))? {
            let path = item?.path();
            // A folder without a lock file is one that is being made at this moment.
            let Ok(lock) = File::open(path.join(SCRATCH_LOCK)) else { continue };
            match lock.try_lock() {
                Ok(()) => fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

const SCRATCH_LOCK: &str = ".lock";

/// A temporary folder that the next run removes if this one cannot.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// What an entry is made from. Each input is added with a label, so that two lists of inputs never look alike.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    kind: String,
    hash: Sha256,
}

impl Key {
    /// A key for entries called `<kind>-<hash>`. Change `recipe` when the way of building changes.
    pub(crate) fn new(kind: &str, recipe: u32) -> Self {
        Self { kind: kind.to_owned(), hash: Sha256::new() }
            .text("kind", kind)
            .text("recipe", &recipe.to_string())
    }

    /// Adds a text: a version, a command line, a list of packages.
    pub(crate) fn text(mut self, label: &str, text: &str) -> Self {
        self.field(label, text.as_bytes());
        self
    }

    /// Adds the content of a file, not its name.
    pub(crate) fn file(mut self, label: &str, path: &Path) -> Result<Self> {
        let digest = digest_of_file(path)?;
        self.field(label, digest.as_bytes());
        Ok(self)
    }

    /// Adds every file under a folder: names below it, contents and whether they are executable.
    pub(crate) fn tree(mut self, label: &str, folder: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        for item in walkdir::WalkDir::new(folder).sort_by_file_name() {
            let item = item?;
            if !item.file_type().is_file() {
                continue;
            }
            let name = item.path().strip_prefix(folder)?.to_string_lossy().into_owned();
            let executable = item.metadata()?.permissions().mode() & 0o111 != 0;
            let digest = digest_of_file(item.path())?;
            self.field(label, format!("{name}\0{executable}\0{digest}").as_bytes());
        }
        Ok(self)
    }

    /// The entry's folder name.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.kind, &hex(&self.hash.clone().finalize())[..24])
    }

    fn field(&mut self, label: &str, bytes: &[u8]) {
        for part in [label.as_bytes(), bytes] {
            self.hash.update((part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
    }
}

/// SHA-256 of a file's content, in hex.
pub(crate) fn digest_of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn root_from(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = set("VOTIVE_CACHE") {
        return Ok(root);
    }
    if let Some(caches) = set("XDG_CACHE_HOME") {
        return Ok(caches.join("votive"));
    }
    let home = set("HOME").context("none of VOTIVE_CACHE, XDG_CACHE_HOME and HOME is set")?;
    Ok(home.join(".cache/votive"))
}

#[cfg(test)]
mod tests;
