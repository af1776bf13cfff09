//! The scratch disk against e2fsprogs, and what it costs.

use std::os::unix::fs::MetadataExt;

use super::*;

const BYTES: u64 = 512 * 1024 * 1024;

#[test]
fn a_scratch_disk_is_sparse_and_has_no_name() {
    let file = create(BYTES).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), BYTES);
    assert_eq!(metadata.nlink(), 0);
    assert!(metadata.blocks() * 512 < 1024 * 1024, "{} KiB", metadata.blocks() / 2);
}

#[test]
fn e2fsck_finds_nothing_wrong() {
    use std::os::fd::AsRawFd;

    let file = create(BYTES).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let folders = std::env::var("PATH").unwrap_or_default() + ":/sbin:/usr/sbin";
    let mut check = std::process::Command::new("e2fsck");
    let output = check.args(["-f", "-n", &path]).env("PATH", folders).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("11/32768 files"), "{said}");
}
