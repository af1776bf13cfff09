//! The scratch disk against e2fsprogs, and what it costs.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

const BYTES: u64 = 512 * 1024 * 1024;

#[test]
fn a_scratch_disk_is_empty_and_has_no_name() {
    let disk = create(BYTES).unwrap();
    let metadata = disk.file.metadata().unwrap();
    assert_eq!((metadata.len(), metadata.nlink(), metadata.blocks()), (BYTES, 0, 0));
    assert!(!disk.read_only && disk.lazy.is_none());
}

#[test]
fn templates_are_small_few_shared_and_written_by_nobody() {
    let [one, other] = [(); 2].map(|()| create(BYTES).unwrap().template.unwrap());
    let [metadata, same] = [&one, &other].map(|file| file.metadata().unwrap());
    assert_eq!((metadata.len(), metadata.ino()), (BYTES, same.ino()));
    assert!(metadata.blocks() * 512 < 1024 * 1024, "{} KiB", metadata.blocks() / 2);
    assert!(one.write_at(b"x", 0).is_err() && one.set_len(1).is_err());
    let path = format!("/proc/self/fd/{}", one.as_raw_fd());
    let anew = File::options().write(true).open(path);
    assert!(anew.and_then(|file| file.write_at(b"x", 0)).is_err());
    // So many are kept; another is made anew.
    for size in 0..TEMPLATES_MAX as u64 + 4 {
        create(BYTES + (size << 20)).unwrap();
    }
    assert!(TEMPLATES.lock().unwrap().len() <= TEMPLATES_MAX);
    assert_eq!(create(BYTES).unwrap().template.unwrap().metadata().unwrap().len(), BYTES);
}

#[test]
fn e2fsck_finds_nothing_wrong() {
    let file = create(BYTES).unwrap().template.unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let folders = std::env::var("PATH").unwrap_or_default() + ":/sbin:/usr/sbin";
    let mut check = std::process::Command::new("e2fsck");
    let output = check.args(["-f", "-n", &path]).env("PATH", folders).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("11/32768 files"), "{said}");
}
