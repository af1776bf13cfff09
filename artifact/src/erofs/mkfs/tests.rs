//! Equal files give equal images.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use super::*;

/// Lays files out in the given order, `age` seconds old, and packs them.
fn packed(parent: &Path, names: &[&str], age: u64) -> Vec<u8> {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
    let time = SystemTime::now() - Duration::from_secs(age);
    for name in names {
        let path = root.join(name);
        let above = path.parent().unwrap();
        fs::create_dir_all(above).unwrap();
        fs::set_permissions(above, Permissions::from_mode(0o755)).unwrap();
        fs::write(&path, name.repeat(1000)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let image = folder.path().join("image");
    pack(&root, &image).unwrap();
    fs::read(image).unwrap()
}

#[test]
fn order_and_times_and_place_leave_no_trace() {
    let mut names: Vec<String> = (0..200).map(|i| format!("{}/{}", i % 7, i * 37 % 200)).collect();
    let forward: Vec<&str> = names.iter().map(String::as_str).collect();
    let here = std::env::temp_dir();
    let one = packed(&here, &forward, 0);
    names.reverse();
    let backward: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(one == packed(&here, &backward, 86_400), "the images differ");
    // A tmpfs lists files in the order of their making, most file systems on disks by a hash of their names.
    let memory = Path::new("/dev/shm");
    assert!(memory.is_dir(), "every Linux has a tmpfs at /dev/shm");
    assert!(one == packed(memory, &backward, 3600), "the image made in memory differs");
}
