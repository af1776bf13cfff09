//! Digests against FIPS 180-2's examples, and their text form.

use super::{Digest, Hasher, NotADigest};

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn known_answers_hold_whole_and_in_pieces() {
    assert_eq!(Digest::of(b"abc").to_string(), ABC);
    assert_eq!(Digest::of_parts(&[b"a", b"", b"bc"]).to_string(), ABC);
    let mut hasher = Hasher::new();
    hasher.update(b"ab");
    hasher.update(b"c");
    assert_eq!(hasher.finish().to_string(), ABC);
}

#[test]
fn text_is_read_in_one_form_only() {
    assert_eq!(ABC.parse(), Ok(Digest::of(b"abc")));
    for wrong in [&ABC[1..], &ABC.to_uppercase(), &format!("{ABC}00"), "", &"g".repeat(64)] {
        assert_eq!(wrong.parse::<Digest>(), Err(NotADigest), "{wrong:?}");
    }
}
