//! Tars of several writers, and every damage to one.

use std::process::Command;

use super::*;

fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut entries = Entries::new(bytes);
    let mut found = Vec::new();
    while let Some(entry) = entries.next()? {
        let mut content = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match entries.read(&mut buffer)? {
                0 => break,
                count => content.extend_from_slice(&buffer[..count]),
            }
        }
        found.push((entry, content));
    }
    Ok(found)
}

#[test]
fn gnu_tar_s_formats_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
    std::fs::create_dir(folder.path().join("d".repeat(90))).unwrap();
    std::fs::write(folder.path().join(&long), "content").unwrap();
    std::os::unix::fs::symlink("target", folder.path().join("link")).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let output = Command::new("tar")
            .args(["--create", "--format", format, "--owner=1000", "--group=2000"])
            .args(["--mtime=@1234567", "--directory"])
            .arg(folder.path())
            .args(["link", &long])
            .output()
            .unwrap();
        let found = all(&output.stdout).unwrap();
        let [(link, _), (file, content)] = &found[..] else { unreachable!("{found:?}") };
        assert_eq!(link.kind, EntryKind::Link { target: b"target".to_vec() }, "{format}");
        assert_eq!(file.name, long.as_bytes(), "{format}");
        assert_eq!((file.user, file.group, file.modified.seconds), (1000, 2000, 1_234_567));
        assert_eq!(content, b"content");
    }
}

#[test]
fn numbers_may_be_binary() {
    let number = |field: [u8; 12]| {
        let mut block = [0; BLOCK];
        block[136..148].copy_from_slice(&field);
        Header(block).number(136..148)
    };
    assert_eq!(number(*b"00000000017\0"), Some(15));
    assert_eq!(number(*b"  17       \0"), Some(15));
    assert_eq!(number([0; 12]), Some(0));
    assert_eq!(number(*b"777777777777"), Some((1 << 36) - 1));
    assert_eq!(number([0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]), Some((3 << 32) + 1));
    assert_eq!(number([0xff; 12]), Some(-1));
    assert_eq!(number([0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(number([0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(number(*b"00000000018\0"), None);
    assert_eq!(number(*b"-0000000017\0"), None);
    let short = |field: [u8; 8]| {
        let mut block = [0; BLOCK];
        block[108..116].copy_from_slice(&field);
        Header(block).number(108..116)
    };
    assert_eq!(short([0x80, 0, 0, 0, 0, 1, 0, 0]), Some(65_536));
    assert_eq!(short([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]), Some(-2));
}

#[test]
fn every_cut_and_every_damaged_byte_is_survived() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    builder.append_data(&mut header, "n".repeat(120), &b"hello"[..]).unwrap();
    builder.append_pax_extensions([("path", &b"pax"[..]), ("mtime", b"1.5")]).unwrap();
    builder.append_data(&mut header, "short", &b"hello"[..]).unwrap();
    let good = builder.into_inner().unwrap();
    assert_eq!(all(&good).unwrap().len(), 2);
    for length in 0..good.len() {
        let _ = all(&good[..length]);
    }
    for at in 0..good.len() {
        for flipped in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flipped;
            let _ = all(&bad);
        }
    }
}
