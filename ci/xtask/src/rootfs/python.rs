//! Wheels from PyPI in an image, and modules compiled ahead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::{Python, Recipe};
use super::tree;
use crate::cache::{Cache, Key};
use crate::subprocess;

/// Unpacks the recipe's wheels and compiles the modules.
pub(super) fn install(python: &Python, recipe: &Recipe, cache: &Cache, root: &Path) -> Result<()> {
    let wheels = download(cache, &recipe.folder.join(&python.requirements), &python.abi)?;
    let into = root.join(&python.into);
    for wheel in &wheels {
        unpack(wheel, &into)?;
    }
    for path in &python.remove {
        let path = into.join(path);
        fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    compile(python, root)
}

/// Downloads wheels with pip, which checks each against the hash in the requirements file.
pub(crate) fn download(cache: &Cache, requirements: &Path, abi: &str) -> Result<Vec<PathBuf>> {
    let key = Key::new("wheels", 1).file("requirements", requirements)?.text("abi", abi);
    let entry = cache.entry(key, |into| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
        command.args(["--no-deps", "--require-hashes", "--only-binary=:all:"]);
        let digits = abi.trim_start_matches("cp");
        command.args(["--implementation", "cp", "--abi", abi, "--python-version", digits]);
        for platform in ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"] {
            command.args(["--platform", platform]);
        }
        command.arg("--dest").arg(into).arg("--requirement").arg(requirements);
        subprocess::output(&mut command).context("pip is Debian's package python3-pip")?;
        Ok(())
    })?;
    let mut wheels: Vec<PathBuf> =
        fs::read_dir(entry)?.map(|item| Ok(item?.path())).collect::<Result<_>>()?;
    wheels.sort();
    ensure!(!wheels.is_empty(), "{} names no wheel", requirements.display());
    Ok(wheels)
}

/// Unpacks a wheel. The wheels in use have no part that an installer would put elsewhere.
pub(crate) fn unpack(wheel: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    subprocess::output(Command::new("unzip").args(["-q", "-o"]).arg(wheel).arg("-d").arg(into))?;
    Ok(())
}

/// Compiles modules so that nothing depends on times and nothing is checked at start: the sources cannot change.
fn compile(python: &Python, root: &Path) -> Result<()> {
    let mut command = tree::program(root, &python.interpreter);
    command
        .args(["-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"])
        .arg("-s")
        .arg(root)
        .args(["-p", "/"])
        .args(python.compile.iter().map(|folder| root.join(folder)))
        .env("PYTHONHOME", root.join("usr"))
        .env("PYTHONHASHSEED", "0")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    subprocess::output(&mut command)?;
    Ok(())
}
