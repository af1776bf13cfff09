//! Inodes: `erofs_inode_compact` where it suffices, and `erofs_inode_extended`.

use super::tree::{Attributes, Kind, Timestamp};
use super::{InodeId, xattrs};

/// Where the data of an inode lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks.
    Plain = 0,
    /// In blocks, but for the bytes after the last whole one, which follow the inode.
    Inline = 2,
    /// In blocks, each anywhere: a map of their numbers follows the inode.
    Mapped = 4,
}

/// How an inode is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// 32 bytes: small owners, few names, no time, less than 4 GiB.
    Compact = 0,
    /// 64 bytes.
    Extended = 1,
}

impl Form {
    /// Size of the inode itself, in bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Form::Compact => 32,
            Form::Extended => 64,
        }
    }

    /// The smallest form that holds all of this.
    pub(super) fn of(attributes: &Attributes, links: u32, size: u64) -> Form {
        let short = |number: u32| u16::try_from(number).is_ok();
        let small = short(attributes.user)
            && short(attributes.group)
            && short(links)
            && u32::try_from(size).is_ok()
            && attributes.modified == Timestamp::default();
        if small { Form::Compact } else { Form::Extended }
    }
}

/// Everything that the bytes of an inode are made of.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) id: InodeId,
    pub(super) form: Form,
    pub(super) layout: DataLayout,
    pub(super) attributes: &'a Attributes,
    pub(super) kind: &'a Kind,
    pub(super) links: u32,
    /// Size of the data, in bytes.
    pub(super) size: u64,
    /// The first of its blocks; for those that are mapped the map's format, which is 0: a number for each block.
    pub(super) block: u32,
}

impl Record<'_> {
    /// Size of the inode and its extended attributes, in bytes: what comes before inline data.
    pub(super) fn head(form: Form, attributes: &Attributes) -> usize {
        form.size() + xattrs::size(&attributes.xattrs)
    }

    /// Appends inode and extended attributes to `bytes`.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let format = self.form as u16 | (self.layout as u16) << 1;
        bytes.extend(format.to_le_bytes());
        bytes.extend(xattrs::count(&self.attributes.xattrs).to_le_bytes());
        bytes.extend((self.kind.file_type() | self.attributes.permissions).to_le_bytes());
        match self.form {
            Form::Compact => self.encode_compact(bytes),
            Form::Extended => self.encode_extended(bytes),
        }
        bytes.resize(start + self.form.size(), 0);
        xattrs::encode(&self.attributes.xattrs, bytes);
    }

    fn encode_compact(&self, bytes: &mut Vec<u8>) {
        const FITS: &str = "the form was chosen by what it holds";
        bytes.extend(u16::try_from(self.links).expect(FITS).to_le_bytes());
        bytes.extend(u32::try_from(self.size).expect(FITS).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(self.id.number().to_le_bytes());
        bytes.extend(u16::try_from(self.attributes.user).expect(FITS).to_le_bytes());
        bytes.extend(u16::try_from(self.attributes.group).expect(FITS).to_le_bytes());
    }

    fn encode_extended(&self, bytes: &mut Vec<u8>) {
        bytes.extend([0; 2]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.block.to_le_bytes());
        bytes.extend(self.id.number().to_le_bytes());
        bytes.extend(self.attributes.user.to_le_bytes());
        bytes.extend(self.attributes.group.to_le_bytes());
        bytes.extend(self.attributes.modified.seconds.to_le_bytes());
        bytes.extend(self.attributes.modified.nanoseconds.to_le_bytes());
        bytes.extend(self.links.to_le_bytes());
    }
}

impl Kind {
    /// The type bits of its mode.
    fn file_type(&self) -> u16 {
        match self {
            Kind::Folder { .. } => 0o040_000,
            Kind::File { .. } => 0o100_000,
            Kind::Link { .. } => 0o120_000,
        }
    }
}
