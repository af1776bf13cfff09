//! The same container image in two places gives the same chunks under the same names.
//!
//! A place is a user namespace with ids of its own and a mount namespace whose layout lies in a new file system, its files made in
//! another order; umask, time zone, locale and folder differ as well.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bed::{Bed, Said, entry, layer, noise};

/// Copies the layout in another order into a file system of the namespace's own, and makes the artifact of it. What it prints
/// first is `votive`'s object, then the names in the store.
const ELSEWHERE: &str = r#"
set -e
umask 077
mount -t tmpfs none "$1"
cd "$1"
mkdir -p there/layout/blobs/sha256 there/tmp
for name in $(cd "$3/layout" && find . -type f | sort -r); do cp "$3/layout/$name" "there/layout/$name"; done
cp -r "$3/store" "$3/keys" there
touch -d 1987-06-05 there/layout/index.json
id -u >&2
TMPDIR=$1/there/tmp "$2" image create --json --oci there/layout --store "$1/there/store" --keys "$1/there/keys" --artifact arn:one
cd there/store/roots/*
find chunks manifests -type f | sort
"#;

#[test]
fn chunks_are_the_same_wherever_and_by_whomever_they_are_made() {
    let bed = Bed::new();
    let files: Vec<(String, Vec<u8>)> =
        (0..40).map(|i| (format!("dir{}/file{i}", i % 7), noise(i, 40_000))).collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (&**name, &**content)).collect();
    let layers = [
        layer(&files),
        layer(&[("large", &noise(100, 3 << 20)), ("dir3/.wh.file3", b"")]),
        entry(tar::EntryType::Symlink, "link", "large"),
    ];
    bed.layout("layout", &layers, &json!({ "Cmd": ["/large"], "Env": ["A=b"] }));
    // One root and its salt for both places.
    bed.json(&["root", "new"]);
    let place = bed.path("place");
    fs::create_dir(&place).unwrap();
    let said = Command::new("unshare")
        .args(["--user", "--map-user=4711", "--map-group=4712", "--mount", "--keep-caps"])
        .args(["sh", "-c", ELSEWHERE, "sh"])
        .arg(&place)
        .arg(env!("CARGO_BIN_EXE_votive"))
        .arg(bed.path(""))
        .envs([("TZ", "Pacific/Kiritimati"), ("LC_ALL", "C.UTF-8"), ("HOME", "/nonexistent")])
        .output();
    let said = Said::of(said.unwrap());
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.starts_with("4711\n"), "{}", said.err);
    let (object, names) = said.out.split_once('\n').unwrap();
    let there: serde_json::Value = serde_json::from_str(object).unwrap();
    assert_eq!(there["newChunks"], there["chunks"], "that place had nothing before");

    let mut here = bed.command(&["create", "--json", "--oci", "layout", "--artifact", "arn:one"]);
    here.envs([("TZ", "UTC"), ("LC_ALL", "C")]);
    let here = Said::of(here.output().unwrap()).json();
    assert_eq!(here, there);
    let stored = bed.stored();
    let in_root =
        |path: &String| path.split_once(here["root"].as_str()?)?.1.get(1..).map(str::to_owned);
    let ours: Vec<String> = stored.keys().filter_map(in_root).collect();
    let ours: Vec<&str> = ours
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("chunks/") || name.starts_with("manifests/"))
        .collect();
    assert_eq!(ours, names.lines().collect::<Vec<_>>());
    assert!(ours.len() > 9, "{ours:?}");
}
