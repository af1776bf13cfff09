//! The other side: a guest's driver without a guest, for tests and fuzzing of every device through its registers and rings.
//!
//! It plays by the rules unless told otherwise: each register and each word of a ring can also be written at will. The caller
//! plays the worker: [`GuestDriver::run`] does what an event loop would, [`GuestDriver::work`] gives a single turn.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::mmio::{CONFIG, offset, status};
use super::{GuestRam, MmioDevice, VirtioDevice, Wake};

/// Guest physical address of data buffers; rings lie below.
pub const DATA: u64 = 0x4_0000;
/// Bytes of the first region of RAM. The second one follows at once, the third one after a gap.
pub const REGION_BYTES: u64 = 0x20_0000;
/// Start of the third region, of [`REGION_BYTES`] bytes like the others.
pub const HIGH: u64 = 0x1_0000_0000;

/// Room for the rings of one queue: table, available and used ring at 0, 0x2000 and 0x3000.
const QUEUE_BYTES: u64 = 0x8000;
const QUEUES_AT: u64 = 0x1000;

/// More turns than any device takes for what queues and sockets can hold.
pub const TURNS_MAX: usize = 100_000;

const GUEST: u64 = 0;
const HOST: u64 = 1;

/// Flags of a descriptor (virtio 1.2 section 2.7.5).
pub const NEXT: u16 = 1;
/// Device-writable.
pub const WRITE: u16 = 2;

/// One buffer of a chain to offer.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Guest physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The device may write it.
    pub writable: bool,
}

/// A buffer that the device reads.
pub fn readable(addr: u64, len: u32) -> Buffer {
    Buffer { addr, len, writable: false }
}

/// A buffer that the device writes.
pub fn writable(addr: u64, len: u32) -> Buffer {
    Buffer { addr, len, writable: true }
}

/// Where the driver is in one queue.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// See the module.
#[derive(Debug)]
pub struct GuestDriver {
    device: Arc<MmioDevice>,
    interrupt: EventFd,
    ram: GuestRam,
    positions: Vec<Position>,
    event_idx: bool,
    /// What would wake the device's worker.
    epoll: Epoll,
}

/// RAM as the driver expects it: two adjacent regions and one above 4 GiB.
///
/// # Errors
/// The host has no memory for it.
pub fn ram() -> Result<GuestRam, vm_memory::mmap::FromRangesError> {
    let bytes = usize::try_from(REGION_BYTES).unwrap_or(usize::MAX);
    let ranges = [0, REGION_BYTES, HIGH].map(|start| (GuestAddress(start), bytes));
    GuestMemoryMmap::from_ranges(&ranges).map(Arc::new)
}

