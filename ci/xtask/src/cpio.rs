//! Writing an initramfs: a cpio archive in the `newc` format, the same bytes for the same input.

use std::fmt::Write as _;

/// An archive being written. All is owned by root and dated at the epoch.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const DEVICE: u32 = 0o020_666;

impl Archive {
    /// An empty archive.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a folder; the one it is in must have been added before.
    pub(crate) fn folder(mut self, name: &str) -> Self {
        self.add(name, FOLDER, &[]);
        self
    }

    /// Adds a file.
    pub(crate) fn file(mut self, name: &str, content: &[u8]) -> Self {
        self.add(name, FILE, content);
        self
    }

    /// Adds an executable file.
    pub(crate) fn program(mut self, name: &str, content: &[u8]) -> Self {
        self.add(name, PROGRAM, content);
        self
    }

    /// Adds a character device that everybody may use.
    pub(crate) fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        self.add_entry(name, DEVICE, (major, minor), &[]);
        self
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.add_entry(name, mode, (0, 0), content);
    }

    fn add_entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        // inode, mode, uid, gid, links, time, size, four device numbers, length of the name with its NUL, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            // Writing to a String cannot fail.
            let _ = write!(header, "{field:08x}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests;
