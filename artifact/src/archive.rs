//! Reads a ZIP: first every entry's header, checked and put into a tree, then the contents.
//!
//! Names, sizes and counts are the uploader's. Memory is bounded by `Limits::nodes`, the work by the sizes of file and
//! output; nothing is written before every header has been checked.

use std::io::{self, Read, Seek};

use zip::read::{Config, OwnedZipFileEntry};
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use crate::limits::{Limits, SHOWN_CHARS, TARGET_BYTES};
use crate::tree::{self, BadName, BadTarget, Name, Node};

/// Why a ZIP is refused. Entries are named by the archive's own names, shortened and with odd characters escaped.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file is too big.
    #[error("the archive has {bytes} bytes, more than the {limit} allowed")]
    TooBig {
        /// Its size.
        bytes: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// It is not a ZIP, or its directory is broken.
    #[error("the archive cannot be read as a ZIP")]
    NotAZip(#[source] zip::result::ZipError),
    /// Reading the file failed.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// Too many files, links and folders.
    #[error("the archive holds more than the {limit} files and folders allowed")]
    TooMany {
        /// The most that is allowed.
        limit: usize,
    },
    /// The contents are too big.
    #[error("entry {name:?} takes the contents over the {limit} bytes allowed")]
    TooMuch {
        /// The entry that went over the limit.
        name: String,
        /// The most that is allowed.
        limit: u64,
    },
    /// A name that cannot be used.
    #[error("the name of entry {name:?} {reason}")]
    Name {
        /// The entry.
        name: String,
        /// What is wrong.
        reason: BadName,
    },
    /// A link that cannot be used.
    #[error("entry {name:?} is a symbolic link whose target {target:?} {reason}")]
    Link {
        /// The entry.
        name: String,
        /// Where it points.
        target: String,
        /// What is wrong.
        reason: BadTarget,
    },
    /// Neither a file, a folder nor a link.
    #[error("entry {name:?} is neither a file, a folder nor a symbolic link (mode {mode:o})")]
    Kind {
        /// The entry.
        name: String,
        /// Its Unix mode.
        mode: u32,
    },
    /// A password is needed.
    #[error("entry {name:?} is encrypted")]
    Encrypted {
        /// The entry.
        name: String,
    },
    /// Neither stored nor deflated.
    #[error("entry {name:?} is compressed by a method other than deflate")]
    Method {
        /// The entry.
        name: String,
    },
    /// Two entries share bytes.
    #[error("entry {name:?} overlaps another one")]
    Overlap {
        /// One of them.
        name: String,
    },
    /// The content is broken: the data, the checksum or the size.
    #[error("entry {name:?} is damaged")]
    Damaged {
        /// The entry.
        name: String,
        /// What was found.
        #[source]
        source: zip::result::ZipError,
    },
    /// The content has another size than its header claims.
    #[error("entry {name:?} has another size than the {claimed} bytes that the archive claims")]
    Size {
        /// The entry.
        name: String,
        /// The size in the archive's directory.
        claimed: u64,
    },
}

/// A ZIP whose headers have all been checked.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    reader: R,
    entries: Vec<OwnedZipFileEntry>,
    root: Node,
    limit: u64,
    unzipped: u64,
}

impl<R: Read + Seek> Archive<R> {
    /// Checks every header of an archive. `reader` serves contents, `headers` the same bytes for the directory.
    pub(crate) fn open(
        mut reader: R,
        headers: R,
        limits: &Limits,
    ) -> Result<Archive<R>, ArchiveError> {
        let bytes = reader.seek(io::SeekFrom::End(0)).map_err(ArchiveError::Read)?;
        if bytes > limits.zipped_bytes {
            return Err(ArchiveError::TooBig { bytes, limit: limits.zipped_bytes });
        }
        // Offsets count from the file's beginning: a search for an archive glued to another file would only add work.
        let config = Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
        let mut directory = ZipIterable::try_new(headers, config).map_err(ArchiveError::NotAZip)?;
        if directory.len() > limits.nodes {
            return Err(ArchiveError::TooMany { limit: limits.nodes });
        }
        let mut archive = Archive {
            reader,
            entries: Vec::new(),
            root: Node::implied(),
            limit: limits.unzipped_bytes,
            unzipped: 0,
        };
        let mut ranges = Vec::new();
        let mut nodes = 0;
        for entry in directory.files().map_err(ArchiveError::NotAZip)? {
            let entry = OwnedZipFileEntry::from(entry.map_err(ArchiveError::NotAZip)?);
            ranges.push((archive.range(&entry)?, archive.entries.len()));
            archive.add(entry, &mut nodes)?;
            if nodes > limits.nodes {
                return Err(ArchiveError::TooMany { limit: limits.nodes });
            }
        }
        archive.check_overlap(ranges)?;
        Ok(archive)
    }

    /// The size of all contents read so far, in bytes.
    pub(crate) fn unzipped(&self) -> u64 {
        self.unzipped
    }

    /// The name of an entry, for errors.
    pub(crate) fn name(&self, index: usize) -> String {
        self.entries.get(index).map(|entry| shown(entry.name_raw())).unwrap_or_default()
    }

