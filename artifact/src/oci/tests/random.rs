//! Random layers, flattened by us and by umoci.

use proptest::prelude::*;

use super::layout::{Blob, LayoutFolder, Tar};
use super::{made, unpacked};
use crate::chunk::ChunkReads;
use crate::limits::Limits;
use crate::oci::image_for_starts;

/// One entry of a random layer; all names are short, so that layers get in each other's way.
#[derive(Clone, Debug)]
enum Op {
    File(String, u8),
    Folder(String),
    Link(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        path(),
        path().prop_map(|p| format!("/{p}")),
        path().prop_map(|p| format!("../{p}"))
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::File(path, byte)),
        4 => path().prop_map(Op::Folder),
        1 => (path(), target()).prop_map(|(path, target)| Op::Link(path, target)),
        1 => (path(), path()).prop_map(|(path, target)| Op::HardLink(path, target)),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

fn layer(ops: &[Op]) -> Tar {
    ops.iter().fold(Tar::new().folder("."), |tar, op| match op {
        Op::File(path, byte) => tar.file(path, &vec![*byte; usize::from(*byte) * 40]),
        Op::Folder(path) => tar.folder(path),
        Op::Link(path, target) => tar.link(path, target),
        Op::HardLink(path, target) => tar.hard_link(path, target),
        Op::Whiteout(path) => {
            let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
            tar.file(&format!("{above}/.wh.{name}"), b"")
        }
        Op::Opaque(path) => tar.file(&format!("{path}/.wh..wh..opq"), b""),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// What umoci unpacks, ours holds, whatever starts read of it.
    #[test]
    fn layers_are_flattened_as_umoci_does(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..8), 1..4),
        pages in any::<u128>()
    ) {
        let layout = LayoutFolder::new(layers.iter().map(|ops| Blob::gzip(layer(ops).bytes())));
        layout.tag("tag");
        let bundle = tempfile::tempdir().unwrap();
        let image = made(&layout.source());
        match (image, unpacked::unpack(&layout.path(), "tag", &bundle.path().join("bundle"))) {
            (Ok(image), Ok(())) => {
                let rootfs = bundle.path().join("bundle/rootfs");
                unpacked::compare(&image.file, &rootfs, false);
                let read = [ChunkReads { index: 0, pages }];
                let (source, folder) = (layout.source(), std::env::temp_dir());
                let image = image_for_starts(&source, &folder, &Limits::CONTAINER_IMAGE, &read);
                unpacked::compare(&image.unwrap().file, &rootfs, false);
            }
            (Err(_), Err(_)) => {}
            (image, theirs) => prop_assert!(false, "ours: {:?}, theirs: {theirs:?}", image.err()),
        }
    }
}
