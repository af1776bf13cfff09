//! Tests of gathering a job's files.

use std::fs;
use std::path::Path;

use super::{below, put};
use crate::error::Error;

#[test]
fn only_absolute_paths_without_steps_back_have_a_place() {
    let tree = Path::new("/tree");
    assert_eq!(below(tree, Path::new("/bin/votive")).unwrap(), Path::new("/tree/bin/votive"));
    for path in ["bin/votive", "/../etc", "/a/../../b", "/", ""] {
        assert!(matches!(below(tree, Path::new(path)), Err(Error::Path(_))), "{path}");
    }
}

#[test]
fn links_are_followed_and_folders_are_taken_whole() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    fs::create_dir_all(from.join("deep")).unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    std::os::unix::fs::symlink(folder.path().join("file"), from.join("deep/link")).unwrap();
    let to = folder.path().join("to/here");
    put(&from, &to).unwrap();
    let taken = to.join("deep/link");
    assert!(fs::symlink_metadata(&taken).unwrap().is_file());
    assert_eq!(fs::read_to_string(taken).unwrap(), "text");
    assert!(put(&folder.path().join("missing"), &to).is_err());
}
