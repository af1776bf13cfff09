//! What `umoci unpack` makes of an image, compared with what ours holds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::erofs::reader::{Found, Reader};

/// Runs `umoci unpack`; its last words if it refuses.
pub(super) fn unpack(layout: &Path, tag: &str, bundle: &Path) -> Result<(), String> {
    let mut command = Command::new("umoci");
    command.arg("unpack");
    if !is_root() {
        command.arg("--rootless");
    }
    command.args(["--image", &format!("{}:{tag}", layout.display())]).arg(bundle);
    let output = command.output().expect("umoci is in PATH");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said.trim().to_owned()) }
}

/// Only root can give files to others.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Compares all names, and what `stat`, `readlink`, `read` and `getxattr` say of each. The times of folders that no layer
/// lists are when they were unpacked: `folder_times` says whether there are none of those.
pub(super) fn compare(image: &File, root: &Path, folder_times: bool) {
    let reader = Reader::open(image);
    let mut all = reader.all();
    let mut expected = BTreeMap::new();
    walk(root, "", &mut expected);
    all.retain(|name, _| expected.contains_key(name) || !is_mount_point(name));
    let names: Vec<&String> = all.keys().collect();
    assert_eq!(names, expected.keys().collect::<Vec<_>>(), "other names");
    let mut inodes: BTreeMap<u64, u64> = BTreeMap::new();
    for (name, metadata) in &expected {
        let found = &all[name];
        let path = root.join(name.trim_start_matches('/'));
        assert_eq!(u32::from(found.mode), metadata.mode(), "{name}");
        if is_root() {
            assert_eq!((found.user, found.group), (metadata.uid(), metadata.gid()), "{name}");
        }
        if folder_times || !metadata.is_dir() {
            let time = (found.seconds, i64::from(found.nanoseconds));
            assert_eq!(time, (metadata.mtime(), metadata.mtime_nsec()), "{name}");
        }
        assert_eq!(found.xattrs, xattrs(&path), "{name}");
        if metadata.is_dir() {
            continue;
        }
        assert_eq!(u64::from(found.links), metadata.nlink(), "{name}");
        let other = *inodes.entry(metadata.ino()).or_insert(found.nid);
        assert_eq!(other, found.nid, "{name} is another file");
        assert!(content(&reader, found) == read(&path, metadata), "{name} differs");
    }
}

/// Whether it is what images get whether they have it or not.
pub(super) fn is_mount_point(name: &str) -> bool {
    ["/dev", "/proc", "/tmp"].contains(&name)
}

fn content(reader: &Reader, found: &Found) -> Vec<u8> {
    reader.content(found)
}

fn read(path: &Path, metadata: &fs::Metadata) -> Vec<u8> {
    if metadata.is_symlink() {
        fs::read_link(path).unwrap().into_os_string().into_encoded_bytes()
    } else {
        fs::read(path).unwrap()
    }
}

fn walk(folder: &Path, name: &str, into: &mut BTreeMap<String, fs::Metadata>) {
    let metadata = folder.symlink_metadata().unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let inner = format!("{name}/{}", entry.file_name().to_str().unwrap());
            walk(&entry.path(), &inner, into);
        }
    }
    into.insert(if name.is_empty() { "/".to_owned() } else { name.to_owned() }, metadata);
}

/// The extended attributes that images keep.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| str::from_utf8(name).unwrap())
        .filter(|name| name.starts_with("user.") || *name == "security.capability")
        .filter(|name| *name != "user.rootlesscontainers")
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect()
}
