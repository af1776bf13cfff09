//! Node.js and npm packages in an image.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::{Node, Recipe};
use super::{python, tree};
use crate::cache::{Cache, Key};
use crate::progress::Progress;
use crate::subprocess;

/// Changes when the way packages are compiled changes.
const REVISION: u32 = 2;

/// Puts Node.js at `usr/bin/node` and the kept files of npm packages into `node_modules`.
pub(super) fn install(
    node: &Node,
    recipe: &Recipe,
    cache: &Cache,
    progress: &Progress,
    root: &Path,
) -> Result<()> {
    let wheels = python::download(cache, &recipe.folder.join(&node.requirements), "cp311")?;
    let packages = compile(node, recipe, cache, progress, &wheels)?;
    let into = root.join(&node.into).join("node_modules");
    for (package, files) in &node.keep {
        for file in files {
            let from = packages.join("node_modules").join(package).join(file);
            let to = into.join(package).join(file);
            fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    fs::copy(packages.join("node"), root.join("usr/bin/node"))?;
    Ok(())
}

/// Installs the locked npm packages with the npm that comes with Node.js; a cache entry of its own, as it takes minutes.
fn compile(
    node: &Node,
    recipe: &Recipe,
    cache: &Cache,
    progress: &Progress,
    wheels: &[PathBuf],
) -> Result<PathBuf> {
    let lock = recipe.folder.join(&node.lock);
    let tools: Vec<&str> = node.tools.iter().map(String::as_str).collect();
    let key = Key::new("npm", REVISION)
        .file("node", &recipe.folder.join(&node.requirements))?
        .file("package", &lock.join("package.json"))?
        .file("lock", &lock.join("package-lock.json"))?
        .text("tools", &tree::versions_installed(&tools)?);
    cache.entry(key, |into| {
        let step = progress.step("compiling the npm packages of a runtime image");
        let scratch = cache.scratch()?;
        let unpacked = scratch.path().join("node");
        for wheel in wheels {
            python::unpack(wheel, &unpacked)?;
        }
        let home = unpacked.join(&node.prefix);
        let build = scratch.path().join("build");
        fs::create_dir(&build)?;
        for file in ["package.json", "package-lock.json"] {
            fs::copy(lock.join(file), build.join(file))?;
        }
        npm_ci(&home, scratch.path(), &build, &scratch.path().join("npm.log"))?;
        for package in node.keep.keys() {
            strip_addons(&build.join("node_modules").join(package))?;
        }
        fs::rename(build.join("node_modules"), into.join("node_modules"))?;
        let program = into.join("node");
        fs::copy(home.join("bin/node"), &program)?;
        strip(&program)?;
        step.done("done");
        Ok(())
    })
}

/// Runs `npm ci` in `build`, whose lock file has a hash for every package.
fn npm_ci(home: &Path, scratch: &Path, build: &Path, log: &Path) -> Result<()> {
    let programs = scratch.join("programs");
    fs::create_dir(&programs)?;
    let node = home.join("bin/node");
    fs::set_permissions(&node, Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink(&node, programs.join("node"))?;
    // The wheel's own script lost the link that it was.
    let npm = home.join("lib/node_modules/npm/bin/npm-cli.js");
    ensure!(npm.exists(), "{} is missing", npm.display());
    let script = format!("#!/bin/sh\nexec node '{}' \"$@\"\n", npm.display());
    write_program(&programs.join("npm"), &script)?;
    // Neither the place of the build nor debug information nor the compiler's random names may leave a trace. Of the
    // packages' build scripts some pass CXXFLAGS on and some do not, but all of them ask for a compiler by its name.
    for compiler in ["cc", "c++", "gcc", "g++"] {
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/{compiler} \"$@\" -g0 -frandom-seed=votive '-ffile-prefix-map={}=/build'\n",
            build.display()
        );
        write_program(&programs.join(compiler), &script)?;
    }
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut command = Command::new(programs.join("npm"));
    command
        .args(["ci", "--foreground-scripts", "--no-audit", "--no-fund", "--no-update-notifier"])
        .current_dir(build)
        .env("PATH", path)
        .env("npm_config_nodedir", home)
        .env_remove("CC")
        .env_remove("CXX")
        .env_remove("CFLAGS")
        .env_remove("CXXFLAGS")
        .env("SOURCE_DATE_EPOCH", "0")
        .env("LC_ALL", "C");
    subprocess::logged(&mut command, log)
}

fn write_program(path: &Path, script: &str) -> Result<()> {
    fs::write(path, script)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(())
}

fn strip_addons(package: &Path) -> Result<()> {
    for item in walkdir::WalkDir::new(package).sort_by_file_name() {
        let item = item?;
        if item.path().extension().is_some_and(|extension| extension == "node") {
            strip(item.path())?;
        }
    }
    Ok(())
}

fn strip(path: &Path) -> Result<()> {
    subprocess::output(Command::new("strip").arg("--strip-unneeded").arg(path))?;
    Ok(())
}
