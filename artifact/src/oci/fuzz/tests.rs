//! The fuzz target's body on layers that are known, on those damaged, and on all that the fuzzer has found worth keeping.

use super::*;
use crate::erofs::reader::Reader;
use crate::oci::tests::layout::Tar;

fn input() -> Vec<u8> {
    let lower = Tar::new().folder("d").file("d/a", b"content").hard_link("b", "d/a").file("c", b"");
    let upper =
        Tar::new().file("d/.wh.a", b"").link("l", "d").pax(&[("mtime", b"1.5")]).file("l/n", b"x");
    let mut lower = lower.bytes();
    let upper = upper.bytes();
    let length = lower.len().max(upper.len());
    lower.resize(length, 0);
    [vec![1], lower, upper].concat()
}

#[test]
fn good_layers_become_an_image() {
    let image = image(&input(), tempfile::tempfile().unwrap()).unwrap();
    let all = Reader::open(&image).all();
    assert_eq!(all.keys().collect::<Vec<_>>(), ["/", "/b", "/c", "/d", "/d/n", "/l"]);
}

#[test]
fn every_damaged_byte_gives_a_sound_image_or_none() {
    let good = input();
    let mut made = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        if let Ok(image) = image(&bad, tempfile::tempfile().unwrap()) {
            Reader::open(&image).all();
            made += 1;
        }
        layers(&good[..at]);
    }
    assert!(made > good.len() / 2, "{made} of {}", good.len());
}

#[test]
fn documents_are_read_or_refused() {
    for text in ["", "{}", "[]", r#"{"manifests":[{"digest":"","size":0}]}"#] {
        documents(text.as_bytes());
        config(text.as_bytes());
    }
}
