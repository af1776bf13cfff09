//! The tree of files that becomes an image: packages unpacked, pruned, completed and checked.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use walkdir::WalkDir;

use super::recipe::Recipe;
use crate::debian::Package;
use crate::subprocess;

/// Where Debian keeps libraries, below the root.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Folders of Debian's merged `/usr`.
pub(crate) const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// Unpacks package files into an empty tree for a runtime: with Debian's merged `/usr`, and all libraries in `/lib64`.
pub(super) fn unpack(debs: &[PathBuf], root: &Path) -> Result<()> {
    unpack_merged(debs, root)?;
    merge_lib64(root)
}

/// Unpacks package files into an empty tree with Debian's merged `/usr`.
pub(crate) fn unpack_merged(debs: &[PathBuf], root: &Path) -> Result<()> {
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for deb in debs {
        let mut archive = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(deb)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start dpkg-deb")?;
        let stdout = archive.stdout.take().context("dpkg-deb has no output")?;
        // Packages still carry /lib and /bin as folders: the links above must survive them.
        let tar = Command::new("tar")
            .args(["-x", "--keep-directory-symlink", "--no-same-owner", "-p", "-C"])
            .arg(root)
            .stdin(stdout)
            .status()
            .context("cannot start tar")?;
        ensure!(archive.wait()?.success() && tar.success(), "cannot unpack {}", deb.display());
    }
    Ok(())
}

/// Makes `/lib64` the folder where Debian keeps its libraries. Lambda's LD_LIBRARY_PATH begins with `/lib64`, so that
/// every look-up of a library succeeds at the first place instead of after a dozen that fail.
fn merge_lib64(root: &Path) -> Result<()> {
    let lib64 = root.join("usr/lib64");
    for entry in fs::read_dir(&lib64)? {
        let name = entry?.file_name();
        let real = root.join(LIBRARIES).join(&name);
        ensure!(real.exists(), "usr/lib64/{} is not in {LIBRARIES} too", name.display());
    }
    fs::remove_dir_all(&lib64)?;
    symlink("lib/x86_64-linux-gnu", &lib64)?;
    Ok(())
}

/// Joins the certificates that Debian trusts into the one file that programs read.
pub(super) fn certificates(root: &Path) -> Result<()> {
    let mut bundle = String::new();
    let folder = root.join("usr/share/ca-certificates");
    for item in WalkDir::new(&folder).sort_by_file_name() {
        let item = item?;
        if item.file_type().is_file() {
            let text = fs::read_to_string(item.path())
                .with_context(|| item.path().display().to_string())?;
            bundle.push_str(text.trim_end());
            bundle.push('\n');
        }
    }
    ensure!(!bundle.is_empty(), "no certificate in {}", folder.display());
    fs::remove_dir_all(&folder)?;
    let into = root.join("etc/ssl/certs");
    fs::create_dir_all(&into)?;
    fs::write(into.join("ca-certificates.crt"), bundle)?;
    Ok(())
}

