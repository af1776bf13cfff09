//! What starts read is gathered: the files stay what they are, the layers' chunks as well, and what was read lies together.

use std::collections::BTreeSet;
use std::process::Command;

use proptest::prelude::*;

use super::layout::{Blob, LayoutFolder, Tar};
use super::made;
use crate::chunk::{CHUNK_BYTES, ChunkReads};
use crate::erofs::reader::{Found, Reader};
use crate::limits::Limits;
use crate::oci::{Image, OciSource, image_for_starts};

const CHUNK_BLOCKS: u64 = (CHUNK_BYTES / 4096) as u64;

/// An image laid out for starts that read this.
fn gathered(source: &OciSource, reads: &[ChunkReads]) -> Image {
    image_for_starts(source, &std::env::temp_dir(), &Limits::CONTAINER_IMAGE, reads).unwrap()
}

/// Two layers: files of many chunks, small ones, folders of many names, links, attributes.
fn layout() -> LayoutFolder {
    let bytes = |seed: usize, length: usize| -> Vec<u8> {
        (0..length).map(|i| (i / 4096 * 31 + i % 251 + seed) as u8).collect()
    };
    let attributes: [(&str, &[u8]); 1] = [("SCHILY.xattr.user.note", b"some text")];
    let mut lower = Tar::new().folder("lib").file("lib/large", &bytes(1, 3_000_123));
    lower = lower.pax(&attributes).file("lib/second", &bytes(2, 700_000)).link("l", "lib/large");
    for i in 0..300 {
        lower = lower.file(&format!("lib/{i}-{}", "n".repeat(40)), &bytes(i, i * 97));
    }
    let mut upper = Tar::new().hard_link("again", "lib/second").file("lib/.wh.7-", b"");
    upper = upper.file("zeros", &vec![0; 900_000]).link("far", &"t/".repeat(2000));
    for i in 0..200 {
        upper = upper.file(&format!("app/{i}/file"), &bytes(i, 3000 + i * 61));
    }
    LayoutFolder::new([lower, upper].map(|tar| Blob::gzip(tar.bytes())))
}

/// All of an inode that is no matter of places.
fn shown(found: &Found) -> impl PartialEq + std::fmt::Debug {
    let owner = (found.user, found.group);
    let time = (found.seconds, found.nanoseconds);
    (found.mode, owner, found.links, time, found.size, found.xattrs.clone())
}

fn check_with_fsck(image: &Image) {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.file.as_raw_fd());
    let output = Command::new("fsck.erofs").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Checks an image for starts against the plain one. Returns in how many chunks lies what was read.
fn check(source: &OciSource, reads: &[ChunkReads]) -> usize {
    let (plain, image) = (made(source).unwrap(), gathered(source, reads));
    check_with_fsck(&image);
    let (before, after) = (Reader::open(&plain.file), Reader::open(&image.file));
    assert!(after.bytes_of_image() == Reader::open(&gathered(source, reads).file).bytes_of_image());
    let (old, new) = (before.all(), after.all());
    assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
    let is_read = |block: u64| {
        let of_chunk = |read: &&ChunkReads| u64::from(read.index) == block / CHUNK_BLOCKS;
        reads.iter().filter(of_chunk).any(|read| read.pages >> (block % CHUNK_BLOCKS) & 1 == 1)
    };
    let end = plain.summary.image_bytes.next_multiple_of(CHUNK_BYTES as u64) / 4096;
    let mut chunks = BTreeSet::new();
    for (name, was) in &old {
        let is = &new[name];
        assert_eq!(shown(is), shown(was), "{name}");
        if was.mode >> 12 == 0o4 {
            continue;
        }
        assert!(after.content(is) == before.content(was), "{name}");
        for (was, is) in before.blocks_of(was).into_iter().zip(after.blocks_of(is)) {
            assert!(is >= end || is == was && !is_read(was), "{name}: block {was} at {is}");
            if is_read(was) {
                chunks.insert(is / CHUNK_BLOCKS);
            }
        }
        if name != "/" && is_read(was.nid * 32 / 4096) {
            assert!(is.nid * 32 / 4096 >= end, "{name}: its inode stays");
        }
    }
    // The layers' chunks are what they were: only folders are elsewhere, and with them lie no files here.
    let (before, after) = (before.bytes_of_image(), after.bytes_of_image());
    let both = before.chunks(CHUNK_BYTES).zip(after.chunks(CHUNK_BYTES));
    let same = both.filter(|(before, after)| before == after).count();
    assert!(same + 2 >= before.len().div_ceil(CHUNK_BYTES), "{same} chunks are the same");
    chunks.len()
}

#[test]
fn what_was_read_lies_together_and_the_layers_stay() {
    let layout = layout();
    // Every eighth page of each chunk.
    let pages = u128::MAX / 255;
    let reads: Vec<_> = (0..20).map(|index| ChunkReads { index, pages }).collect();
    assert_eq!(pages.count_ones(), 16);
    let chunks = check(&layout.source(), &reads);
    assert!(chunks <= 3, "a part of 10 chunks lies in {chunks}");
    // Nothing was read, and more than there is.
    assert_eq!(check(&layout.source(), &[]), 0);
    let beyond = ChunkReads { index: u32::MAX, pages: u128::MAX };
    assert_eq!(check(&layout.source(), &[beyond]), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4) })]

    #[test]
    fn whatever_was_read_the_files_are_the_same(
        reads in prop::collection::vec((0..14_u32, any::<u128>(), any::<u128>()), 0..14)
    ) {
        let reads = reads.into_iter().map(|(index, a, b)| ChunkReads { index, pages: a & b });
        check(&layout().source(), &reads.collect::<Vec<_>>());
    }
}
