//! Images that are damaged or missing: the reason of the VMM, or of the guest, reaches the operator.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Case;
use crate::harness::{Function, Home, Vmm, images};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_kernel_that_is_no_elf", no_elf),
    ("a_kernel_that_is_cut_short", cut_short),
    ("a_kernel_with_segments_outside_memory", segments_outside),
    ("an_initramfs_that_is_none", no_initramfs),
    ("a_runtime_image_that_is_missing", missing_runtime),
    ("a_disk_that_is_too_small", small_disk),
    ("a_zip_that_is_none", no_zip),
    ("a_vmm_that_is_missing", missing_vmm),
    ("a_microvm_without_pid_1_ends_with_code_3", no_pid_1),
];

/// Runs the probe with damaged images; the exit code must be 1, and each of `words` in the reason.
fn check(home: &Home, words: &[&str]) -> Result<()> {
    let ran = Function::probe("echo").images(home.path()).invoke(&json!({}))?;
    ensure!(ran.code == 1, "{ran:?}");
    for word in words {
        ensure!(ran.log.contains(word), "no {word:?} in {}", ran.log);
    }
    Ok(())
}

fn no_elf() -> Result<()> {
    let home = Home::new()?;
    home.replace("vmlinux", &[b'#'; 8192])?;
    check(&home, &["votive: the microVM could not be set up: ", "kernel"])
}

fn cut_short() -> Result<()> {
    let home = Home::new()?;
    let kernel = std::fs::read(images()?.join("vmlinux"))?;
    home.replace("vmlinux", kernel.get(..kernel.len() / 3).context("an empty kernel")?)?;
    check(&home, &["votive: the microVM could not be set up: ", "kernel"])
}

fn segments_outside() -> Result<()> {
    let home = Home::new()?;
    let mut kernel = std::fs::read(images()?.join("vmlinux"))?;
    let table = usize::try_from(u64::from_le_bytes(kernel[32..40].try_into()?))?;
    // The physical address of the first program header (ELF-64, p_paddr), far above any memory.
    kernel[table + 24..table + 32].copy_from_slice(&0x7f_0000_0000_u64.to_le_bytes());
    home.replace("vmlinux", &kernel)?;
    check(&home, &["votive: the microVM could not be set up: ", "kernel"])
}

fn no_initramfs() -> Result<()> {
    let home = Home::new()?;
    home.replace("init.cpio", &[0x55; 4096])?;
    // The harness tells why: no test that ends like this leaves one to guess.
    check(&home, &["votive: the guest was reset", "Kernel panic - not syncing: VFS"])
}

fn missing_runtime() -> Result<()> {
    let home = Home::new()?;
    home.remove("provided.erofs")?;
    check(&home, &["the runtime image", "provided.erofs", "No such file"])
}

fn small_disk() -> Result<()> {
    let home = Home::new()?;
    home.replace("provided.erofs", &[0; 512])?;
    check(&home, &["votive: PID 1 failed: a file system could not be mounted"])?;
    home.replace("provided.erofs", &[])?;
    check(&home, &["votive: "])
}

fn no_zip() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let zip = folder.path().join("code.zip");
    std::fs::write(&zip, b"this is no ZIP")?;
    let ran = Function::of_zip("provided", "echo", &zip).invoke(&json!({}))?;
    ensure!(ran.code == 1 && ran.log.contains("cannot be made an image"), "{ran:?}");
    let ran =
        Function::of_zip("provided", "echo", &folder.path().join("none")).invoke(&json!({}))?;
    ensure!(ran.code == 1 && ran.log.contains("No such file"), "{ran:?}");
    Ok(())
}

fn missing_vmm() -> Result<()> {
    let vmm = ["--vmm", "/nowhere/votive-vmm"];
    let ran = Function::probe("echo").arguments(vmm).invoke(&json!({}))?;
    ensure!(ran.code == 1 && ran.log.contains("/nowhere/votive-vmm"), "{ran:?}");
    Ok(())
}

fn no_pid_1() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("empty.cpio");
    std::fs::write(&empty, [0; 512])?;
    let ended = Vmm::spec()?.option("--initrd", &empty.to_string_lossy()).boot()?;
    ensure!(ended.status.code() == Some(3), "{ended:?}");
    ensure!(ended.stderr.starts_with("votive-vmm: "), "{}", ended.stderr);
    Ok(())
}
