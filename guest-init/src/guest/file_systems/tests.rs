//! Where a mount may go.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::io::Errno;

use super::{check_mount_point, is_plain_file};

#[test]
fn a_mount_point_is_a_folder_of_the_image() {
    let root = tempfile::tempdir().unwrap();
    // The folder for temporary files may itself be behind a link.
    let root = root.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("var/task")).unwrap();
    fs::write(root.join("file"), b"").unwrap();
    symlink("/proc", root.join("out")).unwrap();
    symlink("var", root.join("within")).unwrap();
    for (path, expect) in [
        ("var/task", Ok(())),
        ("missing", Err(Errno::NOENT)),
        ("file", Err(Errno::NOTDIR)),
        ("file/below", Err(Errno::NOTDIR)),
        ("out", Err(Errno::LOOP)),
        ("within", Err(Errno::LOOP)),
        ("within/task", Err(Errno::LOOP)),
    ] {
        let path = root.join(path);
        assert_eq!(check_mount_point(path.to_str().unwrap()), expect, "{}", path.display());
    }
}

#[test]
fn a_file_is_covered_only_where_no_link_leads() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/resolv.conf"), b"").unwrap();
    symlink("resolv.conf", root.join("etc/link")).unwrap();
    symlink("etc", root.join("folder")).unwrap();
    for (path, expect) in [
        ("etc/resolv.conf", true),
        ("etc/link", false),
        ("folder/resolv.conf", false),
        ("etc", false),
        ("missing", false),
        ("etc/resolv.conf/below", false),
    ] {
        let path = root.join(path);
        assert_eq!(is_plain_file(path.to_str().unwrap()), Ok(expect), "{}", path.display());
    }
}
