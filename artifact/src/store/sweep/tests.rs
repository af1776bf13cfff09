//! What is nobody's goes, and nothing else.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;

use super::*;
use crate::digest::Digest;
use crate::manifest::RootId;

fn file(folder: &Path, name: &str, age: Duration) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, [7; 100]).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
    path
}

#[tokio::test]
async fn old_unfinished_files_go_and_all_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let store = Store::open(folder.to_str().unwrap()).unwrap();
    let chunk = store.chunk_path(RootId([1; 16]), &Digest::of(b"chunk"));
    store.put_new(&chunk, Bytes::from_static(b"chunk")).await.unwrap();
    let (old, new) = (UNFINISHED_FOR_MIN * 2, UNFINISHED_FOR_MIN / 2);
    let go = [
        file(folder, &format!("{chunk}#1"), old),
        file(folder, &format!("{chunk}#22"), old),
        file(folder, "roots/r/artifacts/a#1", old),
        file(folder, "roots/r/root#3", old),
    ];
    let stay = [
        file(folder, &format!("{chunk}#3"), new),
        file(folder, "roots/r/artifacts/a", old),
        file(folder, "roots/r/artifacts/#1", old),
        file(folder, "roots/r/artifacts/a#", old),
        file(folder, "roots/r/artifacts/a#1b", old),
        file(folder, "mine#1", old),
        file(folder, "linked/f#1", old),
    ];
    std::os::unix::fs::symlink(folder.join("linked"), folder.join("roots/r/link")).unwrap();
    std::os::unix::fs::symlink(folder.join("mine#1"), folder.join("roots/r/link#1")).unwrap();
    let all = Collected { objects: 4, bytes: 400 };
    assert_eq!(store.sweep(UNFINISHED_FOR_MIN, true).await.unwrap(), all);
    assert!(go.iter().all(|path| path.exists()), "a dry run removes nothing");
    assert_eq!(store.sweep(UNFINISHED_FOR_MIN, false).await.unwrap(), all);
    assert!(go.iter().all(|path| !path.exists()));
    assert!(stay.iter().all(|path| path.exists()));
    assert!(store.exists(&chunk).await.unwrap());
    assert_eq!(store.sweep(UNFINISHED_FOR_MIN, false).await.unwrap(), Collected::default());
}

#[tokio::test]
async fn a_store_without_a_folder_or_without_roots_has_nothing_to_sweep() {
    let nothing = Collected::default();
    let memory = Store::new(Arc::new(InMemory::new()), ObjectPath::default());
    assert_eq!(memory.sweep(Duration::ZERO, false).await.unwrap(), nothing);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(store.sweep(Duration::ZERO, false).await.unwrap(), nothing);
}
