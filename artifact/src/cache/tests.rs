//! The cache's bound, its policy, and that it believes nothing it finds.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CACHE_BYTES_MIN, Cache, CacheError};
use crate::chunk::CHUNK_BYTES;
use crate::digest::Digest;
use crate::seal::TAG_BYTES;

fn chunk(number: u32) -> (Digest, Vec<u8>) {
    let mut bytes = vec![0; CHUNK_BYTES];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    (Digest::of(&bytes), bytes)
}

fn insert(cache: &Cache, number: u32) -> Digest {
    let (name, bytes) = chunk(number);
    cache.insert(name, &bytes).unwrap();
    name
}

/// All files below a folder that are not the lock, with their sizes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    found
}

fn bytes_on_disk(folder: &Path) -> u64 {
    files(folder).iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn what_is_kept_is_read_and_what_is_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    let (name, bytes) = chunk(1);
    let mut read = vec![];
    assert!(!cache.read(&name, &mut read));
    cache.insert(name, &bytes).unwrap();
    assert!(cache.read(&name, &mut read) && read == bytes);
    let tagged = [bytes, vec![7; TAG_BYTES]].concat();
    cache.insert(Digest::of(&tagged), &tagged).unwrap();
    assert!(cache.read(&Digest::of(&tagged), &mut read) && read == tagged);
    assert!(cache.read(&name, &mut read) && read.len() == CHUNK_BYTES);
    assert!(cache.insert(name, b"of no chunk's size").is_err());
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.damaged, stats.evicted), (3, 1, 0, 0));
}

#[test]
fn the_bound_holds_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    for number in 0..100 {
        insert(&cache, number);
        assert!(bytes_on_disk(folder.path()) <= CACHE_BYTES_MIN, "after {number}");
    }
    assert_eq!(bytes_on_disk(folder.path()), cache.bytes());
    assert!(cache.bytes() >= CACHE_BYTES_MIN * 3 / 4, "{}", cache.bytes());
    let kept = files(folder.path()).len() as u64;
    assert_eq!(cache.stats().evicted, 100 - kept);
}

#[test]
fn a_scan_does_not_push_out_what_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 2 * CACHE_BYTES_MIN).unwrap();
    let mut bytes = vec![];
    // Half of the cache, used by many.
    let hot: Vec<Digest> = (0..32).map(|number| insert(&cache, number)).collect();
    for _ in 0..3 {
        hot.iter().for_each(|name| assert!(cache.read(name, &mut bytes)));
    }
    // Ten times the cache, each chunk once; the hot ones are used now and then.
    for number in 0..640 {
        let (name, _) = chunk(1000 + number);
        assert!(!cache.read(&name, &mut bytes));
        insert(&cache, 1000 + number);
        if number % 20 == 0 {
            let name = &hot[(number / 20) as usize];
            cache.read(name, &mut bytes);
        }
    }
    let left = hot.iter().filter(|name| cache.contains(name)).count();
    assert!(left >= 29, "{left} of 32 chunks survived the scan");
}

#[test]
fn a_restart_takes_what_makes_sense_and_removes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    let (kept, torn, altered) = (insert(&cache, 1), insert(&cache, 2), insert(&cache, 3));
    let in_use = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap_err();
    assert!(matches!(in_use, CacheError::InUse { .. }), "{in_use}");
    let path = |name: &Digest| cache.path(name);
    fs::write(path(&torn), [1; 1000]).unwrap();
    fs::write(path(&altered), vec![1; CHUNK_BYTES]).unwrap();
    let misplaced = folder.path().join("zz").join(kept.to_string());
    fs::create_dir(folder.path().join("zz")).unwrap();
    fs::write(&misplaced, vec![1; CHUNK_BYTES]).unwrap();
    let below = path(&kept).parent().unwrap().to_owned();
    fs::write(below.join(".new-abc"), vec![1; CHUNK_BYTES]).unwrap();
    fs::create_dir_all(below.join("folder/deeper")).unwrap();
    fs::write(folder.path().join("stray"), b"?").unwrap();
    drop(cache);
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    let mut left: Vec<_> = files(folder.path()).into_iter().map(|(path, _)| path).collect();
    let mut expected = vec![cache.path(&kept), cache.path(&altered)];
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    let mut bytes = vec![];
    assert!(cache.read(&kept, &mut bytes) && Digest::of(&bytes) == kept);
    // Only its reader notices, and then it is gone.
    assert!(cache.read(&altered, &mut bytes) && Digest::of(&bytes) != altered);
    cache.discard(&altered);
    assert!(!cache.read(&altered, &mut bytes));
    assert_eq!((cache.stats().damaged, files(folder.path()).len()), (1, 1));
}

#[test]
fn a_smaller_cache_after_a_restart_keeps_less() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), 2 * CACHE_BYTES_MIN).unwrap();
    (0..60).for_each(|number| _ = insert(&cache, number));
    drop(cache);
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    assert!(bytes_on_disk(folder.path()) <= CACHE_BYTES_MIN);
    assert_eq!(bytes_on_disk(folder.path()), cache.bytes());
    assert!(matches!(Cache::open(folder.path(), CACHE_BYTES_MIN - 1), Err(CacheError::Size)));
}

#[test]
fn files_that_vanish_or_grow_are_misses() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path(), CACHE_BYTES_MIN).unwrap();
    let (gone, longer) = (insert(&cache, 1), insert(&cache, 2));
    fs::remove_file(cache.path(&gone)).unwrap();
    fs::write(cache.path(&longer), vec![1; CHUNK_BYTES + 1]).unwrap();
    let mut bytes = vec![];
    for name in [gone, longer] {
        assert!(!cache.read(&name, &mut bytes) && !cache.contains(&name));
    }
    assert_eq!((cache.bytes(), bytes_on_disk(folder.path())), (0, 0));
}
