//! What a runtime image is made of, as `rootfs/<name>.toml` says it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// One image, with what it extends merged in.
#[derive(Debug, Default)]
pub(crate) struct Recipe {
    /// The folder that holds the recipes and the files they name.
    pub(crate) folder: PathBuf,
    /// The TOML files that were read, in order: part of the image's key.
    pub(crate) sources: Vec<PathBuf>,
    pub(crate) debian: Debian,
    pub(crate) python: Option<Python>,
    pub(crate) node: Option<Node>,
    pub(crate) directories: Vec<Directory>,
    pub(crate) files: Vec<File>,
    pub(crate) links: Vec<Link>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    extends: Option<String>,
    #[serde(default)]
    debian: Debian,
    python: Option<Python>,
    node: Option<Node>,
    #[serde(default, rename = "directory")]
    directories: Vec<Directory>,
    #[serde(default, rename = "file")]
    files: Vec<File>,
    #[serde(default, rename = "link")]
    links: Vec<Link>,
}

/// Debian packages, unpacked and not installed: no maintainer script runs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Debian {
    /// The packages wanted; apt adds what they depend on.
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    /// Dependencies left out, unless `packages` names them: they serve installation, which does not happen.
    #[serde(default)]
    pub(crate) without: Vec<String>,
    /// Files and folders that are dropped after unpacking; they may be absent. A `*` at the end stands for any rest.
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    /// The only programs in `usr/bin` that stay.
    #[serde(default)]
    pub(crate) keep_programs: Vec<String>,
    /// A locale to compile beside C.UTF-8.
    pub(crate) locale: Option<String>,
    /// Names that link to busybox unless a package brought a program of that name.
    #[serde(default)]
    pub(crate) busybox: Vec<String>,
}

/// Wheels from PyPI, each pinned by version and hash.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Python {
    /// The interpreter inside the image that compiles the modules.
    pub(crate) interpreter: String,
    /// The ABI tag of the wheels, for example `cp311`.
    pub(crate) abi: String,
    /// Requirements with hashes, below the recipes' folder.
    pub(crate) requirements: String,
    /// Where in the image the wheels are unpacked.
    pub(crate) into: String,
    /// Files below `into` that are dropped.
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    /// Folders whose modules are compiled ahead.
    pub(crate) compile: Vec<String>,
}

/// Node.js from a wheel (PyPI carries it with npm and headers) and packages from npm.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// Requirements with hashes that name the wheel with Node.js.
    pub(crate) requirements: String,
    /// The folder inside the wheel that holds `bin/node`.
    pub(crate) prefix: String,
    /// A folder with `package.json` and `package-lock.json`, below the recipes' folder.
    pub(crate) lock: String,
    /// Debian packages on the build host that the packages' native parts are compiled with: part of the key.
    pub(crate) tools: Vec<String>,
    /// Packages of which these files are kept: package to files, in `into/node_modules`.
    pub(crate) keep: BTreeMap<String, Vec<String>>,
    /// Where in the image `node_modules` is made.
    pub(crate) into: String,
}

/// An empty folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Directory {
    pub(crate) path: String,
    #[serde(default = "Directory::default_mode")]
    pub(crate) mode: u32,
}

impl Directory {
    fn default_mode() -> u32 {
        0o755
    }
}

/// A file with a text, or the copy of one below the recipes' folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: Option<String>,
    pub(crate) from: Option<String>,
    #[serde(default = "File::default_mode")]
    pub(crate) mode: u32,
}

impl File {
    fn default_mode() -> u32 {
        0o644
    }
}

/// A symbolic link; it takes the place of a file that a package brought.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) target: String,
}

impl Recipe {
    /// Reads `<folder>/<name>.toml` and what it extends.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Recipe> {
        let mut recipe = Recipe { folder: folder.to_owned(), ..Recipe::default() };
        recipe.merge(name, 0)?;
        recipe.check().with_context(|| format!("recipe {name}"))?;
        Ok(recipe)
    }

    fn merge(&mut self, name: &str, depth: usize) -> Result<()> {
        ensure!(depth < 4, "recipe {name}: more than four recipes extend each other");
        let path = self.folder.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let source: Source = toml::from_str(&text).with_context(|| path.display().to_string())?;
        if let Some(base) = &source.extends {
            self.merge(base, depth + 1)?;
        }
        self.sources.push(path);
        self.debian.packages.extend(source.debian.packages);
        self.debian.without.extend(source.debian.without);
        self.debian.remove.extend(source.debian.remove);
        self.debian.keep_programs.extend(source.debian.keep_programs);
        self.debian.busybox.extend(source.debian.busybox);
        self.debian.locale = source.debian.locale.or(self.debian.locale.take());
        self.python = source.python.or(self.python.take());
        self.node = source.node.or(self.node.take());
        self.directories.extend(source.directories);
        self.files.extend(source.files);
        self.links.extend(source.links);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let removed = self.debian.remove.iter();
        let made = self.directories.iter().map(|d| &d.path);
        let linked = self.links.iter().map(|l| &l.path);
        for path in removed.chain(made).chain(linked).chain(self.files.iter().map(|f| &f.path)) {
            let plain =
                Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            ensure!(plain && !path.is_empty(), "{path:?} is not a path below the image's root");
        }
        for file in &self.files {
            match (&file.text, &file.from) {
                (Some(_), None) | (None, Some(_)) => {}
                _ => bail!("file {:?} needs either `text` or `from`", file.path),
            }
        }
        let mut packages = self.debian.packages.clone();
        packages.sort();
        packages.dedup();
        ensure!(packages.len() == self.debian.packages.len(), "a Debian package is named twice");
        Ok(())
    }

    /// Every file of the recipes' folder that the image depends on, for its key.
    pub(crate) fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = self.sources.clone();
        inputs
            .extend(self.files.iter().filter_map(|f| f.from.as_ref()).map(|f| self.folder.join(f)));
        inputs.extend(self.python.iter().map(|p| self.folder.join(&p.requirements)));
        if let Some(node) = &self.node {
            inputs.push(self.folder.join(&node.requirements));
            inputs.push(self.folder.join(&node.lock).join("package.json"));
            inputs.push(self.folder.join(&node.lock).join("package-lock.json"));
        }
        inputs
    }
}
