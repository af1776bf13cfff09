//! Chunks of real files, and the map of zeros.

use std::io::Write as _;

use proptest::prelude::*;

use super::{CHUNK_BYTES, ZeroMap, chunks_of, is_zero, map_bytes, read_chunk};
use crate::limits::{CHUNKS_MAX, IMAGE_BYTES_MAX};

#[test]
fn sizes_that_no_image_has_have_no_chunks() {
    assert_eq!(chunks_of(4096), Some(1));
    assert_eq!(chunks_of(CHUNK_BYTES as u64), Some(1));
    assert_eq!(chunks_of(CHUNK_BYTES as u64 + 4096), Some(2));
    assert_eq!(chunks_of(IMAGE_BYTES_MAX), Some(CHUNKS_MAX));
    for wrong in [0, 1, 4095, 4097, IMAGE_BYTES_MAX + 4096, u64::MAX, u64::MAX - 4095] {
        assert_eq!(chunks_of(wrong), None, "{wrong}");
    }
}

#[test]
fn the_last_chunk_ends_in_zeros() {
    let mut image = tempfile::tempfile().unwrap();
    image.write_all(&vec![1; CHUNK_BYTES]).unwrap();
    image.write_all(&[2; 4096]).unwrap();
    let bytes = CHUNK_BYTES as u64 + 4096;
    let mut chunk = Box::new([9; CHUNK_BYTES]);
    read_chunk(&image, bytes, 0, &mut chunk).unwrap();
    assert!(chunk.iter().all(|byte| *byte == 1));
    read_chunk(&image, bytes, 1, &mut chunk).unwrap();
    assert!(chunk[..4096].iter().all(|byte| *byte == 2) && is_zero(&chunk[4096..]));
    // It is said to be longer than it is.
    read_chunk(&image, bytes + 4096, 1, &mut chunk).unwrap_err();
}

#[test]
fn one_bit_makes_a_chunk_no_zeros() {
    let mut chunk = vec![0; 1000];
    assert!(is_zero(&chunk) && is_zero(&[]));
    for i in 0..1000 {
        chunk[i] = 0x80;
        assert!(!is_zero(&chunk), "{i}");
        chunk[i] = 0;
    }
}

proptest! {
    #[test]
    fn a_map_is_what_was_marked(chunks in 1..500u32, marks in prop::collection::btree_set(0..500u32, 0..64)) {
        let marks: Vec<u32> = marks.into_iter().filter(|mark| *mark < chunks).collect();
        let mut map = ZeroMap::new(chunks);
        marks.iter().for_each(|mark| map.mark(*mark));
        let again = ZeroMap::from_bits(map.as_bits(), chunks);
        prop_assert_eq!(again.as_ref(), Some(&map));
        prop_assert_eq!(map.stored() as usize, chunks as usize - marks.len());
        for i in 0..600 {
            prop_assert_eq!(map.is_zero(i), marks.contains(&i));
        }
    }
}

#[test]
fn marks_of_chunks_that_are_not_there_are_refused() {
    assert!(ZeroMap::from_bits(&[0b111], 3).is_some());
    assert!(ZeroMap::from_bits(&[0b1000], 3).is_none());
    assert!(ZeroMap::from_bits(&[0xff], 8).is_some());
    assert!(ZeroMap::from_bits(&[0, 0], 8).is_none());
    assert!(ZeroMap::from_bits(&[], 8).is_none());
    assert!(ZeroMap::from_bits(&vec![0; map_bytes(CHUNKS_MAX) + 1], CHUNKS_MAX + 1).is_none());
}
