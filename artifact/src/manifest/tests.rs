//! Manifests: one way to write each, and nothing else is one.

use proptest::prelude::*;

use super::{MANIFEST_BYTES_MAX, Manifest, ManifestError, RootId, ScopeId};
use crate::chunk::{CHUNK_BYTES, ZeroMap};
use crate::digest::Digest;
use crate::limits::IMAGE_BYTES_MAX;
use crate::seal::Method;

/// A manifest of `chunks` chunks, of which each `zero`th is all zeros.
fn manifest(method: Method, chunks: u32, zero: u32) -> Manifest {
    let mut zeros = ZeroMap::new(chunks);
    (0..chunks).filter(|index| index % zero == zero - 1).for_each(|index| zeros.mark(index));
    let names = (0..zeros.stored()).map(|index| Digest::of(&index.to_le_bytes())).collect();
    let bytes = u64::from(chunks) * CHUNK_BYTES as u64 - 4096;
    let within = (RootId([1; 16]), ScopeId([2; 16]));
    Manifest::new(method, bytes, within, zeros, names).unwrap()
}

#[test]
fn every_chunk_is_found_under_its_name() {
    for zero in [1, 2, 3, 63, 64, 65, 1000] {
        let manifest = manifest(Method::Convergent, 300, zero);
        let mut names = manifest.names().iter();
        for index in 0..300 {
            let expected = if index % zero == zero - 1 { None } else { names.next().copied() };
            assert_eq!(manifest.name(index), expected, "chunk {index}, zeros each {zero}");
        }
        assert_eq!(names.next(), None);
        assert_eq!(manifest.name(300), None);
        assert_eq!(manifest.name(u32::MAX), None);
    }
}

#[test]
fn the_largest_image_fits_the_largest_manifest() {
    let chunks = u32::try_from(IMAGE_BYTES_MAX / CHUNK_BYTES as u64).unwrap();
    let manifest = manifest(Method::ServiceKey, chunks, 1 << 30);
    let bytes = manifest.encode();
    assert!(bytes.len() <= MANIFEST_BYTES_MAX, "{}", bytes.len());
    assert_eq!(Manifest::parse_named(&bytes, &manifest.id()), Ok(manifest));
    let more = vec![0; MANIFEST_BYTES_MAX + 1];
    assert_eq!(Manifest::parse_named(&more, &Digest::of(&more)), Err(ManifestError::Length));
}

#[test]
fn every_bit_that_is_flipped_is_noticed() {
    let manifest = manifest(Method::Convergent, 21, 4);
    let (mut bytes, id) = (manifest.encode(), manifest.id());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Manifest::parse_named(&bytes, &id), Err(ManifestError::Name), "bit {bit}");
        // Under its own name it is another manifest, or none; never this one.
        if let Ok(other) = Manifest::parse(&bytes) {
            assert_ne!(other, manifest, "bit {bit}");
            assert_eq!(other.encode(), bytes, "bit {bit}");
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_length_but_one_is_refused() {
    let mut bytes = manifest(Method::Convergent, 9, 5).encode();
    for length in 0..bytes.len() {
        assert!(Manifest::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
    bytes.push(0);
    assert_eq!(Manifest::parse(&bytes), Err(ManifestError::Length));
}

#[test]
fn fields_with_values_that_they_cannot_have_are_named() {
    let good = manifest(Method::Convergent, 9, 5).encode();
    let check = |at: usize, value: u8, expected| {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(Manifest::parse(&bytes), Err(expected), "byte {at} = {value}");
    };
    check(7, 2, ManifestError::Magic);
    check(8, 0, ManifestError::Field { field: "method" });
    check(8, 3, ManifestError::Field { field: "method" });
    check(9, 1, ManifestError::Field { field: "reserved" });
    check(12, 1, ManifestError::Field { field: "chunk_bytes" });
    check(16, 1, ManifestError::Field { field: "image_bytes" });
    check(23, 0x7f, ManifestError::Field { field: "image_bytes" });
    check(57, 0x80, ManifestError::Field { field: "zeros" });
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange_and_what_is_read_is_written_alike(bytes in prop::collection::vec(any::<u8>(), 0..400), from in 0..60usize) {
        // Bytes at random, and a manifest's head with such after it.
        let mut mixed = manifest(Method::Convergent, 9, 5).encode();
        mixed.truncate(from);
        mixed.extend(&bytes);
        for bytes in [bytes, mixed] {
            if let Ok(manifest) = Manifest::parse(&bytes) {
                prop_assert_eq!(manifest.encode(), bytes);
            }
        }
    }
}
