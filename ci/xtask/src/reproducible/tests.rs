//! Tests of comparing what was built twice.

use std::fs;

use super::{first_difference, share};
use crate::cache::Cache;

#[test]
fn the_first_byte_that_differs_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let differ = |one: &[u8], other: &[u8]| {
        let (left, right) = (folder.path().join("one"), folder.path().join("other"));
        fs::write(&left, one).unwrap();
        fs::write(&right, other).unwrap();
        first_difference(&left, &right).unwrap()
    };
    assert_eq!(differ(b"", b""), None);
    let long = vec![7; 3 << 20];
    assert_eq!(differ(&long, &long), None);
    assert_eq!(differ(&long, &long[..(1 << 20) + 5]), Some((1 << 20) + 5));
    assert_eq!(differ(b"abc", b"abd"), Some(2));
    assert_eq!(differ(b"abc", b"abcd"), Some(3));
    first_difference(folder.path(), &folder.path().join("missing")).unwrap_err();
}

#[test]
fn a_second_cache_finds_what_is_shared_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let first = Cache::open_at(&folder.path().join("first")).unwrap();
    for name in ["debs", "wheels-1", "runtime-1"] {
        fs::create_dir(first.root().join(name)).unwrap();
    }
    let second = folder.path().join("second");
    fs::create_dir(&second).unwrap();
    share(&first, &second, &["debs", "wheels-"]).unwrap();
    assert!(second.join("debs").is_dir() && second.join("wheels-1").is_dir());
    assert!(!second.join("runtime-1").exists());
}
