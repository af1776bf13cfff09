//! The fuzz target's body on an archive that is known, and on that one damaged.

use std::io::Write as _;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

fn archive() -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    zip.add_directory("lib/", options).unwrap();
    for (name, text) in [("lib/app.py", "def handler(event, context): ..."), ("empty", "")] {
        zip.start_file(name, options.unix_permissions(0o644)).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.add_symlink("link", "lib/app.py", options).unwrap();
    zip.finish().unwrap().into_inner()
}

#[test]
fn a_good_archive_is_read_to_its_end() {
    read_all(&archive()).unwrap();
}

#[test]
fn every_cut_and_every_damaged_byte_is_survived() {
    let good = archive();
    for len in 0..good.len() {
        zip(&good[..len]);
    }
    for at in 0..good.len() {
        for flipped in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flipped;
            zip(&bad);
        }
    }
}