    /// Takes the tree of files out, to walk it while contents are read.
    pub(crate) fn take_root(&mut self) -> Node {
        std::mem::replace(&mut self.root, Node::implied())
    }

    /// The size of an entry's content as its header has it; [`Archive::read`] gives so much or fails.
    pub(crate) fn claimed(&self, index: usize) -> u64 {
        self.entries.get(index).map_or(0, |entry| entry.as_ref().size())
    }

    /// Reads one entry's content in pieces; `piece` may fail with an error of its own.
    pub(crate) fn read<E: From<ArchiveError>>(
        &mut self,
        index: usize,
        mut piece: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = self.name(index);
        let damaged = |source| ArchiveError::Damaged { name: name.clone(), source };
        let entry = self.entries[index].as_ref();
        let claimed = entry.size();
        let options = ZipReadOptions::new();
        let mut content = entry.with_reader(&mut self.reader, options).map_err(damaged)?;
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = 0;
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error.into()).into()),
            };
            bytes += count as u64;
            self.unzipped += count as u64;
            if self.unzipped > self.limit {
                return Err(ArchiveError::TooMuch { name, limit: self.limit }.into());
            }
            if bytes > claimed {
                return Err(ArchiveError::Size { name, claimed }.into());
            }
            piece(&buffer[..count])?;
        }
        if bytes != claimed {
            return Err(ArchiveError::Size { name, claimed }.into());
        }
        Ok(())
    }

    /// The bytes of the file that an entry occupies, from its local header to the end of its data.
    fn range(&mut self, entry: &OwnedZipFileEntry) -> Result<(u64, u64), ArchiveError> {
        let name = || shown(entry.name_raw());
        if entry.encrypted() {
            return Err(ArchiveError::Encrypted { name: name() });
        }
        if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(ArchiveError::Method { name: name() });
        }
        let content = entry
            .as_ref()
            .with_reader(&mut self.reader, ZipReadOptions::new())
            .map_err(|source| ArchiveError::Damaged { name: name(), source })?;
        let start = content.data_start().unwrap_or_else(|| entry.header_start());
        let end = start.saturating_add(entry.compressed_size());
        Ok((entry.header_start(), end))
    }

    fn check_overlap(&self, mut ranges: Vec<((u64, u64), usize)>) -> Result<(), ArchiveError> {
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if let [((_, end), _), ((start, _), index)] = pair
                && end > start
            {
                return Err(ArchiveError::Overlap { name: self.name(*index) });
            }
        }
        Ok(())
    }

    /// Checks one entry's name and kind and puts it into the tree.
    fn add(&mut self, entry: OwnedZipFileEntry, nodes: &mut usize) -> Result<(), ArchiveError> {
        let index = self.entries.len();
        // The upper half holds a Unix mode if the archive was made where there is one.
        let mode = entry.external_attributes() >> 16;
        let raw = entry.name_raw().to_vec();
        self.entries.push(entry);
        let name = shown(&raw);
        let refuse = |reason| ArchiveError::Name { name: name.clone(), reason };
        let parsed = Name::parse(&raw).map_err(refuse)?;
        let node = match (mode & 0o170_000, parsed.folder) {
            (0o040_000 | 0, true) => {
                Node::Folder { children: Default::default(), mode: folder_mode(mode), listed: true }
            }
            (0o100_000 | 0, false) => Node::File { entry: index, mode: file_mode(mode) },
            (0o120_000, false) => Node::Link { target: self.read_target(index, parsed.depth())? },
            _ => return Err(ArchiveError::Kind { name, mode }),
        };
        tree::insert(&mut self.root, &parsed, node, nodes).map_err(refuse)
    }

    /// Reads and checks where a symbolic link points.
    fn read_target(&mut self, index: usize, depth: usize) -> Result<Box<str>, ArchiveError> {
        let mut target = Vec::new();
        let mut long = false;
        self.read::<ArchiveError>(index, |piece| {
            // The rest of an overlong target is counted and dropped.
            long |= target.len() + piece.len() > TARGET_BYTES;
            if !long {
                target.extend_from_slice(piece);
            }
            Ok(())
        })?;
        let checked =
            if long { Err(BadTarget::NotAPath) } else { tree::check_target(&target, depth) };
        checked.map(Into::into).map_err(|reason| ArchiveError::Link {
            name: self.name(index),
            target: shown(&target),
            reason,
        })
    }
}

/// The mode of a file: what the archive says, but always readable to the function, which runs as another user than the
/// file's owner, and never writable to it or with another's rights.
fn file_mode(mode: u32) -> u32 {
    let mode = if mode & 0o777 == 0 { 0o644 } else { mode };
    let executable = if mode & 0o100 == 0 { 0 } else { 0o111 };
    (mode | 0o444 | executable) & 0o755
}

/// The mode of a folder, which is always open to the function.
fn folder_mode(mode: u32) -> u32 {
    (mode | 0o755) & 0o755
}

/// A name as errors show it.
pub(crate) fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into_owned(),
    }
}
