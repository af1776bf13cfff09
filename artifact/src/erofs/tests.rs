//! Trees become images that erofs-utils and a reader of our own find whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::reader::Reader;
use super::tree::Timestamp;
use super::xattrs::Xattr;
use super::*;

/// One inode of a tree that is to be made.
#[derive(Clone, Debug)]
enum Made {
    Folder,
    File(Vec<u8>),
    Link(String),
    /// Another name of the file that the number chooses.
    Name(usize),
}

/// What is to be made in the folder that the number chooses, under this name.
#[derive(Clone, Debug)]
struct Planned {
    folder: usize,
    name: String,
    made: Made,
    attributes: Attributes,
}

/// What an image must hold.
#[derive(Clone, Debug)]
struct Expected {
    id: InodeId,
    attributes: Attributes,
    content: Option<Vec<u8>>,
    target: Option<String>,
}

/// Makes the tree, and a list of every path that it must have.
fn build(plan: &[Planned]) -> (Tree, BTreeMap<String, Expected>) {
    let root = Attributes::of_root(0o755);
    let mut tree = Tree::new(root.clone());
    let mut expected = BTreeMap::new();
    let mut folders = vec![(String::new(), Tree::ROOT)];
    let mut files: Vec<(InodeId, Expected)> = Vec::new();
    let folder = Expected { id: Tree::ROOT, attributes: root, content: None, target: None };
    expected.insert("/".to_owned(), folder);
    for Planned { folder, name, made, attributes } in plan {
        let (path, parent) = folders[folder % folders.len()].clone();
        let path = format!("{path}/{name}");
        if expected.contains_key(&path) {
            continue;
        }
        let mut entry =
            Expected { id: parent, attributes: attributes.clone(), content: None, target: None };
        let kind = match made {
            Made::Folder => Kind::folder(parent),
            Made::File(content) => {
                entry.content = Some(content.clone());
                Kind::File { size: content.len() as u64 }
            }
            Made::Link(target) => {
                entry.target = Some(target.clone());
                Kind::Link { target: target.as_str().into() }
            }
            Made::Name(which) => {
                if let Some((id, file)) = files.get(which % files.len().max(1)) {
                    tree.children_mut(parent).unwrap().insert(name.as_str().into(), *id);
                    expected.insert(path, file.clone());
                }
                continue;
            }
        };
        let id = tree.add(Inode { attributes: attributes.clone(), kind });
        entry.id = id;
        tree.children_mut(parent).unwrap().insert(name.as_str().into(), id);
        match made {
            Made::Folder => folders.push((path.clone(), id)),
            Made::File(_) => files.push((id, entry.clone())),
            _ => {}
        }
        expected.insert(path, entry);
    }
    (tree, expected)
}

/// Writes the image, the contents of files in pieces of odd sizes and not in their order.
fn write(plan: &[Planned]) -> (File, BTreeMap<String, Expected>) {
    let (tree, expected) = build(plan);
    let contents: BTreeMap<InodeId, &Vec<u8>> =
        expected.values().filter_map(|e| Some((e.id, e.content.as_ref()?))).collect();
    let flat = Flat::new(tree, tempfile::tempfile().unwrap()).unwrap();
    for (id, bytes) in contents.iter().rev() {
        let mut content = flat.content(*id);
        for piece in bytes.chunks(1000) {
            content.write(piece).unwrap();
        }
    }
    (flat.finish().unwrap(), expected)
}

