//! ZIPs become images: always the same, never anything left behind.

use std::fs;
use std::io::Write as _;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

/// Writes a ZIP of files in the given order; names that end with a slash are folders.
fn write_zip(path: &Path, files: &[(&str, &str, u32)]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, text, mode) in files {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        if name.ends_with('/') {
            zip.add_directory(*name, options).unwrap();
        } else {
            zip.start_file(*name, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
    }
    zip.finish().unwrap();
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_order_and_place_of_files_leave_no_trace_in_the_image() {
    let big = "x".repeat(10_000);
    let forward =
        [("a/b.py", "one", 0o644), ("a/c", &big, 0o755), ("z", "", 0o600), ("d/", "", 0o755)];
    let mut backward = forward;
    backward.reverse();
    let mut images = Vec::new();
    for files in [&forward, &backward] {
        let folder = tempfile::tempdir().unwrap();
        let (zip, out) = (folder.path().join("f.zip"), folder.path().join("f.erofs"));
        write_zip(&zip, files);
        let summary = optimise_zip(&zip, &out, &Limits::LAMBDA).unwrap();
        assert_eq!((summary.files, summary.folders, summary.links), (3, 2, 0));
        assert_eq!(summary.unzipped_bytes, 10_003);
        let image = fs::read(&out).unwrap();
        assert_eq!(summary.image_bytes, image.len() as u64);
        assert_eq!(names_in(folder.path()), ["f.erofs", "f.zip"]);
        images.push(image);
    }
    assert!(images[0] == images[1], "the images differ");
}

#[test]
fn a_refused_archive_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (zip, out) = (folder.path().join("f.zip"), folder.path().join("f.erofs"));
    write_zip(&zip, &[("good", "x", 0o644), ("bad", &"y".repeat(100), 0o644)]);
    let limits = Limits { unzipped_bytes: 50, ..Limits::LAMBDA };
    let error = optimise_zip(&zip, &out, &limits).unwrap_err();
    assert!(error.to_string().contains("\"bad\""), "{error}");
    assert_eq!(names_in(folder.path()), ["f.zip"]);
}

#[test]
fn a_missing_zip_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let zip = folder.path().join("none.zip");
    let error = optimise_zip(&zip, &folder.path().join("out"), &Limits::LAMBDA).unwrap_err();
    assert!(error.to_string().contains("none.zip"), "{error}");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn an_image_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let zip = folder.path().join("f.zip");
    write_zip(&zip, &[("good", "x", 0o644)]);
    let out = folder.path().join("missing/f.erofs");
    let error = optimise_zip(&zip, &out, &Limits::LAMBDA).unwrap_err();
    assert!(matches!(error, OptimiseError::Scratch { .. }), "{error}");
}
