//! A reader of EROFS images for tests, written from the kernel's header and strict where Linux would be.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

const BLOCK: u64 = 4096;

/// One name in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) nid: u64,
    pub(crate) mode: u16,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) links: u32,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
    pub(crate) size: u64,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    head: u64,
    blocks: u64,
    layout: u16,
}

/// An image that is read.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    root: u64,
    mapped: bool,
}

impl Reader {
    /// Checks the superblock.
    pub(crate) fn open(file: &File) -> Reader {
        let reader = Reader { file: file.try_clone().unwrap(), root: 0, mapped: false };
        let mut block = reader.bytes(1024, BLOCK as usize - 1024);
        assert_eq!(u32_at(&block, 0), 0xe0f5_e1e2);
        let checksum = u32_at(&block, 4);
        block[4..8].fill(0);
        assert_eq!(crc32c(&block), checksum);
        assert_eq!(u32_at(&block, 8), 3, "checksum and time of change");
        assert_eq!(block[12], 12, "4 KiB blocks");
        let incompatible = u32_at(&block, 80);
        assert_eq!(incompatible & !4, 0, "nothing but files whose blocks are mapped");
        assert_eq!(u64::from(u32_at(&block, 36)) * BLOCK, file.metadata().unwrap().len());
        let root = u64::from(u16_at(&block, 14));
        let reader = Reader { root, mapped: incompatible == 4, ..reader };
        let inodes: std::collections::BTreeSet<u64> =
            reader.all().values().map(|found| found.nid).collect();
        assert_eq!(u64_at(&block, 16), inodes.len() as u64);
        reader
    }

    /// All names, as paths that begin with a slash.
    pub(crate) fn all(&self) -> BTreeMap<String, Found> {
        let mut all = BTreeMap::new();
        let mut waiting = vec![(String::new(), self.inode(self.root), self.root)];
        while let Some((path, found, above)) = waiting.pop() {
            if found.mode & 0o170_000 == 0o040_000 {
                for (name, nid, kind) in self.names(&found) {
                    match &*name {
                        "." => assert_eq!(nid, found.nid),
                        ".." => assert_eq!(nid, above),
                        name => {
                            let inner = self.inode(nid);
                            assert_eq!(dirent_kind(inner.mode), kind);
                            waiting.push((format!("{path}/{name}"), inner, found.nid));
                        }
                    }
                }
            }
            let path = if path.is_empty() { "/".to_owned() } else { path };
            assert!(all.insert(path, found).is_none(), "each name once");
        }
        all
    }

    /// The data of a file or the target of a link.
    pub(crate) fn content(&self, found: &Found) -> Vec<u8> {
        let inline = found.layout == 2;
        let whole = if inline { found.size - found.size % BLOCK } else { found.size };
        let mut content = Vec::new();
        for (i, block) in self.blocks_of(found).into_iter().enumerate() {
            let length = (whole - i as u64 * BLOCK).min(BLOCK);
            content.extend(self.bytes(block * BLOCK, length as usize));
        }
        if inline {
            let tail = found.nid * 32 + found.head;
            let length = found.size - whole;
            assert!(tail % BLOCK + length <= BLOCK, "inline data crosses a block's end");
            content.extend(self.bytes(tail, length as usize));
        }
        content
    }

    /// The numbers of the blocks that the data of a file, folder or link lies in.
    pub(crate) fn blocks_of(&self, found: &Found) -> Vec<u64> {
        let count = if found.layout == 2 { found.size / BLOCK } else { found.size.div_ceil(BLOCK) };
        if found.layout == 4 {
            let map = (found.nid * 32 + found.head).next_multiple_of(4);
            let map = self.bytes(map, count as usize * 4);
            return (0..count as usize).map(|i| u32_at(&map, i * 4).into()).collect();
        }
        (0..count).map(|i| found.blocks / BLOCK + i).collect()
    }

    /// The content of a file; nothing for what is none.
    pub(crate) fn content_of_file(&self, found: &Found) -> Vec<u8> {
        if found.mode >> 12 == 0o10 { self.content(found) } else { Vec::new() }
    }

    /// The whole image.
    pub(crate) fn bytes_of_image(&self) -> Vec<u8> {
        self.bytes(0, self.file.metadata().unwrap().len() as usize)
    }

    fn inode(&self, nid: u64) -> Found {
        let short = self.bytes(nid * 32, 32);
        let format = u16_at(&short, 0);
        let (layout, extended) = (format >> 1, format & 1 == 1);
        assert!(layout == 0 || layout == 2 || layout == 4 && self.mapped, "{layout}");
        let size = if extended { 64 } else { 32 };
        assert!(nid * 32 % BLOCK + size <= BLOCK, "an inode crosses a block's end");
        let bytes = self.bytes(nid * 32, size as usize);
        let count = u64::from(u16_at(&bytes, 2));
        let xattr_bytes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        let head = size + xattr_bytes;
        let mut found = Found {
            nid,
            mode: u16_at(&bytes, 4),
            user: u16_at(&bytes, 24).into(),
            group: u16_at(&bytes, 26).into(),
            links: u16_at(&bytes, 6).into(),
            seconds: 0,
            nanoseconds: 0,
            size: u32_at(&bytes, 8).into(),
            xattrs: read_xattrs(&self.bytes(nid * 32 + size, xattr_bytes as usize)),
            head,
            blocks: u64::from(u32_at(&bytes, 16)) * BLOCK,
            layout,
        };
        if extended {
            found.user = u32_at(&bytes, 24);
            found.group = u32_at(&bytes, 28);
            found.links = u32_at(&bytes, 44);
            found.seconds = u64_at(&bytes, 32) as i64;
            found.nanoseconds = u32_at(&bytes, 40);
            found.size = u64_at(&bytes, 8);
        }
        found
    }

    fn names(&self, folder: &Found) -> Vec<(String, u64, u8)> {
        let content = self.content(folder);
        let mut names: Vec<(String, u64, u8)> = Vec::new();
        for block in content.chunks(BLOCK as usize) {
            let count = usize::from(u16_at(block, 8)) / 12;
            assert!(count > 0);
            for i in 0..count {
                let start = usize::from(u16_at(block, i * 12 + 8));
                let end = match i + 1 < count {
                    true => usize::from(u16_at(block, i * 12 + 20)),
                    false => start + block[start..].iter().take_while(|b| **b != 0).count(),
                };
                let name = String::from_utf8(block[start..end].to_vec()).unwrap();
                if let Some((last, ..)) = names.last() {
                    assert!(last.as_bytes() < name.as_bytes(), "{last} before {name}");
                }
                names.push((name, u64_at(block, i * 12), block[i * 12 + 10]));
            }
        }
        names
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
}

fn read_xattrs(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut xattrs = BTreeMap::new();
    let mut rest = bytes.get(12..).unwrap_or_default();
    while !rest.is_empty() {
        let (name, value) = (usize::from(rest[0]), usize::from(u16_at(rest, 2)));
        let space = match rest[1] {
            1 => "user.",
            4 => "trusted.",
            6 => "security.",
            other => unreachable!("name space {other}"),
        };
        let full = format!("{space}{}", str::from_utf8(&rest[4..4 + name]).unwrap());
        assert!(xattrs.insert(full, rest[4 + name..4 + name + value].to_vec()).is_none());
        rest = &rest[(4 + name + value).next_multiple_of(4)..];
    }
    xattrs
}

fn dirent_kind(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o120_000 => 7,
        other => unreachable!("mode {other:o}"),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    crc
}
