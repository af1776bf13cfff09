//! Images that nobody should make: each is refused, and the refusal names the entry.

use serde_json::json;

use super::layout::{Blob, LayoutFolder, Tar, gzipped, header, zstandard};
use super::*;

/// The refusal of an image of these layers, with its causes.
fn refusal(layers: &[Tar]) -> String {
    refusal_of(
        &LayoutFolder::new(layers.iter().map(|tar| Blob::gzip(tar.bytes()))),
        &Limits::CONTAINER_IMAGE,
    )
}

fn refusal_of(layout: &LayoutFolder, limits: &Limits) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = image(&layout.source(), folder.path(), limits).unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
    chain(&error)
}

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", chain(source)));
    format!("{error}{}", source.unwrap_or_default())
}

#[track_caller]
fn check(tar: Tar, expect: &str) {
    let said = refusal(&[tar]);
    assert!(said.contains(expect), "{said:?} lacks {expect:?}");
}

#[test]
fn names_that_leave_or_confuse_are_refused() {
    for (name, expect) in [
        (&b"../x"[..], r#"entry "../x" of layer 1 has a name that holds `..`"#),
        (b"a/../../x", "holds `..`"),
        (b"a/..", "holds `..`"),
        (b"/etc/passwd", r#"entry "/etc/passwd" of layer 1 has a name that is absolute"#),
        (b"\xff\xfe", "is not UTF-8"),
        (b"", "is empty"),
        (b"d/.wh...", "holds `..`"),
        (b"d/.wh.", "is empty"),
    ] {
        check(Tar::new().folder("d").raw(name, b'0', b"", b""), expect);
        check(Tar::new().folder("d").raw(name, b'5', b"", b""), expect);
    }
    check(Tar::new().pax(&[("path", b"a\0b")]).file("x", b""), "holds a NUL byte");
    check(Tar::new().pax(&[("path", "n".repeat(256).as_bytes())]).file("x", b""), "too long");
    check(Tar::new().pax(&[("path", "d/".repeat(300).as_bytes())]).file("x", b""), "too long");
    check(Tar::new().pax(&[("path", "é".repeat(3000).as_bytes())]).file("x", b""), "too long");
}

#[test]
fn links_cannot_name_what_is_not_there_or_lies_outside() {
    for (target, expect) in [
        (&b"../../etc/shadow"[..], r#"is a hard link to "../../etc/shadow", a name that holds"#),
        (b"/etc/shadow", "a name that is absolute"),
        (b"missing", r#"entry "l" of layer 1 is a hard link to "missing", which is no file"#),
        (b"d", "which is no file that came before"),
        (b"", "is empty"),
        (b"l", "which is no file that came before"),
    ] {
        check(Tar::new().folder("d").raw(b"l", b'1', target, b""), expect);
    }
    // The name that a hard link takes is free before its target is sought.
    check(Tar::new().file("a", b"").hard_link("a", "a"), "which is no file that came before");
    check(Tar::new().file("a/b", b"").hard_link("a", "a/b"), "which is no file that came before");
    check(Tar::new().raw(b"l", b'2', b"", b""), "is a symbolic link whose target");
    check(Tar::new().raw(b"l", b'2', b"\xff", b""), "is no path");
    // Where a link leads is the guest's affair; what the host resolves stays in the tree.
    let tar = Tar::new().link("out", "../../../..").file("out/x", b"").link("etc", "/tmp");
    let expect = ["/", "/etc", "/out", "/tmp", "/tmp/passwd", "/x"];
    assert_eq!(names(&[tar.file("etc/passwd", b"")]), expect);
}

#[test]
fn links_that_never_end_are_refused() {
    check(Tar::new().link("a", "b").link("b", "a").file("a/x", b""), "too many symbolic links");
    check(Tar::new().link("a", "a/a").file("a/x", b""), "too many symbolic links");
    // Each name costs 76,000 look-ups.
    let far = "./".repeat(2000);
    let mut tar = Tar::new().link("a0", ".");
    for i in 1..39 {
        let target = format!("{far}a{}", i - 1);
        tar = tar.pax(&[("linkpath", target.as_bytes())]).link(&format!("a{i}"), "x");
    }
    for i in 0..200 {
        tar = tar.file(&format!("a38/{i}"), b"");
    }
    check(tar, "too many symbolic links");
}

#[test]
fn what_is_no_file_folder_or_link_is_refused() {
    for (flag, shown) in [(b'3', '3'), (b'4', '4'), (b'6', '6'), (b'V', 'V'), (b'?', '?')] {
        let expect = format!(
            "entry \"dev/x\" of layer 1 is neither a file, a folder nor a link (type '{shown}')"
        );
        check(Tar::new().raw(b"dev/x", flag, b"", b""), &expect);
    }
    check(Tar::new().raw(b"s", b'S', b"", b""), "is a sparse file");
    let sparse: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")];
    check(Tar::new().pax(&sparse).file("s", b""), "is a sparse file");
    check(Tar::new().file("a", b"").file("a/b", b""), r#"entry "a/b" of layer 1 lies below "a""#);
}

#[test]
fn headers_that_are_none_are_refused() {
    let good = Tar::new().file("first", b"x").file("second", b"y").bytes();
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        refusal_of(&LayoutFolder::new([Blob::gzip(bytes)]), &Limits::CONTAINER_IMAGE)
    };
    // The second header is the third block.
    assert!(damaged(1024, b'!').contains("the header after entry \"first\" is damaged"));
    assert!(damaged(1024 + 148, b'9').contains("is damaged"));
    let cut = |length: usize| {
        let layout = LayoutFolder::new([Blob::gzip(good[..length].to_vec())]);
        refusal_of(&layout, &Limits::CONTAINER_IMAGE)
    };
    for length in [1, 511, 600, 1024 + 100] {
        assert!(cut(length).contains("unexpected end of file"), "{length}");
    }
    check(
        Tar::new().pax(&[("size", b"x")]).file("a", b""),
        "extended header after entry \"\" is malformed",
    );
    check(
        Tar::new().pax(&[("uid", b"4294967296")]).file("a", b""),
        "entry \"a\" has no valid owner",
    );
    check(Tar::new().pax(&[("size", b"18446744073709551615")]).file("a", b""), "no valid size");
    let mut negative = header(tar::EntryType::Regular, 0o644, 0);
    negative.as_old_mut().size = [0xff; 12];
    negative.as_old_mut().name[0] = b'a';
    negative.set_cksum();
    let bytes = [negative.as_bytes().to_vec(), vec![0; 1024]].concat();
    let said = refusal_of(&LayoutFolder::new([Blob::gzip(bytes)]), &Limits::CONTAINER_IMAGE);
    assert!(said.contains("no valid size"), "{said}");
}

#[test]
fn what_stands_before_an_entry_is_bounded() {
    let long = vec![b'x'; (1 << 20) + 1];
    for flag in [b'L', b'K', b'x', b'g'] {
        check(
            Tar::new().file("before", b"").raw(b"././@LongLink", flag, b"", &long),
            "the extended header after entry \"before\" is larger than",
        );
    }
    let value = vec![1; 65_536];
    let xattr: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.big", &value)];
    check(
        Tar::new().pax(&xattr).file("a", b""),
        "entry \"a\" of layer 1 has the extended attribute",
    );
    let value = vec![1; 40_000];
    let two: [(&str, &[u8]); 2] =
        [("SCHILY.xattr.user.a", &value), ("SCHILY.xattr.user.b", &value)];
    check(Tar::new().pax(&two).file("a", b""), "\"user.b\", which is too long");
}

#[test]
fn counts_and_sizes_are_bounded_over_all_layers() {
    let limits = Limits { nodes: 10, unzipped_bytes: 40_000, zipped_bytes: 10_000 };
    let layer =
        |from: usize| (from..from + 6).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), b""));
    let said = refusal_of(
        &LayoutFolder::new([layer(0), layer(6)].map(|t| Blob::gzip(t.bytes()))),
        &limits,
    );
    assert!(said.contains("entry \"f10\" of layer 2 is one more than the 10 files"), "{said}");
    // Names that imply folders count like folders.
    let said = refusal_of(
        &LayoutFolder::new([Blob::gzip(Tar::new().file("a/b/c/d/e/f/g/h/i/j/k", b"").bytes())]),
        &limits,
    );
    assert!(said.contains("is one more than the 10 files"), "{said}");
    let big = |name: &str| Blob::gzip(Tar::new().file(name, &[0; 25_000]).bytes());
    let said = refusal_of(&LayoutFolder::new([big("one"), big("two")]), &limits);
    assert!(
        said.contains("layer 2 cannot be read")
            && said.contains("more than the 40000 bytes allowed"),
        "{said}"
    );
    let random: Vec<u8> =
        (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let said = refusal_of(
        &LayoutFolder::new([Blob::plain(Tar::new().file("r", &random).bytes())]),
        &limits,
    );
    assert!(said.contains("more than the 10000 allowed"), "{said}");
    let layers = (0..128).map(|_| Blob::gzip(Tar::new().bytes()));
    let said = refusal_of(&LayoutFolder::new(layers), &Limits::CONTAINER_IMAGE);
    assert!(said.contains("there are 128 layers"), "{said}");
}

#[test]
fn bombs_end_at_their_ratio_and_claims_cost_nothing() {
    // 3 GiB of zeros in frames of zstd, each of a few bytes: far over any ratio, and far under the limit of size.
    let frame = zstandard(&vec![0; 64 << 20]);
    let stored = frame.repeat(48);
    assert!(stored.len() < 1 << 20);
    let mut bomb = Blob::zstd(Tar::new().file("a", b"").bytes());
    let size = (3_u64 << 30) - 1024;
    let mut header = header(tar::EntryType::Regular, 0o644, 0);
    header.set_size(size);
    header.as_old_mut().name[0] = b'z';
    header.set_cksum();
    bomb.stored = [zstandard(header.as_bytes()), stored].concat();
    let said = refusal_of(&LayoutFolder::new([bomb]), &Limits::CONTAINER_IMAGE);
    assert!(said.contains("more than 200 times its size"), "{said}");
    // A size alone reserves nothing.
    for size in [6_u64 << 30, 9 << 40] {
        let pax = size.to_string();
        let said = refusal(&[Tar::new().pax(&[("size", pax.as_bytes())]).file("claims", b"x")]);
        let expect = ["unexpected end of file", "entry \"claims\" of layer 1 takes the image over"];
        assert!(expect.iter().any(|expect| said.contains(expect)), "{said}");
    }
}

#[test]
fn another_content_than_the_digests_is_refused() {
    let tar = Tar::new().file("a", b"content").bytes();
    let mut blob = Blob::gzip(tar.clone());
    blob.unpacked = Digest::of(b"something else");
    let said = refusal_of(&LayoutFolder::new([blob]), &Limits::CONTAINER_IMAGE);
    assert!(said.contains("not the one that the configuration names"), "{said}");
    // The same content in another blob.
    let layout = LayoutFolder::new([Blob::gzip(tar.clone())]);
    let name = Digest::of(&Blob::gzip(tar.clone()).stored);
    let path = layout.path().join(format!("blobs/sha256/{name}"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let said = refusal_of(&layout, &Limits::CONTAINER_IMAGE);
    assert!(said.contains("not the one that the manifest names"), "{said}");
    // Bytes after the end of the stream belong to the blob as well.
    for more in [&b""[..], b"x"] {
        let trailed =
            Blob { stored: [&gzipped(&tar)[..], more].concat(), ..Blob::gzip(tar.clone()) };
        std::fs::write(&path, &trailed.stored).unwrap();
        let outcome = made(&layout.source());
        assert_eq!(outcome.is_ok(), more.is_empty());
    }
    std::fs::remove_file(&path).unwrap();
    assert!(
        refusal_of(&layout, &Limits::CONTAINER_IMAGE).contains("cannot read the layout's layer")
    );
}

#[test]
fn every_flipped_bit_of_the_documents_is_noticed() {
    let layout = LayoutFolder::new([Blob::gzip(Tar::new().file("a", b"").bytes())]);
    let good = made(&layout.source()).unwrap();
    let layer = Digest::of(&Blob::gzip(Tar::new().file("a", b"").bytes()).stored).to_string();
    for entry in std::fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // What nothing refers to any more is not read.
        let is_read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            made(&layout.source()).is_err()
        };
        if path.ends_with(&layer) || !is_read(b"") {
            std::fs::write(&path, &bytes).unwrap();
            continue;
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(is_read(&bad), "bit {} of byte {at}", at % 8);
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(made(&layout.source()).unwrap().manifest, good.manifest);
}

#[test]
fn documents_are_bounded_and_lead_nowhere_else() {
    let layout = LayoutFolder::new([]);
    let index = layout.path().join("index.json");
    let with_digest = |digest: &str| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        layout.index(vec![json!({ "mediaType": media_type, "digest": digest, "size": 2 })]);
        refusal_of(&layout, &Limits::CONTAINER_IMAGE)
    };
    for digest in ["sha256:../../../etc/passwd", "sha512:00", "", "sha256:", &"A".repeat(64)] {
        assert!(with_digest(digest).contains("is no SHA-256 digest"), "{digest}");
    }
    let missing = format!("sha256:{}", "0".repeat(64));
    assert!(with_digest(&missing).contains("cannot read the layout's manifest"));
    // An index that contains itself cannot be made; one that is nested without end can.
    let list = "application/vnd.oci.image.index.v1+json";
    let mut inner = layout.document(list, &json!({ "manifests": [] }));
    for _ in 0..10 {
        inner = layout.document(list, &json!({ "manifests": [inner] }));
    }
    layout.index(vec![inner]);
    assert!(refusal_of(&layout, &Limits::CONTAINER_IMAGE).contains("there is no image"));
    std::fs::write(&index, vec![b' '; (4 << 20) + 1]).unwrap();
    assert!(
        refusal_of(&layout, &Limits::CONTAINER_IMAGE).contains("more than the 4194304 allowed")
    );
    std::fs::write(&index, "[".repeat(100_000)).unwrap();
    assert!(refusal_of(&layout, &Limits::CONTAINER_IMAGE).contains("is malformed"));
    std::fs::remove_file(&index).unwrap();
    std::os::unix::fs::symlink("/proc/self/environ", &index).unwrap();
    assert!(
        refusal_of(&layout, &Limits::CONTAINER_IMAGE)
            .contains("cannot read the layout's index.json")
    );
}

#[test]
fn an_image_of_another_platform_is_refused() {
    let layout = LayoutFolder::new([]);
    let layer = [Blob::gzip(Tar::new().file("a", b"").bytes())];
    layout.index(vec![layout.image("arm64", &layer, json!({}))]);
    assert!(refusal_of(&layout, &Limits::CONTAINER_IMAGE).contains("no image for linux/amd64"));
}

#[test]
fn configurations_that_no_process_can_have_are_refused() {
    let layout = LayoutFolder::new([]);
    for (section, expect) in [
        (json!({ "Env": ["=x"] }), "ENV holds \"=x\", which is not NAME=VALUE"),
        (json!({ "Env": ["x"] }), "ENV holds \"x\""),
        (json!({ "Env": ["a=\0"] }), "ENV holds a NUL byte"),
        (json!({ "Cmd": ["a\0"] }), "CMD holds a NUL byte"),
        (json!({ "WorkingDir": "task" }), "WORKDIR \"task\" is no absolute path"),
        (json!({ "Entrypoint": ["x".repeat(40_000)] }), "are more than"),
        (json!({ "Cmd": vec![""; 2000] }), "are more than"),
        (json!({ "Cmd": "text" }), "is malformed"),
    ] {
        layout.execution(section);
        let said = refusal_of(&layout, &Limits::CONTAINER_IMAGE);
        assert!(said.contains(expect), "{said:?} lacks {expect:?}");
    }
}
