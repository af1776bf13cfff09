//! What votive is built and tested with, from Debian's packages.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::progress::Progress;
use crate::subprocess;

/// Each package with what it is for.
const PACKAGES: &[(&str, &str)] = &[
    ("bc", "building the kernel"),
    ("binutils", "building the kernel"),
    ("bison", "building the kernel"),
    ("ca-certificates", "downloads"),
    ("e2fsprogs", "scratch disks of tests"),
    ("erofs-utils", "images of the lab"),
    ("flex", "building the kernel"),
    ("gcc", "building the kernel and static programs"),
    ("libc6-dev", "static programs"),
    ("libelf-dev", "building the kernel"),
    ("linux-source-6.12", "the kernel of guests"),
    ("make", "building the kernel"),
    ("qemu-system-x86", "the lab"),
    ("xz-utils", "unpacking sources and packages"),
];

/// Installs what is missing, saying what; asks for nothing.
pub(crate) fn run(progress: &Progress) -> Result<()> {
    let names: Vec<&str> = PACKAGES.iter().map(|(name, _)| *name).collect();
    let installed = debian::installed(&names)?;
    let missing: Vec<_> = PACKAGES.iter().zip(installed).filter(|(_, there)| !there).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for ((name, purpose), _) in &missing {
        progress.say(&format!("installing Debian package {name}: {purpose}"));
    }
    let names: Vec<&str> = missing.iter().map(|((name, _), _)| *name).collect();
    let step = progress.step(format!("installing {} Debian packages", names.len()));
    if !has_lists() {
        apt(&["update"])?;
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(names);
    if apt(&install).is_err() {
        // Lists that are too old name packages that are gone.
        apt(&["update"])?;
        apt(&install)?;
    }
    step.done("done");
    Ok(())
}

/// Runs apt-get as root: as we are, or through sudo if that asks for no password.
fn apt(arguments: &[&str]) -> Result<()> {
    let root = std::fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0;
    let mut command = if root {
        Command::new("apt-get")
    } else if subprocess::exists("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("packages are missing; run `apt-get {}` as root", arguments.join(" "));
    };
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    subprocess::output(&mut command)?;
    Ok(())
}

/// Whether apt has ever been told what packages there are.
fn has_lists() -> bool {
    let lists = std::fs::read_dir(Path::new("/var/lib/apt/lists")).into_iter().flatten().flatten();
    lists.into_iter().any(|file| file.file_name().to_string_lossy().contains("_Packages"))
}
