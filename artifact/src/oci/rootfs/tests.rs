//! What names mean; whole images are in `oci/tests`.

use super::*;
use crate::erofs::Timestamp;

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind,
        permissions: 0o755,
        user: 0,
        group: 0,
        modified: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

#[test]
fn memory_for_names_is_bounded_and_spent_names_stay_spent() {
    let mut rootfs = Rootfs::new(usize::MAX);
    rootfs.metadata_left = 1000;
    let mut made = 0;
    let refused = loop {
        let name = format!("{made:0>50}");
        match rootfs.add(entry(&name, EntryKind::File { size: 0 })) {
            Ok(_) => made += 1,
            Err(refused) => break refused,
        }
    };
    assert_eq!((made, refused), (10, BadEntry::Metadata));
}

#[test]
fn an_inode_that_a_later_layer_hides_keeps_its_own_count_of_names() {
    let mut rootfs = Rootfs::new(100);
    rootfs.begin_layer();
    let hidden = rootfs.add(entry("a", EntryKind::File { size: 1 })).unwrap().unwrap();
    let link = EntryKind::HardLink { target: b"a".to_vec() };
    rootfs.add(entry("b", link)).unwrap();
    let kept = rootfs.add(entry("c", EntryKind::File { size: 1 })).unwrap().unwrap();
    rootfs.begin_layer();
    for name in [".wh.a", ".wh.b"] {
        rootfs.add(entry(name, EntryKind::File { size: 0 })).unwrap();
    }
    rootfs.add(entry("d", EntryKind::HardLink { target: b"c".to_vec() })).unwrap();
    let links = rootfs.links(rootfs.tree.link_counts());
    assert_eq!((links[hidden.index()], links[kept.index()]), (2, 2));
}
