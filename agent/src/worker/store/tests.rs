//! Images are packed once, and only used as they were packed.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::*;

fn zip(folder: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = folder.join(name);
    let mut writer = zip::ZipWriter::new(File::create(&path).unwrap());
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default();
        writer.start_file(*name, options).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn an_image_is_packed_once_and_anew_when_it_was_touched() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let code = CodeSource::Zip(zip(folder.path(), "a.zip", &[("bootstrap", "x")]));
    let first = store.code(&code).unwrap();
    let made = std::fs::metadata(&first.image).unwrap();
    let again = store.code(&code).unwrap();
    assert_eq!(first, again);
    assert_eq!(std::fs::metadata(&again.image).unwrap().ino(), made.ino());
    let content = std::fs::read(&first.image).unwrap();
    let mut touched = content.clone();
    touched[2000] ^= 1;
    std::fs::write(&first.image, touched).unwrap();
    store.code(&code).unwrap();
    assert!(std::fs::read(&first.image).unwrap() == content);
    store.forget(&first.image);
    assert_eq!(std::fs::read_dir(store.folder).unwrap().count(), 0);
}

#[test]
fn layers_make_one_image_and_their_order_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let one = CodeSource::Zip(zip(folder.path(), "1.zip", &[("a", "1"), ("lib/x", "1")]));
    let two = CodeSource::Zip(zip(folder.path(), "2.zip", &[("a", "2"), ("lib/y", "2")]));
    assert_eq!(store.layers(&[]).unwrap(), None);
    let forth = store.layers(&[one.clone(), two.clone()]).unwrap().unwrap();
    let back = store.layers(&[two, one]).unwrap().unwrap();
    assert_ne!(forth.sha256, back.sha256);
    let (forth, back) = (std::fs::read(forth.image).unwrap(), std::fs::read(back.image).unwrap());
    assert!(forth != back);
}

#[test]
fn what_is_no_archive_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let path = folder.path().join("no.zip");
    std::fs::write(&path, b"not a zip").unwrap();
    assert!(matches!(store.code(&CodeSource::Zip(path)), Err(StoreError::Refused(_))));
    let missing = CodeSource::Zip(folder.path().join("missing.zip"));
    assert!(matches!(store.code(&missing), Err(StoreError::Read { .. })));
    let itself = CodeSource::Zip(folder.path().to_owned());
    assert!(matches!(store.code(&itself), Err(StoreError::Read { .. })));
    assert_eq!(std::fs::read_dir(store.folder).unwrap().count(), 0);
}

#[test]
fn of_what_a_worker_before_left_the_newest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let images = ["a", "b", "c"].map(|name| {
        let code = CodeSource::Zip(zip(folder.path(), &format!("{name}.zip"), &[(name, name)]));
        store.code(&code).unwrap().image
    });
    let len = std::fs::metadata(&images[0]).unwrap().len();
    // Times of files are coarse: each is given its own.
    for (age, image) in [30, 10, 20].into_iter().zip(&images) {
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        File::options().append(true).open(image).unwrap().set_modified(time).unwrap();
    }
    store.prune(2 * len).unwrap();
    assert_eq!(images.each_ref().map(|image| image.exists()), [false, true, true]);
    assert!(!seal_of(&images[0]).exists() && seal_of(&images[1]).exists());
    store.prune(0).unwrap();
    assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 0);
}