impl GuestDriver {
    /// A driver for `device`, which is given registers and `ram`.
    ///
    /// # Errors
    /// The device's descriptors cannot be made or watched.
    pub fn new(device: Box<dyn VirtioDevice>, ram: GuestRam) -> io::Result<Self> {
        let interrupt = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        let device = MmioDevice::new(device, Arc::clone(&ram), interrupt.try_clone()?)
            .map_err(io::Error::other)?;
        let queues = device.traits().queue_sizes.len();
        let epoll = Epoll::new()?;
        let watch =
            |fd, data| epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data));
        watch(device.notifier().as_raw_fd(), GUEST)?;
        if let Some(fd) = device.host_events() {
            watch(fd, HOST)?;
        }
        let positions = vec![Position::default(); queues];
        Ok(GuestDriver { device, interrupt, ram, positions, event_idx: false, epoll })
    }

    /// The device.
    pub fn device(&self) -> &Arc<MmioDevice> {
        &self.device
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestMemoryMmap<()> {
        &self.ram
    }

    /// Reads a 32-bit register.
    pub fn get(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Writes a 32-bit register.
    pub fn set(&self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    /// Reads the configuration space at `offset`.
    pub fn config(&self, offset: u64, into: &mut [u8]) {
        self.device.read(CONFIG.saturating_add(offset), into);
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.get(offset::STATUS)
    }

    /// The feature bits that the device offers.
    pub fn offered(&self) -> u64 {
        self.set(offset::DEVICE_FEATURES_SEL, 1);
        let high = self.get(offset::DEVICE_FEATURES);
        self.set(offset::DEVICE_FEATURES_SEL, 0);
        u64::from(high) << 32 | u64::from(self.get(offset::DEVICE_FEATURES))
    }

    /// Resets, negotiates `features`, sets up all queues in their largest size, and says DRIVER_OK. True if the device agreed.
    pub fn start(&mut self, features: u64) -> bool {
        self.negotiate(features);
        for queue in 0..self.positions.len() {
            self.set_up_queue(queue, u16::MAX);
        }
        self.add_status(status::DRIVER_OK);
        self.status() & (status::DRIVER_OK | status::FEATURES_OK)
            == status::DRIVER_OK | status::FEATURES_OK
    }

    /// Section 3.1.1 up to and including FEATURES_OK.
    pub fn negotiate(&mut self, features: u64) {
        self.set(offset::STATUS, 0);
        self.event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        for position in &mut self.positions {
            *position = Position::default();
        }
        self.add_status(status::ACKNOWLEDGE);
        self.add_status(status::DRIVER);
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        self.set(offset::DRIVER_FEATURES_SEL, 0);
        self.set(offset::DRIVER_FEATURES, u32::from_le_bytes([a, b, c, d]));
        self.set(offset::DRIVER_FEATURES_SEL, 1);
        self.set(offset::DRIVER_FEATURES, u32::from_le_bytes([e, f, g, h]));
        self.add_status(status::FEATURES_OK);
    }

    /// Adds a bit to the status.
    pub fn add_status(&self, bits: u32) {
        self.set(offset::STATUS, self.status() | bits);
    }

    /// Makes queue `index` ready with `size` descriptors (or as many as the device allows) and empty rings.
    pub fn set_up_queue(&mut self, index: usize, size: u16) {
        let [table, available, used] = ring_addresses(index);
        let size = size.min(self.device.traits().queue_sizes.get(index).copied().unwrap_or(0));
        for addr in [available, used] {
            // Inside RAM by construction.
            let _ = self.ram.write_obj(0u64, GuestAddress(addr));
        }
        if let Some(position) = self.positions.get_mut(index) {
            *position = Position { size, ..Position::default() };
        }
        self.set(offset::QUEUE_SEL, u32::try_from(index).unwrap_or(u32::MAX));
        self.set(offset::QUEUE_NUM, u32::from(size));
        let registers = [
            (offset::QUEUE_DESC_LOW, table),
            (offset::QUEUE_DRIVER_LOW, available),
            (offset::QUEUE_DEVICE_LOW, used),
        ];
        for (register, addr) in registers {
            let [a, b, c, d, e, f, g, h] = addr.to_le_bytes();
            self.set(register, u32::from_le_bytes([a, b, c, d]));
            self.set(register.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
        }
        self.set(offset::QUEUE_READY, 1);
    }

    /// Writes descriptor `slot` of queue `index` as it stands.
    pub fn write_descriptor(
        &self,
        index: usize,
        slot: u16,
        buffer: (u64, u32),
        flags: u16,
        next: u16,
    ) {
        let [table, ..] = ring_addresses(index);
        let at = table.saturating_add(u64::from(slot).saturating_mul(16));
        let mut bytes = [0; 16];
        let fields: [&[u8]; 4] = [
            &buffer.0.to_le_bytes(),
            &buffer.1.to_le_bytes(),
            &flags.to_le_bytes(),
            &next.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let _ = self.ram.write_slice(&bytes, GuestAddress(at));
    }

    /// Makes a chain of `buffers` available and returns its head. Descriptors are used round robin: the caller sees to it that
    /// no more are outstanding than there are.
    pub fn offer(&mut self, index: usize, buffers: &[Buffer]) -> u16 {
        let Some(&Position { size, next_descriptor: head, .. }) = self.positions.get(index) else {
            return 0;
        };
        let mut slot = head;
        for (left, buffer) in
            buffers.iter().enumerate().map(|(i, b)| (buffers.len().saturating_sub(i), b))
        {
            let next = slot.wrapping_add(1).checked_rem(size).unwrap_or(0);
            let mut flags = if buffer.writable { WRITE } else { 0 };
            if left > 1 {
                flags |= NEXT;
            }
            self.write_descriptor(index, slot, (buffer.addr, buffer.len), flags, next);
            slot = next;
        }
        if let Some(position) = self.positions.get_mut(index) {
            position.next_descriptor = slot;
        }
        self.offer_head(index, head);
        head
    }

    /// Puts `head` into the available ring, whatever it is.
    pub fn offer_head(&mut self, index: usize, head: u16) {
        let [_, ring, _] = ring_addresses(index);
        let Some(position) = self.positions.get_mut(index) else { return };
        let entry = position.available.checked_rem(position.size).unwrap_or(0);
        let at = ring.saturating_add(4).saturating_add(u64::from(entry).saturating_mul(2));
        let _ = self.ram.write_obj(head, GuestAddress(at));
        position.available = position.available.wrapping_add(1);
        let available = position.available;
        self.set_available_index(index, available);
    }

    /// Writes the available index, whatever it is.
    pub fn set_available_index(&self, index: usize, value: u16) {
        let [_, ring, _] = ring_addresses(index);
        let _ = self.ram.store(value, GuestAddress(ring.saturating_add(2)), Ordering::Release);
    }

    /// Writes the flags of the available ring: 1 asks for no interrupts.
    pub fn set_available_flags(&self, index: usize, value: u16) {
        let [_, ring, _] = ring_addresses(index);
        let _ = self.ram.store(value, GuestAddress(ring), Ordering::Release);
    }

    /// Writes `used_event`: an interrupt is wanted when the used index passes `value` (section 2.7.7.1).
    pub fn set_used_event(&self, index: usize, value: u16) {
        let [_, ring, _] = ring_addresses(index);
        let size = self.positions.get(index).map_or(0, |position| position.size);
        let at = ring.saturating_add(4).saturating_add(u64::from(size).saturating_mul(2));
        let _ = self.ram.store(value, GuestAddress(at), Ordering::Release);
    }

    /// Takes the next used chain: head and written bytes.
    pub fn used(&mut self, index: usize) -> Option<(u32, u32)> {
        let [_, _, ring] = ring_addresses(index);
        let position = self.positions.get_mut(index)?;
        let device: u16 =
            self.ram.load(GuestAddress(ring.checked_add(2)?), Ordering::Acquire).ok()?;
        if device == position.used {
            return None;
        }
        let entry = u64::from(position.used.checked_rem(position.size)?);
        let at = GuestAddress(ring.checked_add(4)?.checked_add(entry.checked_mul(8)?)?);
        position.used = position.used.wrapping_add(1);
        let head: u32 = self.ram.read_obj(at).ok()?;
        let len: u32 = self.ram.read_obj(GuestAddress(at.0.checked_add(4)?)).ok()?;
        Some((head, len))
    }

    /// Notifies the device of queue `index`, wanted or not.
    pub fn kick(&self, index: usize) {
        self.set(offset::QUEUE_NOTIFY, u32::try_from(index).unwrap_or(u32::MAX));
    }

    /// Notifies the device of the `added` chains offered last in queue `index`, if it asked for that (section 2.7.10).
    pub fn kick_if_wanted(&self, index: usize, added: u16) {
        let [_, _, ring] = ring_addresses(index);
        let Some(&Position { size, available, .. }) = self.positions.get(index) else { return };
        let load = |addr| self.ram.load::<u16>(GuestAddress(addr), Ordering::Acquire).unwrap_or(0);
        let wanted = if self.event_idx {
            let event =
                load(ring.saturating_add(4).saturating_add(u64::from(size).saturating_mul(8)));
            available.wrapping_sub(event).wrapping_sub(1) < added
        } else {
            load(ring) & 1 == 0
        };
        if wanted {
            self.kick(index);
        }
    }

    /// Turns of the worker until nothing wakes it any more, waiting up to `wait_ms` milliseconds for the first event. How many
    /// turns it took: [`TURNS_MAX`] means that it does not come to rest.
    pub fn run(&self, wait_ms: i32) -> usize {
        let mut wait_ms = wait_ms;
        for turns in 0..TURNS_MAX {
            let mut events = [EpollEvent::default(); 2];
            let count = self.epoll.wait(wait_ms, &mut events).unwrap_or(0);
            if count == 0 {
                return turns;
            }
            wait_ms = 0;
            for event in events.iter().take(count) {
                if event.data() == HOST {
                    self.device.service(Wake::Host);
                } else {
                    // There is something to read, so this does not block.
                    let _ = self.device.notifier().read();
                    self.device.service(Wake::Guest);
                }
            }
        }
        TURNS_MAX
    }

    /// One turn of the worker.
    pub fn work(&self, wake: Wake) {
        self.device.service(wake);
    }

    /// Takes the interrupts raised since the last call; how many.
    pub fn interrupts(&self) -> u64 {
        self.interrupt.read().unwrap_or(0)
    }

    /// What the device raises.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Writes bytes into guest RAM; outside of it nothing happens.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        let _ = self.ram.write_slice(bytes, GuestAddress(addr));
    }

    /// Reads bytes from guest RAM.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let _ = self.ram.read_slice(&mut bytes, GuestAddress(addr));
        bytes
    }
}

/// Descriptor table, available ring and used ring of queue `index`.
pub fn ring_addresses(index: usize) -> [u64; 3] {
    let base = (index as u64).saturating_mul(QUEUE_BYTES).saturating_add(QUEUES_AT);
    [0, 0x2000, 0x3000].map(|at: u64| base.saturating_add(at))
}