/// Compiles the recipe's locale with the image's own localedef.
pub(super) fn compile_locale(recipe: &Recipe, root: &Path) -> Result<()> {
    let Some(locale) = &recipe.debian.locale else { return Ok(()) };
    let (language, charset) =
        locale.split_once('.').context("a locale is named LANGUAGE.CHARSET")?;
    let sources = root.join("usr/share/i18n");
    // Character maps are packed, and localedef would ask a gzip of the host.
    let map = sources.join("charmaps").join(charset);
    let packed = sources.join("charmaps").join(format!("{charset}.gz"));
    if packed.exists() {
        subprocess::output(Command::new("gzip").arg("-d").arg(&packed))?;
    }
    let folder = format!("{language}.{}", charset.to_lowercase().replace('-', ""));
    let into = root.join("usr/lib/locale").join(folder);
    // localedef answers 1 for warnings, which the sources of Debian have.
    let mut command = program(root, "usr/bin/localedef");
    command
        .args(["--force", "--no-archive", "--no-hard-links", "-i"])
        .arg(sources.join("locales").join(language))
        .arg("-f")
        .arg(&map)
        .arg(&into)
        .env("I18NPATH", &sources);
    let output = command.output().context("localedef")?;
    ensure!(
        into.join("LC_CTYPE").exists(),
        "localedef made no {locale}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Drops what the recipe removes, and every program that it does not keep.
pub(super) fn prune(recipe: &Recipe, root: &Path) -> Result<()> {
    for path in &recipe.debian.remove {
        match path.strip_suffix('*') {
            Some(start) => remove_all(root, start)?,
            None => remove(&root.join(path))?,
        }
    }
    let keep: BTreeSet<&str> = recipe.debian.keep_programs.iter().map(String::as_str).collect();
    for entry in fs::read_dir(root.join("usr/bin"))? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    // Static archives and object files serve the linker only.
    for item in WalkDir::new(root.join("usr/lib")) {
        let item = item?;
        let extension = item.path().extension().unwrap_or_default();
        if item.file_type().is_file() && (extension == "a" || extension == "o") {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

/// Removes every file whose path begins with `start`.
fn remove_all(root: &Path, start: &str) -> Result<()> {
    let (folder, prefix) = start.rsplit_once('/').context("a pattern needs a folder")?;
    for entry in fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a whole folder; it may be absent.
fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}

/// Adds the recipe's folders, files and links, and the small commands.
pub(super) fn complete(recipe: &Recipe, root: &Path) -> Result<()> {
    for directory in &recipe.directories {
        let path = root.join(&directory.path);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(directory.mode))?;
    }
    for file in &recipe.files {
        let path = root.join(&file.path);
        make_parent(&path)?;
        match (&file.text, &file.from) {
            (Some(text), _) => fs::write(&path, text.trim_start_matches('\n'))?,
            (None, Some(from)) => {
                let from = recipe.folder.join(from);
                fs::copy(&from, &path).with_context(|| from.display().to_string())?;
            }
            (None, None) => bail!("file {:?} has no content", file.path),
        }
        fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
    }
    for link in &recipe.links {
        let path = root.join(&link.path);
        make_parent(&path)?;
        remove(&path)?;
        symlink(&link.target, &path)?;
    }
    for name in &recipe.debian.busybox {
        let path = root.join("usr/bin").join(name);
        if fs::symlink_metadata(&path).is_err() {
            symlink("busybox", &path)?;
        }
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("a path below the root has a parent")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())
}

/// A command that runs a program of the image on this machine, with the image's own libraries and a bare environment.
pub(super) fn program(root: &Path, path: &str) -> Command {
    let mut command = loader(root);
    command.arg(root.join(path));
    command
}

fn loader(root: &Path) -> Command {
    let libraries = root.join(LIBRARIES);
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).env_clear().env("LC_ALL", "C");
    command
}

/// Asks the image's loader whether every program and library finds what it is linked to.
pub(super) fn check_linkage(root: &Path) -> Result<()> {
    let mut problems = String::new();
    for item in WalkDir::new(root).sort_by_file_name() {
        let item = item?;
        if !item.file_type().is_file() || !is_dynamic_elf(item.path())? {
            continue;
        }
        let output = loader(root).arg("--list").arg(item.path()).output().context("ld.so")?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter(|line| line.contains("not found")) {
            let path = item.path().strip_prefix(root)?;
            writeln!(problems, "{}: {}", path.display(), line.trim())?;
        }
    }
    ensure!(problems.is_empty(), "the image lacks libraries:\n{problems}");
    Ok(())
}

/// Whether the file is an ELF program or library that the loader can list.
fn is_dynamic_elf(path: &Path) -> Result<bool> {
    let mut head = [0; 20];
    let read = fs::File::open(path)?.take(20).read(&mut head)?;
    // ELFCLASS64 at 4; e_type at 16: 2 is an executable, 3 is shared.
    let elf = read == 20 && head.starts_with(b"\x7fELF\x02") && matches!(head[16], 2 | 3);
    Ok(elf && !path.ends_with("busybox"))
}

/// Records what the image was made from in `etc/votive-release`.
pub(super) fn release(name: &str, packages: &[Package], root: &Path) -> Result<()> {
    let mut text = format!("runtime {name}\n");
    for package in packages {
        writeln!(text, "debian {} {}", package.name, package.version)?;
    }
    for wheel in WalkDir::new(root).sort_by_file_name() {
        let wheel = wheel?;
        let name = wheel.file_name().to_string_lossy();
        if let Some((package, version)) =
            name.strip_suffix(".dist-info").and_then(|stem| stem.rsplit_once('-'))
        {
            writeln!(text, "pypi {package} {version}")?;
        }
    }
    fs::write(root.join("etc/votive-release"), text)?;
    Ok(())
}

/// Gives every file a mode that depends on nothing but its kind: readable by all, written by none but root.
pub(super) fn normalise(root: &Path) -> Result<()> {
    let keep = root.join("tmp");
    for item in WalkDir::new(root) {
        let item = item?;
        if item.path_is_symlink() || item.path() == keep {
            continue;
        }
        let mode = item.metadata()?.permissions().mode();
        let executable = item.file_type().is_dir() || mode & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(item.path(), Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The installed versions of packages of this machine, one a line.
pub(super) fn versions_installed(packages: &[&str]) -> Result<String> {
    subprocess::output(
        Command::new("dpkg-query")
            .args(["--show", "--showformat", "${Package} ${Version}\\n"])
            .args(packages),
    )
    .with_context(|| format!("these Debian packages are needed: {}", packages.join(" ")))
}
