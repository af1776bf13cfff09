//! Descriptor chains, read whole and checked before a device sees them.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap};

use super::Nonsense;

/// One buffer of a chain. Its range was inside guest RAM when the chain was read, and guest RAM never shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address of the first byte.
    pub addr: GuestAddress,
    /// Bytes.
    pub len: u32,
}

/// A descriptor chain read whole: first what the device may read, then what it may write.
#[derive(Debug, Default)]
pub struct Chain {
    pub(super) head: u16,
    segments: Vec<Segment>,
    /// Number of leading segments that are device-readable.
    readable: usize,
    readable_bytes: u64,
    writable_bytes: u64,
    /// Descriptors that it takes up, empty ones included.
    pub(super) descriptors: u16,
}

impl Chain {
    /// An empty chain with room for `segments`, to be filled by `Ring::pop` again and again.
    pub fn with_capacity(segments: u16) -> Self {
        Chain { segments: Vec::with_capacity(usize::from(segments)), ..Chain::default() }
    }

    /// Index of the first descriptor: what goes into the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The device-readable buffers, in order; none is empty.
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// The device-writable buffers, in order; none is empty.
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..).unwrap_or_default()
    }

    /// Sum of the device-readable lengths in bytes, below 2^32.
    pub fn readable_bytes(&self) -> u64 {
        self.readable_bytes
    }

    /// Sum of the device-writable lengths in bytes, below 2^32.
    pub fn writable_bytes(&self) -> u64 {
        self.writable_bytes
    }

    /// Fills `into` with the device-readable bytes from `offset` on; false when there are fewer.
    pub fn read_at(&self, ram: &GuestMemoryMmap<()>, offset: u64, into: &mut [u8]) -> bool {
        let mut left = into;
        for part in parts(self.readable(), offset, left.len() as u64) {
            let Some((now, rest)) = left.split_at_mut_checked(part.len as usize) else {
                return false;
            };
            if ram.read_slice(now, part.addr).is_err() {
                return false;
            }
            left = rest;
        }
        left.is_empty()
    }

    /// Copies `from` into the device-writable bytes from `offset` on; false when there is less room.
    pub fn write_at(&self, ram: &GuestMemoryMmap<()>, offset: u64, from: &[u8]) -> bool {
        let mut left = from;
        for part in parts(self.writable(), offset, left.len() as u64) {
            let Some((now, rest)) = left.split_at_checked(part.len as usize) else {
                return false;
            };
            if ram.write_slice(now, part.addr).is_err() {
                return false;
            }
            left = rest;
        }
        left.is_empty()
    }

    /// Reads the chain that starts at `raw`'s head; on an error `self.head` is valid if the error is not [`Nonsense::Head`].
    pub(super) fn fill<M>(
        &mut self,
        raw: DescriptorChain<M>,
        ram: &GuestMemoryMmap<()>,
        queue_size: u16,
    ) -> Result<(), Nonsense>
    where
        M: std::ops::Deref,
        M::Target: GuestMemory,
    {
        self.segments.clear();
        self.head = raw.head_index();
        (self.readable, self.readable_bytes, self.writable_bytes) = (0, 0, 0);
        self.descriptors = 1;
        if self.head >= queue_size {
            return Err(Nonsense::Head);
        }
        let mut seen: u16 = 0;
        let mut more = true;
        for descriptor in raw {
            // An indirect table may be longer than the queue; no chain may (section 2.7.5.3.1).
            if seen == queue_size {
                return Err(Nonsense::Endless);
            }
            seen = seen.saturating_add(1);
            self.descriptors = seen;
            more = descriptor.has_next();
            let segment = Segment { addr: descriptor.addr(), len: descriptor.len() };
            self.push(segment, descriptor.is_write_only(), ram)?;
        }
        match (seen, more) {
            (0, _) => Err(Nonsense::Empty),
            (_, true) => Err(Nonsense::Endless),
            (_, false) => Ok(()),
        }
    }

    fn push(
        &mut self,
        segment: Segment,
        writable: bool,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<(), Nonsense> {
        if segment.len == 0 {
            return Ok(());
        }
        if !GuestMemoryBackend::check_range(ram, segment.addr, segment.len as usize) {
            return Err(Nonsense::Address);
        }
        let sum = if writable {
            &mut self.writable_bytes
        } else {
            if self.segments.len() > self.readable {
                return Err(Nonsense::Order);
            }
            self.readable = self.readable.saturating_add(1);
            &mut self.readable_bytes
        };
        *sum = sum.saturating_add(u64::from(segment.len));
        self.segments.push(segment);
        Ok(())
    }
}

/// The pieces of `segments` that make up `bytes` bytes from `offset` on (fewer when there are fewer). None is empty.
pub(crate) fn parts(
    segments: &[Segment],
    offset: u64,
    bytes: u64,
) -> impl Iterator<Item = Segment> + '_ {
    let mut skip = offset;
    let mut left = bytes;
    segments.iter().filter_map(move |segment| {
        let len = u64::from(segment.len);
        let start = skip.min(len);
        skip = skip.saturating_sub(len);
        let take = len.saturating_sub(start).min(left);
        left = left.saturating_sub(take);
        let addr = GuestAddress(segment.addr.0.checked_add(start)?);
        let len = u32::try_from(take).ok()?;
        (len > 0).then_some(Segment { addr, len })
    })
}
