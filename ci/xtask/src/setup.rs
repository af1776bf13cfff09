//! What votive is built and tested with, from Debian's packages.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::progress::Progress;
use crate::subprocess;

/// One package that is needed.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The package's name.
    pub(crate) package: &'static str,
    /// The programs that votive starts and this package has; none where others start them or it is files alone.
    pub(crate) programs: &'static [&'static str],
    /// What it is for.
    purpose: &'static str,
}

const fn tool(
    package: &'static str,
    programs: &'static [&'static str],
    purpose: &'static str,
) -> Tool {
    Tool { package, programs, purpose }
}

/// Everything that a Debian of nothing but its essential packages lacks.
pub(crate) const TOOLS: &[Tool] = &[
    tool("autoconf", &[], "the nodejs24 image"),
    tool("automake", &[], "the nodejs24 image"),
    tool("bc", &[], "building the kernel"),
    tool("binutils", &["strip"], "building the kernel and images"),
    tool("bison", &[], "building the kernel"),
    tool("buildah", &["buildah"], "tests of container images"),
    tool("busybox-static", &["/bin/busybox"], "tests in microVMs"),
    tool("ca-certificates", &[], "downloads"),
    tool("cmake", &[], "the nodejs24 image"),
    tool("docker-registry", &["docker-registry"], "tests of container images"),
    tool("e2fsprogs", &["e2fsck"], "tests of scratch disks"),
    tool(
        "erofs-utils",
        &["mkfs.erofs", "fsck.erofs", "dump.erofs"],
        "runtime images, tests of images",
    ),
    tool("flex", &[], "building the kernel"),
    tool("g++", &[], "the nodejs24 image and fuzzing"),
    tool("gcc", &["gcc"], "building the kernel and static programs"),
    tool("git", &["git"], "the list of files that `tidy` reads"),
    tool("iproute2", &["ip"], "tests of networks"),
    tool("libc6-dev", &[], "static programs"),
    tool("libelf-dev", &[], "building the kernel"),
    tool("libtool", &[], "the nodejs24 image"),
    tool("linux-source-6.12", &[], "the kernel of guests"),
    tool("make", &["make"], "building the kernel and the nodejs24 image"),
    tool("nftables", &["nft"], "networks of functions"),
    tool("openssl", &["openssl"], "tests of TLS"),
    tool("procps", &["kill"], "tests"),
    tool("python3", &["python3", "python3.11"], "downloading what runtime images hold"),
    tool("python3-pip", &[], "downloading what runtime images hold"),
    tool("qemu-system-x86", &["qemu-system-x86_64"], "the lab"),
    tool("skopeo", &["skopeo"], "container images from registries"),
    tool("umoci", &["umoci"], "tests of container images"),
    tool("unzip", &["unzip"], "unpacking wheels"),
    tool("xz-utils", &[], "unpacking sources and packages"),
    tool("zstd", &["zstd"], "tests of container images"),
];

/// The package of [`TOOLS`] that a program is in.
pub(crate) fn package_of(program: &str) -> Option<&'static str> {
    TOOLS.iter().find(|tool| tool.programs.contains(&program)).map(|tool| tool.package)
}

/// Installs what is missing, saying what; asks for nothing.
pub(crate) fn run(progress: &Progress) -> Result<()> {
    let names: Vec<&str> = TOOLS.iter().map(|tool| tool.package).collect();
    let installed = debian::installed(&names)?;
    let missing: Vec<_> = TOOLS.iter().zip(installed).filter(|(_, there)| !there).collect();
    if missing.is_empty() {
        return require_lists(progress);
    }
    for (tool, _) in &missing {
        progress.say(&format!("installing Debian package {}: {}", tool.package, tool.purpose));
    }
    let names: Vec<&str> = missing.iter().map(|(tool, _)| tool.package).collect();
    require_lists(progress)?;
    let step = progress.step(format!("installing {} Debian packages", names.len()));
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

/// Fetches apt's lists where there are none: images are made of packages that apt resolves by them.
fn require_lists(progress: &Progress) -> Result<()> {
    if has_lists() {
        return Ok(());
    }
    let step = progress.step("fetching the lists of Debian's packages");
    apt(&["update"])?;
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

#[cfg(test)]
mod tests;
