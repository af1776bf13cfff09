//! Tests of the initramfs writer.

use super::Archive;

#[test]
fn an_archive_has_the_layout_that_the_kernel_reads() {
    let bytes = Archive::new().folder("dev").program("init", b"\x7fELF!").finish();
    assert_eq!(bytes.len() % 4, 0);
    let text = String::from_utf8_lossy(&bytes);
    // magic, inode, mode, uid, gid, links, time, size ...
    assert!(text.starts_with("07070100000001000041ed00000000000000000000000200000000"));
    let second = 110 + 4 + 2;
    assert_eq!(&bytes[second..second + 6], b"070701");
    let field = |n: usize| &text[second + 6 + n * 8..second + 14 + n * 8];
    assert_eq!((field(1), field(6), field(11)), ("000081ed", "00000005", "00000005"));
    let name = second + 110;
    assert_eq!(&bytes[name..name + 5], b"init\0");
    let content = (name + 5_usize).next_multiple_of(4);
    assert_eq!(&bytes[content..content + 5], b"\x7fELF!");
    assert!(text.contains("TRAILER!!!\0"));
}

#[test]
fn a_device_has_its_numbers() {
    let bytes = Archive::new().device("dev/null", 1, 3).finish();
    let text = String::from_utf8_lossy(&bytes);
    let field = |n: usize| &text[6 + n * 8..14 + n * 8];
    assert_eq!((field(1), field(9), field(10)), ("000021b6", "00000001", "00000003"));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let make = || Archive::new().folder("a").file("a/b", b"text").finish();
    assert_eq!(make(), make());
}
