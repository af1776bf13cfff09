//! The job's files as one EROFS image, which L1 sees on top of its root.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::job::{Job, Orders};

/// Builds the image in `folder` and returns its path.
pub(crate) fn build(job: &Job, folder: &Path) -> Result<PathBuf, Error> {
    let tree = folder.join("payload");
    fs::create_dir(&tree)?;
    let orders = below(&tree, Path::new(Orders::PATH))?;
    create_parent(&orders)?;
    fs::write(&orders, serde_json::to_vec(&job.orders()).map_err(io::Error::other)?)?;
    for (host, inside) in &job.files {
        let target = below(&tree, inside)?;
        put(host, &target).map_err(|source| Error::File { path: host.clone(), source })?;
    }
    let image = folder.join("payload.erofs");
    let made = Command::new("mkfs.erofs")
        .args(["--all-root", "-T0", "--quiet"])
        .arg(&image)
        .arg(&tree)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Program { program: "mkfs.erofs", source })?;
    if !made.status.success() {
        let text = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        return Err(Error::Payload(text));
    }
    // The links to the files are not needed while the job runs.
    fs::remove_dir_all(&tree)?;
    Ok(image)
}

/// The place in `tree` of an absolute path in L1.
fn below(tree: &Path, inside: &Path) -> Result<PathBuf, Error> {
    let mut place = tree.to_path_buf();
    let mut parts = inside.components();
    if parts.next() != Some(Component::RootDir) {
        return Err(Error::Path(inside.to_path_buf()));
    }
    for part in parts {
        match part {
            Component::Normal(name) => place.push(name),
            _ => return Err(Error::Path(inside.to_path_buf())),
        }
    }
    if place == tree { Err(Error::Path(inside.to_path_buf())) } else { Ok(place) }
}

/// Puts a file, or a folder with all that is in it, at `target`.
fn put(host: &Path, target: &Path) -> io::Result<()> {
    for item in walkdir::WalkDir::new(host).follow_links(true) {
        let item = item?;
        let rest = item.path().strip_prefix(host).map_err(io::Error::other)?;
        let place = if rest.as_os_str().is_empty() { target.into() } else { target.join(rest) };
        if item.file_type().is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            create_parent(&place)?;
            let file = item.path().canonicalize()?;
            // On another file system a link is impossible and the file is copied.
            if fs::hard_link(&file, &place).is_err() {
                fs::copy(&file, &place)?;
            }
        }
    }
    Ok(())
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(test)]
mod tests;
