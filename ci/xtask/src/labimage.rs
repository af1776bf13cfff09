//! `cargo xtask image lab`: the lab's L1, from Debian packages: kernel, modules, a small userland, and our PID 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use votive_lab::Images;

use crate::binaries;
use crate::cache::{Cache, Key};
use crate::cpio::Archive;
use crate::debian;
use crate::progress::Progress;
use crate::subprocess;

mod modules;

/// The kernel; its name carries a version, which the plain package depends on.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What commands in L1 find there.
const USERLAND: &[&str] = &[
    "bash",
    "busybox-static",
    "coreutils",
    "dash",
    "e2fsprogs",
    "erofs-utils",
    "iproute2",
    "mount",
    "nftables",
    "procps",
    "strace",
    "util-linux",
];

/// The peer of benchmarks, in an image of its own that only they need.
const PEERS: &[&str] = &["qemu-system-x86"];

/// The modules that L1 loads, beside those they depend on.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    // The way into the guests of a peer.
    "vhost_vsock",
    // What file systems and nftables ask for by way of the crypto interface.
    "crc32c_generic",
    "erofs",
    "ext4",
    "overlay",
    "loop",
    "tun",
    "veth",
    "bridge",
    "kvm",
    "kvm-amd",
    "nf_tables",
    "nft_chain_nat",
    "nft_connlimit",
    "nft_ct",
    "nft_masq",
    "nft_reject_inet",
];

/// Builds the lab unless the cache has it.
pub(crate) fn build(cache: &Cache, progress: &Progress) -> Result<Images> {
    let kernel = kernel(cache, progress)?;
    let initrd = initrd(cache, progress, &kernel)?;
    let userland = userland(cache, progress, "userland", USERLAND)?;
    let images = Images { kernel: kernel.join("vmlinuz"), initrd, layers: vec![userland] };
    cache.link("lab/vmlinuz", &images.kernel)?;
    cache.link("lab/initrd.cpio", &images.initrd)?;
    cache.link("lab/userland.erofs", &images.layers[0])?;
    Ok(images)
}

/// The image to put before the userland where a peer is measured.
pub(crate) fn peers(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    userland(cache, progress, "peers", PEERS)
}

/// An entry with `vmlinuz` and, under `modules/`, every module of Debian's kernel that L1 loads, and their order.
fn kernel(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    let mut packages = debian::resolve(&[KERNEL])?;
    packages.retain(|package| package.name.starts_with("linux-image-"));
    let key = Key::new("lab-kernel", 1)
        .text("packages", &debian::listing(&packages))
        .text("modules", &MODULES.join(" "));
    cache.entry(key, |into| {
        let debs = debian::download(cache, progress, &packages)?;
        let step = progress.step("unpacking the lab's kernel");
        let scratch = cache.scratch()?;
        debian::unpack(&debs, scratch.path())?;
        let boot = scratch.path().join("boot");
        let image = find(&boot, |name| name.starts_with("vmlinuz-"))?;
        fs::copy(&image, into.join("vmlinuz"))?;
        modules::select(&scratch.path().join("lib/modules"), MODULES, &into.join("modules"))?;
        step.done("done");
        Ok(())
    })
}

/// The initramfs: our PID 1 and the modules.
fn initrd(cache: &Cache, progress: &Progress, kernel: &Path) -> Result<PathBuf> {
    let init = binaries::compile(progress, binaries::LAB_INIT)?;
    let modules = kernel.join("modules");
    let key = Key::new("lab-initrd", 1).file("init", &init)?.tree("modules", &modules)?;
    let entry = cache.entry(key, |into| {
        let mut archive = Archive::new().folder("dev").folder("proc").folder("sys");
        // The kernel opens the console for PID 1 before anything is mounted, if there is one.
        archive = archive.folder("modules").program("init", &fs::read(&init)?);
        for item in walkdir::WalkDir::new(&modules).min_depth(1).sort_by_file_name() {
            let item = item?;
            let name = format!("modules/{}", item.file_name().to_string_lossy());
            archive = archive.file(&name, &fs::read(item.path())?);
        }
        Ok(fs::write(into.join("initrd.cpio"), archive.finish())?)
    })?;
    Ok(entry.join("initrd.cpio"))
}

/// An EROFS image of packages and all they depend on.
fn userland(cache: &Cache, progress: &Progress, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let packages = debian::resolve(packages)?;
    let key = Key::new(&format!("lab-{name}"), 3).text("packages", &debian::listing(&packages));
    let entry = cache.entry(key, |into| {
        let debs = debian::download(cache, progress, &packages)?;
        let step = progress.step(format!("making the lab's {name}"));
        let scratch = cache.scratch()?;
        let root = scratch.path().join("root");
        fs::create_dir(&root)?;
        debian::unpack(&debs, &root)?;
        merge_usr(&root)?;
        finish_by_hand(&root)?;
        for unused in ["usr/share/doc", "usr/share/man", "usr/share/locale", "boot"] {
            let path = root.join(unused);
            if path.exists() {
                fs::remove_dir_all(path)?;
            }
        }
        let image = into.join("image.erofs");
        let mut mkfs = Command::new("mkfs.erofs");
        mkfs.args(["--all-root", "-T0", "--quiet"]).arg(&image).arg(&root);
        subprocess::output(&mut mkfs)?;
        step.done(&format!("{} MB", fs::metadata(&image)?.len() / 1_000_000));
        Ok(())
    })?;
    Ok(entry.join("image.erofs"))
}

/// Puts `/bin`, `/lib` and their like under `/usr`, with links in their place, as Debian's installer does.
fn merge_usr(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let (from, to) = (root.join(name), root.join("usr").join(name));
        fs::create_dir_all(&to)?;
        if from.is_dir() {
            let mut copy = Command::new("cp");
            copy.arg("--archive").arg(from.join(".")).arg(&to);
            subprocess::output(&mut copy)?;
            fs::remove_dir_all(&from)?;
        }
        std::os::unix::fs::symlink(format!("usr/{name}"), &from)?;
    }
    Ok(())
}

/// What Debian's maintainer scripts would have done, as far as anything here needs it.
fn finish_by_hand(root: &Path) -> Result<()> {
    if root.join("usr/bin/dash").exists() && !root.join("usr/bin/sh").exists() {
        std::os::unix::fs::symlink("dash", root.join("usr/bin/sh"))?;
    }
    // Names that alternatives would provide, and whatever else busybox can do.
    let busybox = root.join("usr/bin/busybox");
    if busybox.exists() {
        for applet in subprocess::output(Command::new(&busybox).arg("--list"))?.lines() {
            let (bin, sbin) =
                (root.join("usr/bin").join(applet), root.join("usr/sbin").join(applet));
            if !bin.exists() && !sbin.exists() && bin.symlink_metadata().is_err() {
                std::os::unix::fs::symlink("busybox", &bin)?;
            }
        }
    }
    fs::create_dir_all(root.join("etc"))?;
    for (name, text) in [
        ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost lab\n::1 localhost\n"),
    ] {
        fs::write(root.join("etc").join(name), text)?;
    }
    Ok(())
}

fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder)? {
        let item = item?;
        if wanted(&item.file_name().to_string_lossy()) {
            found.push(item.path());
        }
    }
    ensure!(found.len() == 1, "{} files match in {}", found.len(), folder.display());
    found.pop().context("nothing found")
}