/// Compares an image with what it must hold, as our reader sees it.
fn check_with_reader(image: &File, expected: &BTreeMap<String, Expected>) {
    let reader = Reader::open(image);
    let found = reader.all();
    assert!(found.keys().eq(expected.keys()), "other names");
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    for entry in expected.values() {
        *names.entry(entry.id).or_default() += 1;
    }
    for (path, expected) in expected {
        let found = &found[path];
        let attributes = &expected.attributes;
        assert_eq!(found.mode & 0o7777, attributes.permissions, "{path}");
        assert_eq!((found.user, found.group), (attributes.user, attributes.group), "{path}");
        let modified = Timestamp { seconds: found.seconds, nanoseconds: found.nanoseconds };
        assert_eq!(modified, attributes.modified, "{path}");
        let xattrs = found.xattrs.iter().map(|(name, value)| Xattr::new(name, value).unwrap());
        let mut xattrs: Vec<_> = xattrs.collect();
        xattrs.sort();
        assert_eq!(xattrs, *attributes.xattrs, "{path}");
        match (&expected.content, &expected.target) {
            (Some(content), _) => {
                assert_eq!(found.mode >> 12, 0o10, "{path}");
                assert_eq!(found.links, names[&expected.id], "{path}");
                assert!(reader.content(found) == *content, "{path} differs");
            }
            (_, Some(target)) => {
                assert_eq!(found.mode >> 12, 0o12, "{path}");
                assert_eq!(reader.content(found), target.as_bytes(), "{path}");
            }
            _ => assert_eq!(found.mode >> 12, 0o4, "{path}"),
        }
    }
}

/// Has erofs-utils check an image and take it apart, and compares.
fn check_with_fsck(image: &File, expected: &BTreeMap<String, Expected>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::io::copy(&mut &*image, &mut File::create(&path).unwrap()).unwrap();
    let out = folder.path().join("tree");
    fsck(&path, &[&format!("--extract={}", out.display()), "--no-preserve-owner"]);
    for (name, expected) in expected {
        let path = out.join(name.trim_start_matches('/'));
        let metadata = path.symlink_metadata().unwrap();
        match (&expected.content, &expected.target) {
            (Some(content), _) => {
                let bits = metadata.permissions().mode() & 0o777;
                assert_eq!(bits as u16, expected.attributes.permissions & 0o777, "{name}");
                assert!(fs::read(&path).unwrap() == *content, "{name} differs");
            }
            (_, Some(target)) => {
                assert_eq!(fs::read_link(&path).unwrap(), Path::new(target), "{name}");
            }
            _ => assert!(metadata.is_dir(), "{name}"),
        }
    }
    let found = walk(&out);
    assert_eq!(found, expected.len() - 1, "more names than there should be");
}

fn walk(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| 1 + if e.file_type().unwrap().is_dir() { walk(&e.path()) } else { 0 }).sum()
}

fn fsck(image: &Path, arguments: &[&str]) {
    let output = Command::new("fsck.erofs").args(arguments).arg(image).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fsck.erofs: {said}");
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c!-/:~]{1,3}", "[a-zA-Z0-9._-]{1,30}", "\\PC{1,20}", "[x-z]{200,255}",]
        .prop_filter("a plain name", |name| {
            !name.contains('/') && name != "." && name != ".." && name.len() <= 255
        })
}

