//! ZIPs become images: always the same, never anything left behind.

use std::fs;
use std::io::Write as _;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::erofs::reader::Reader;

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

#[test]
fn a_later_zip_hides_what_earlier_ones_have_under_its_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let big = "lower".repeat(2000);
    write_zip(
        &path("lower.zip"),
        &[("same", &big, 0o600), ("kept", "k", 0o755), ("d/low", "l", 0o644), ("x/in", "i", 0o644)],
    );
    write_zip(
        &path("upper.zip"),
        &[("same", "upper", 0o644), ("d/up", "u", 0o644), ("x", "now a file", 0o644)],
    );
    let zips = [path("lower.zip"), path("upper.zip")];
    let (image, summary) = optimise_zips_unnamed(&zips, folder.path(), &Limits::LAMBDA).unwrap();
    let reader = Reader::open(&image);
    let all = reader.all();
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, ["/", "/d", "/d/low", "/d/up", "/kept", "/same", "/x"]);
    assert_eq!(reader.content(&all["/same"]), b"upper");
    assert_eq!(reader.content(&all["/x"]), b"now a file");
    assert_eq!(all["/kept"].mode, 0o100_755);
    assert_eq!((summary.files, summary.folders, summary.links), (5, 1, 0));
    assert_eq!(summary.unzipped_bytes, 18);
    assert_eq!(summary.image_bytes, image.metadata().unwrap().len());
    // Together they may hold no more than one alone, and what is hidden counts for nothing.
    let limits = Limits { unzipped_bytes: 18, ..Limits::LAMBDA };
    optimise_zips_unnamed(&zips, folder.path(), &limits).unwrap();
    let limits = Limits { unzipped_bytes: 17, ..Limits::LAMBDA };
    let error = optimise_zips_unnamed(&zips, folder.path(), &limits).unwrap_err();
    assert!(matches!(&error, OptimiseError::Refused(ArchiveError::TooMuch { .. })), "{error}");
}

#[test]
fn a_content_of_another_size_than_claimed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let zip = folder.path().join("f.zip");
    write_zip(&zip, &[("name", &"y".repeat(100), 0o644)]);
    let mut bytes = fs::read(&zip).unwrap();
    // The sizes in the directory's entry, which stand 24 bytes into it.
    let entry = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    assert_eq!(bytes[entry + 24], 100);
    for claimed in [99, 101] {
        bytes[entry + 24] = claimed;
        fs::write(&zip, &bytes).unwrap();
        let error = optimise_zip_unnamed(&zip, folder.path(), &Limits::LAMBDA).unwrap_err();
        assert!(error.to_string().contains("\"name\""), "{error}");
    }
}

/// Set in a process that only makes the image of this ZIP, at this place.
const MAKE: &str = "VOTIVE_TEST_MAKE";

#[test]
fn umask_and_folder_and_time_leave_no_trace_in_the_image() {
    if let Some(make) = std::env::var_os(MAKE) {
        let folder = PathBuf::from(make);
        let out = folder.join("image");
        optimise_zip(&folder.join("f.zip"), &out, &Limits::LAMBDA).unwrap();
        return;
    }
    let mut images = Vec::new();
    for (umask, place) in [("000", "/"), ("077", "/tmp"), ("022", "/dev/shm")] {
        let folder = tempfile::tempdir().unwrap();
        write_zip(
            &folder.path().join("f.zip"),
            &[("a/b", &"content".repeat(3000), 0o640), ("c", "x", 0o700), ("e/", "", 0o700)],
        );
        let name = "optimise::tests::umask_and_folder_and_time_leave_no_trace_in_the_image";
        let script = format!("umask {umask} && cd {place} && exec \"$0\" --exact {name}");
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .env(MAKE, folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        images.push(fs::read(folder.path().join("image")).unwrap());
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "the images differ");
}
