//! Vectored reads and writes between a file and guest RAM.

#![expect(unsafe_code, reason = "preadv2 and pwritev2 into memory that no reference may point to")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use super::SECTOR_BYTES;
use crate::virtio::ring::parts;
use crate::virtio::{LetGo, Segment};

/// Segments in one system call; a longer request takes several. On the stack: 1 KiB.
pub(super) const SEGMENTS_MAX: usize = 64;
/// Bytes after which a pending reset of the device is looked for.
const BYTES_MAX: u64 = 4 << 20;

/// One request's way between `file` at `offset` and `ram`.
pub(super) struct Transfer<'a> {
    pub(super) file: &'a File,
    pub(super) offset: u64,
    pub(super) ram: &'a GuestMemoryMmap<()>,
    pub(super) let_go: &'a LetGo,
}

impl Transfer<'_> {
    /// Fills `bytes` bytes of `segments`, from their byte `skip` on.
    pub(super) fn read(&self, segments: &[Segment], skip: u64, bytes: u64) -> io::Result<()> {
        self.run(segments, skip, bytes, |vectors, offset| {
            let count = libc::c_int::try_from(vectors.len()).unwrap_or(0);
            // SAFETY: each vector covers guest RAM mapped for as long as `self.ram` is borrowed; the kernel writes there, and
            // no reference to guest RAM exists anywhere. The descriptor is open.
            unsafe { libc::preadv2(self.file.as_raw_fd(), vectors.as_ptr(), count, offset, 0) }
        })
    }

    /// Writes `bytes` bytes of `segments`, from their byte `skip` on, to the file.
    pub(super) fn write(&self, segments: &[Segment], skip: u64, bytes: u64) -> io::Result<()> {
        self.run(segments, skip, bytes, |vectors, offset| {
            let count = libc::c_int::try_from(vectors.len()).unwrap_or(0);
            // SAFETY: as for `preadv2`, with the kernel only reading guest RAM.
            unsafe { libc::pwritev2(self.file.as_raw_fd(), vectors.as_ptr(), count, offset, 0) }
        })
    }

    /// Moves everything, in as many calls as it takes. Each call moves at least a byte or ends the loop.
    fn run(
        &self,
        segments: &[Segment],
        skip: u64,
        bytes: u64,
        call: impl Fn(&[libc::iovec], libc::off_t) -> isize,
    ) -> io::Result<()> {
        let mut done: u64 = 0;
        while done < bytes {
            if self.let_go.is_set() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let mut vectors = Vectors::new();
            let wanted = bytes.saturating_sub(done).min(BYTES_MAX);
            vectors.gather(self.ram, segments, skip.saturating_add(done), wanted);
            let offset = self.offset.checked_add(done).and_then(|at| at.try_into().ok());
            let moved = match offset {
                Some(offset) => call(vectors.as_slice(), offset),
                None => 0,
            };
            match u64::try_from(moved) {
                // The file is shorter than it was when the disk was made.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => done = done.saturating_add(moved),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Transfer<'_> {
    /// What comes after `done` of `bytes` bytes of whole sectors: its first sector, and its length, at most `most`. `None`:
    /// nothing.
    pub(super) fn piece(
        &self,
        done: u64,
        bytes: u64,
        most: usize,
    ) -> io::Result<Option<(u64, usize)>> {
        if self.let_go.is_set() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let left = bytes.saturating_sub(done).min(most as u64);
        let sector = self.offset.saturating_add(done) / SECTOR_BYTES;
        Ok(usize::try_from(left).ok().filter(|left| *left > 0).map(|left| (sector, left)))
    }
}

/// Fills `bytes` from `offset` of `file` on; how many there are before its end.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let vector = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        // SAFETY: the vector covers a slice that is exclusively borrowed. The descriptor is open.
        let moved = unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, at(offset, done)?, 0) };
        match moved_bytes(moved)? {
            Some(0) => break,
            Some(moved) => done = done.saturating_add(moved),
            None => {}
        }
    }
    Ok(done)
}

/// Writes all of `bytes` at `offset` of `file`.
pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let start = rest.as_ptr().cast_mut().cast();
        let vector = libc::iovec { iov_base: start, iov_len: rest.len() };
        // SAFETY: the vector covers a slice that is borrowed, and the kernel reads it only. The descriptor is open.
        let moved = unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, at(offset, done)?, 0) };
        match moved_bytes(moved)? {
            Some(0) => return Err(io::ErrorKind::WriteZero.into()),
            Some(moved) => done = done.saturating_add(moved),
            None => {}
        }
    }
    Ok(())
}

fn at(offset: u64, done: usize) -> io::Result<libc::off_t> {
    let at = offset.checked_add(done as u64).and_then(|at| at.try_into().ok());
    at.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// What a call says that it moved; `None`: a signal came first.
fn moved_bytes(moved: isize) -> io::Result<Option<usize>> {
    match usize::try_from(moved) {
        Ok(moved) => Ok(Some(moved)),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

/// A fixed number of vectors into guest RAM.
struct Vectors {
    vectors: [libc::iovec; SEGMENTS_MAX],
    len: usize,
}

impl Vectors {
    fn new() -> Self {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Vectors { vectors: [empty; SEGMENTS_MAX], len: 0 }
    }

    /// Vectors for as much of `bytes` bytes as fits, from byte `skip` of `segments` on.
    fn gather(&mut self, ram: &GuestMemoryMmap<()>, segments: &[Segment], skip: u64, bytes: u64) {
        for part in parts(segments, skip, bytes) {
            // A buffer that spans two regions of RAM gives two slices.
            for slice in GuestMemoryBackend::get_slices(ram, part.addr, part.len as usize) {
                let (Ok(slice), Some(vector)) = (slice, self.vectors.get_mut(self.len)) else {
                    return;
                };
                vector.iov_base = slice.ptr_guard_mut().as_ptr().cast();
                vector.iov_len = slice.len();
                self.len = self.len.saturating_add(1);
            }
        }
    }

    fn as_slice(&self) -> &[libc::iovec] {
        self.vectors.get(..self.len).unwrap_or_default()
    }
}