fn attributes(folder: bool) -> impl Strategy<Value = Attributes> {
    let owner = || prop_oneof![Just(0), Just(65_535), Just(65_536), any::<u32>()];
    let modified = prop_oneof![
        Just(Timestamp::default()),
        (any::<i32>(), 0..1_000_000_000_u32)
            .prop_map(|(seconds, nanoseconds)| Timestamp { seconds: seconds.into(), nanoseconds })
    ];
    let xattr = ("(user|security)\\.[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..200));
    let xattrs = prop_oneof![
        3 => Just(BTreeMap::new()),
        1 => prop::collection::vec(xattr, 1..40).prop_map(BTreeMap::from_iter),
    ];
    // Who checks the tree may not be root, and must be able to enter folders and read files.
    let bits = if folder { 0o700 } else { 0o400 };
    (0..0o10_000_u16, owner(), owner(), modified, xattrs).prop_map(
        move |(permissions, user, group, modified, xattrs)| {
            let mut xattrs: Vec<_> = xattrs
                .iter()
                .map(|(name, value): (&String, &Vec<u8>)| Xattr::new(name, value).unwrap())
                .collect();
            xattrs.sort();
            xattrs.dedup_by(|a, b| a.key().1 == b.key().1);
            let permissions = permissions | bits;
            Attributes { permissions, user, group, modified, xattrs: xattrs.into() }
        },
    )
}

fn sizes() -> impl Strategy<Value = usize> {
    let near = |block: usize| block.saturating_sub(70)..block + 70;
    prop_oneof![0..200_usize, near(2000), near(4096), near(8192), 0..60_000_usize]
}

fn planned() -> impl Strategy<Value = Planned> {
    let content = (sizes(), any::<u8>(), any::<bool>()).prop_map(|(size, seed, zeros)| {
        let byte =
            move |i: usize| if zeros && i % 8192 < 4096 { 0 } else { seed ^ (i % 251) as u8 };
        (0..size).map(byte).collect()
    });
    let made = prop_oneof![
        3 => Just(Made::Folder),
        6 => content.prop_map(Made::File),
        2 => "[a-z/.]{1,100}|[a-z]{3900,4090}".prop_map(Made::Link),
        2 => any::<usize>().prop_map(Made::Name),
    ];
    (any::<usize>(), names(), made).prop_flat_map(|(folder, name, made)| {
        attributes(matches!(made, Made::Folder)).prop_map(move |attributes| Planned {
            folder,
            name: name.clone(),
            made: made.clone(),
            attributes,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Whatever the tree, two readers find in the image what went in, and it is the same image again.
    #[test]
    fn trees_come_out_as_they_went_in(plan in prop::collection::vec(planned(), 0..60)) {
        let (image, expected) = write(&plan);
        check_with_reader(&image, &expected);
        check_with_fsck(&image, &expected);
        prop_assert!(bytes(&image) == bytes(&write(&plan).0), "two images of one tree differ");
    }
}

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn plain(folder: usize, name: String, made: Made) -> Planned {
    Planned { folder, name, made, attributes: Attributes::of_root(0o755) }
}

#[test]
fn folders_of_many_blocks_hold_every_name() {
    for length in [1, 7, 100, 243, 255] {
        for count in [0, 14, 15, 16, 33, 1000, 5000] {
            let name = |i: usize| format!("{i:0>length$}");
            let plan: Vec<_> = (0..count)
                .filter(|i| name(*i).len() == length)
                .map(|i| plain(0, name(i), Made::File(vec![1])))
                .collect();
            let (image, expected) = write(&plan);
            check_with_reader(&image, &expected);
        }
    }
}

#[test]
fn a_big_folder_is_found_whole_by_erofs_utils() {
    let plan: Vec<_> = (0..30_000)
        .map(|i| plain(0, format!("{}-{i}", "n".repeat(i % 200)), Made::File(Vec::new())))
        .collect();
    let (image, expected) = write(&plan);
    check_with_reader(&image, &expected);
    check_with_fsck(&image, &expected);
}

#[test]
fn a_file_over_4_gib_costs_what_is_in_it() {
    const SIZE: u64 = (5 << 30) + 123;
    let mut tree = Tree::new(Attributes::of_root(0o755));
    let kind = Kind::File { size: SIZE };
    let id = tree.add(Inode { attributes: Attributes::of_root(0o644), kind });
    tree.children_mut(Tree::ROOT).unwrap().insert("big".into(), id);
    let flat = Flat::new(tree, tempfile::tempfile().unwrap()).unwrap();
    let mut content = flat.content(id);
    let zeros = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        content.write(&zeros).unwrap();
    }
    content.write(&[7; 123]).unwrap();
    let image = flat.finish().unwrap();
    let on_disk = image.metadata().unwrap().blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk} bytes on disk");
    let reader = Reader::open(&image);
    assert_eq!(reader.all()["/big"].size, SIZE);
    let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
    fsck(path.as_ref(), &[]);
}

#[test]
fn dump_erofs_agrees_on_the_superblock() {
    let (image, _) = write(&[plain(0, "a".into(), Made::File(vec![1; 5000]))]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, bytes(&image)).unwrap();
    let output = Command::new("dump.erofs").arg("-s").arg(&path).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let value = |key: &str| {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap();
        line.rsplit(' ').next().unwrap().trim().to_owned()
    };
    assert_eq!(value("Filesystem magic number:"), "0xE0F5E1E2");
    assert_eq!(value("Filesystem inode count:"), "2");
    assert_eq!(value("Filesystem root nid:"), "128");
    assert_eq!(value("Filesystem UUID:"), "766f7469-7665-4000-8000-000000000000");
}
