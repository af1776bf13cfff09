//! Extended attributes as they follow an inode: `erofs_xattr_ibody_header` and `erofs_xattr_entry`.

/// Size of the header before the attributes of one inode, in bytes. None of ours are shared between inodes.
const HEADER: usize = 12;

/// Size of what stands before one attribute's name, in bytes.
const ENTRY: usize = 4;

/// Longest name, in bytes, its name space included: XATTR_NAME_MAX.
const NAME_BYTES: usize = 255;

/// The name spaces that images may have, and their numbers in EROFS.
const SPACES: &[(&str, u8)] = &[("user.", 1), ("trusted.", 4), ("security.", 6)];

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Xattr {
    space: u8,
    name: Box<str>,
    value: Box<[u8]>,
}

impl Xattr {
    /// An attribute by its full name, such as `user.mime_type`; nothing if EROFS cannot hold it.
    pub(crate) fn new(name: &str, value: &[u8]) -> Option<Xattr> {
        let (space, rest) =
            SPACES.iter().find_map(|(space, number)| Some((*number, name.strip_prefix(space)?)))?;
        let fits =
            !rest.is_empty() && name.len() <= NAME_BYTES && value.len() <= usize::from(u16::MAX);
        fits.then(|| Xattr { space, name: rest.into(), value: value.into() })
    }

    /// Its name space and name, which an inode may have once.
    pub(crate) fn key(&self) -> (u8, &str) {
        (self.space, &self.name)
    }

    fn size(&self) -> usize {
        (ENTRY + self.name.len() + self.value.len()).next_multiple_of(4)
    }
}

/// The bytes that these attributes take after their inode.
pub(crate) fn size(xattrs: &[Xattr]) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    HEADER + xattrs.iter().map(Xattr::size).sum::<usize>()
}

/// The most bytes that [`size`] may be: the inode counts it in a field of sixteen bits. Linux reads at most 64 KiB of a
/// value and lists at most 64 KiB of names, so no more would be of use.
pub(crate) const SIZE_MAX: usize = 64 << 10;

/// The field `i_xattr_icount` of an inode: one for the header, and one for each four bytes after it.
pub(super) fn count(xattrs: &[Xattr]) -> u16 {
    let size = size(xattrs);
    if size == 0 {
        return 0;
    }
    u16::try_from((size - HEADER) / 4 + 1).expect("the sizes are checked against SIZE_MAX")
}

/// Appends the attributes to `bytes`, whose length is a multiple of four.
pub(super) fn encode(xattrs: &[Xattr], bytes: &mut Vec<u8>) {
    if xattrs.is_empty() {
        return;
    }
    bytes.extend([0; HEADER]);
    for xattr in xattrs {
        let end = bytes.len() + xattr.size();
        bytes.push(u8::try_from(xattr.name.len()).expect("checked when it was made"));
        bytes.push(xattr.space);
        let length = u16::try_from(xattr.value.len()).expect("checked when it was made");
        bytes.extend(length.to_le_bytes());
        bytes.extend(xattr.name.as_bytes());
        bytes.extend(&*xattr.value);
        bytes.resize(end, 0);
    }
}
