//! A split virtqueue (virtio 1.2 section 2.7) whose every field may be set to anything.

use crate::layout::{AREA_BYTES, AREAS, BUFFERS, QUEUE_BYTES};
use crate::machine;
use crate::transport::{PATIENCE_TICKS, Window, wait_for};

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
/// The device writes.
pub(crate) const WRITE: u16 = 2;
/// A table of descriptors.
pub(crate) const INDIRECT: u16 = 4;

const DESCRIPTOR_BYTES: u64 = 16;
const AVAILABLE: u64 = 0x6000;
const USED: u64 = 0x8000;
/// Largest size that the places above leave room for.
const SIZE_MAX: u16 = 1024;

/// One queue and what the driver remembers of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) window: Window,
    pub(crate) index: u32,
    pub(crate) size: u16,
    /// Where its rings are.
    pub(crate) base: u64,
    /// The available index as the device was last told.
    pub(crate) available: u16,
    /// The used index up to which everything was seen.
    pub(crate) seen: u16,
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Queue {
    /// An empty queue in its place in the device's area.
    pub(crate) fn new(window: Window, index: u32, size: u16) -> Self {
        let base = area(window) + u64::from(index) * QUEUE_BYTES;
        let size = size.min(SIZE_MAX);
        let entries = u64::from(size);
        machine::zero(base, entries * DESCRIPTOR_BYTES);
        machine::zero(base + AVAILABLE, (entries * 2 + 6).next_multiple_of(8));
        machine::zero(base + USED, (entries * 8 + 6).next_multiple_of(8));
        Self { window, index, size, base, available: 0, seen: 0 }
    }

    /// Descriptors, available ring, used ring.
    pub(crate) fn rings(&self) -> [u64; 3] {
        [self.base, self.base + AVAILABLE, self.base + USED]
    }

    /// Memory of the device for buffers.
    pub(crate) fn buffers(&self) -> u64 {
        buffers(self.window)
    }

    pub(crate) fn set(&self, at: u16, descriptor: Descriptor) {
        write_descriptor(self.base + u64::from(at) * DESCRIPTOR_BYTES, descriptor);
    }

    /// Makes descriptors `0..` a chain; the last has no next.
    pub(crate) fn chain(&self, buffers: &[(u64, u32, u16)]) {
        let last = buffers.len().saturating_sub(1);
        for (at, (address, len, flags)) in buffers.iter().enumerate() {
            let (flags, next) = if at < last { (flags | NEXT, at as u16 + 1) } else { (*flags, 0) };
            self.set(at as u16, Descriptor { address: *address, len: *len, flags, next });
        }
    }

    /// Puts a head into the available ring, and moves its index.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        machine::write16(self.base + AVAILABLE + 4 + slot * 2, head);
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available index.
    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        machine::fence();
        machine::write16(self.base + AVAILABLE + 2, index);
    }

    /// The available ring's flags.
    pub(crate) fn set_flags(&self, flags: u16) {
        machine::write16(self.base + AVAILABLE, flags);
    }

    pub(crate) fn notify(&self) {
        self.window.notify(self.index);
    }

    /// The used index.
    pub(crate) fn used(&self) -> u16 {
        machine::read16(self.base + USED + 2)
    }

    /// The next used entry, head and length, if there is one.
    pub(crate) fn pop(&mut self) -> Option<(u32, u32)> {
        if self.used() == self.seen {
            return None;
        }
        machine::fence();
        let entry = self.base + USED + 4 + u64::from(self.seen % self.size) * 8;
        self.seen = self.seen.wrapping_add(1);
        Some((machine::read32(entry), machine::read32(entry + 4)))
    }

    /// As [`Queue::pop`], after a wait that ends.
    pub(crate) fn wait(&mut self) -> Option<(u32, u32)> {
        self.wait_ticks(PATIENCE_TICKS)
    }

    /// As [`Queue::wait`], so many ticks at most.
    pub(crate) fn wait_ticks(&mut self, ticks: u64) -> Option<(u32, u32)> {
        wait_for(ticks, || self.used() != self.seen);
        self.pop()
    }
}

/// Writes a descriptor to where a table has it.
pub(crate) fn write_descriptor(at: u64, descriptor: Descriptor) {
    machine::write64(at, descriptor.address);
    machine::write32(at + 8, descriptor.len);
    machine::write16(at + 12, descriptor.flags);
    machine::write16(at + 14, descriptor.next);
}

/// Memory of the device behind `window`: its rings, then its buffers.
pub(crate) fn area(window: Window) -> u64 {
    AREAS + window.index * AREA_BYTES
}

/// Memory of the device behind `window` for buffers.
pub(crate) fn buffers(window: Window) -> u64 {
    area(window) + BUFFERS
}
