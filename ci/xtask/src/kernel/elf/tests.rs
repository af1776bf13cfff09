//! Tests of the segment check, with images made by hand.

use super::check_mappable;

/// An ELF header and one loadable segment at these places.
fn image(offset: u64, address: u64) -> Vec<u8> {
    let mut image = vec![0; 120];
    image[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2]);
    image[32] = 64;
    image[56] = 1;
    image[64] = 1;
    image[72..80].copy_from_slice(&offset.to_le_bytes());
    image[88..96].copy_from_slice(&address.to_le_bytes());
    image
}

#[test]
fn aligned_segments_pass() {
    check_mappable(&image(0x20_0000, 0x100_0000)).unwrap();
}

#[test]
fn segments_off_a_page_are_named() {
    for (offset, address) in [(0x20_0010, 0x100_0000), (0x20_0000, 0x100_0800)] {
        let error = check_mappable(&image(offset, address)).unwrap_err().to_string();
        assert!(error.starts_with("segment 0 is at"), "{error}");
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    assert!(check_mappable(b"MZ").is_err());
    assert!(check_mappable(&image(0, 0)[..90]).is_err());
    let mut no_segment = image(0, 0);
    no_segment[64] = 4;
    assert_eq!(check_mappable(&no_segment).unwrap_err().to_string(), "no loadable segment");
}
