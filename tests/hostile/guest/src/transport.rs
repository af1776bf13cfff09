//! virtio-mmio windows (virtio 1.2 section 4.2.2), and what is behind them.

use crate::command_line::CommandLine;
use crate::machine;
use crate::queue::Queue;

/// Register offsets.
pub(crate) mod register {
    pub(crate) const MAGIC: u64 = 0x00;
    pub(crate) const DEVICE_ID: u64 = 0x08;
    pub(crate) const DEVICE_FEATURES: u64 = 0x10;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(crate) const DRIVER_FEATURES: u64 = 0x20;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(crate) const QUEUE_SEL: u64 = 0x30;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(crate) const QUEUE_NUM: u64 = 0x38;
    pub(crate) const QUEUE_READY: u64 = 0x44;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x50;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x60;
    pub(crate) const INTERRUPT_ACK: u64 = 0x64;
    pub(crate) const STATUS: u64 = 0x70;
    pub(crate) const QUEUE_DESC: u64 = 0x80;
    pub(crate) const QUEUE_DRIVER: u64 = 0x90;
    pub(crate) const QUEUE_DEVICE: u64 = 0xa0;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// Status bits.
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 64;
    pub(crate) const FAILED: u32 = 128;
}

/// Bytes of a window.
pub(crate) const WINDOW_BYTES: u64 = 0x1000;
/// `VIRTIO_F_VERSION_1`.
pub(crate) const VERSION_1: u64 = 1 << 32;
const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// Ticks that anything ordinary may take: seconds.
pub(crate) const PATIENCE_TICKS: u64 = 20_000_000_000;

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its physical address.
    pub(crate) base: u64,
    /// Its place on the command line, which gives it memory of its own.
    pub(crate) index: u64,
}

/// The windows by what is behind them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Devices {
    pub(crate) block: Option<Window>,
    /// The second disk, which is read-only; with votive its second half is asked for from a server that does not have it.
    pub(crate) read_only: Option<Window>,
    /// The third, which votive encrypts.
    pub(crate) encrypted: Option<Window>,
    pub(crate) vsock: Option<Window>,
    pub(crate) rng: Option<Window>,
    pub(crate) net: Option<Window>,
}

impl Devices {
    /// Looks into each window.
    pub(crate) fn find(command_line: &CommandLine<'_>) -> Self {
        let mut devices = Self::default();
        let windows = command_line.windows.iter().filter(|base| **base != 0);
        for (index, base) in (0..).zip(windows) {
            let window = Window { base: *base, index };
            if window.read(register::MAGIC) != MAGIC {
                continue;
            }
            let place = match window.read(register::DEVICE_ID) {
                1 => &mut devices.net,
                2 if devices.block.is_none() => &mut devices.block,
                2 if devices.read_only.is_none() => &mut devices.read_only,
                2 => &mut devices.encrypted,
                4 => &mut devices.rng,
                19 => &mut devices.vsock,
                _ => continue,
            };
            place.get_or_insert(window);
        }
        devices
    }

    /// All that there are, with their names.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, Window)> {
        let named = [
            ("block", self.block),
            ("read-only block", self.read_only),
            ("encrypted block", self.encrypted),
            ("vsock", self.vsock),
            ("rng", self.rng),
            ("net", self.net),
        ];
        named.into_iter().filter_map(|(name, window)| Some((name, window?)))
    }
}

impl Window {
    pub(crate) fn read(self, offset: u64) -> u32 {
        machine::read32(self.base + offset)
    }

    pub(crate) fn write(self, offset: u64, value: u32) {
        machine::write32(self.base + offset, value);
    }

    /// A 64-bit value in two registers.
    pub(crate) fn write_wide(self, offset: u64, value: u64) {
        self.write(offset, value as u32);
        self.write(offset + 4, (value >> 32) as u32);
    }

    pub(crate) fn status(self) -> u32 {
        self.read(register::STATUS)
    }

    pub(crate) fn add_status(self, bits: u32) {
        self.write(register::STATUS, self.status() | bits);
    }

    /// Resets the device and waits until it says so. False if it does not.
    pub(crate) fn reset(self) -> bool {
        self.write(register::STATUS, 0);
        wait_for(PATIENCE_TICKS, || self.status() == 0)
    }

    /// All features that are offered.
    pub(crate) fn offered(self) -> u64 {
        self.write(register::DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(register::DEVICE_FEATURES));
        self.write(register::DEVICE_FEATURES_SEL, 1);
        low | u64::from(self.read(register::DEVICE_FEATURES)) << 32
    }

    pub(crate) fn accept(self, features: u64) {
        for half in 0..2 {
            self.write(register::DRIVER_FEATURES_SEL, half);
            self.write(register::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }

    /// From any state to the one in which queues are set up, with nothing but the current version accepted.
    pub(crate) fn negotiate(self) -> bool {
        self.negotiate_with(VERSION_1)
    }

    /// As [`Window::negotiate`], with these features.
    pub(crate) fn negotiate_with(self, features: u64) -> bool {
        if !self.reset() {
            return false;
        }
        self.write(register::STATUS, status::ACKNOWLEDGE);
        self.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        self.accept(features);
        self.add_status(status::FEATURES_OK);
        self.status() & status::FEATURES_OK != 0
    }

    /// The largest size of a queue; 0 when there is none.
    pub(crate) fn queue_max(self, index: u32) -> u16 {
        self.write(register::QUEUE_SEL, index);
        self.read(register::QUEUE_NUM_MAX) as u16
    }

    /// Tells the device of a queue, whatever its numbers are. True if it took it.
    pub(crate) fn set_queue(self, index: u32, size: u32, rings: [u64; 3]) -> bool {
        self.write(register::QUEUE_SEL, index);
        self.write(register::QUEUE_NUM, size);
        let places = [register::QUEUE_DESC, register::QUEUE_DRIVER, register::QUEUE_DEVICE];
        for (register, address) in places.into_iter().zip(rings) {
            self.write_wide(register, address);
        }
        self.write(register::QUEUE_READY, 1);
        self.read(register::QUEUE_READY) == 1
    }

    /// A queue in the device's own memory, known to the device.
    pub(crate) fn queue(self, index: u32, size: u16) -> Option<Queue> {
        let size = size.min(self.queue_max(index));
        let queue = Queue::new(self, index, size);
        let is_taken = size > 0 && self.set_queue(index, u32::from(size), queue.rings());
        is_taken.then_some(queue)
    }

    pub(crate) fn notify(self, queue: u32) {
        machine::fence();
        self.write(register::QUEUE_NOTIFY, queue);
    }

    /// Acknowledges whatever interrupt there is.
    pub(crate) fn acknowledge(self) {
        let pending = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, pending);
    }
}

/// Waits until something is so, so many ticks at most.
pub(crate) fn wait_for(ticks: u64, mut is_so: impl FnMut() -> bool) -> bool {
    let start = machine::ticks();
    loop {
        if is_so() {
            return true;
        }
        if machine::ticks().wrapping_sub(start) > ticks {
            return false;
        }
        machine::pause();
    }
}
