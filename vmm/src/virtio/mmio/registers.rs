//! The driver-visible registers of one device as a pure state machine (virtio 1.2 sections 2.1, 3.1 and 4.2.2).
//!
//! ```text
//!  0 --ACKNOWLEDGE|DRIVER--> negotiate --FEATURES_OK--> set up queues --DRIVER_OK--> run
//!  ^                         features writable         queue registers              only selectors, notify, ack
//!  +---------------------------- status = 0 from anywhere ------------------------------+
//! ```
//! A write that does not fit the state changes nothing and is counted by the caller.

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use crate::virtio::ring::checked_queue;

/// Device status bits (section 2.1).
pub(crate) mod status {
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    pub(crate) const DRIVER: u32 = 2;
    pub(crate) const DRIVER_OK: u32 = 4;
    pub(crate) const FEATURES_OK: u32 = 8;
    pub(crate) const NEEDS_RESET: u32 = 64;
    pub(crate) const FAILED: u32 = 128;
}

/// Register offsets (section 4.2.2, table 4.1).
pub(crate) mod offset {
    pub(crate) const MAGIC: u64 = 0x00;
    pub(crate) const VERSION: u64 = 0x04;
    pub(crate) const DEVICE_ID: u64 = 0x08;
    pub(crate) const VENDOR_ID: u64 = 0x0c;
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
    pub(crate) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(crate) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(crate) const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub(crate) const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub(crate) const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub(crate) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub(crate) const SHM_LEN_LOW: u64 = 0xb0;
    pub(crate) const SHM_BASE_HIGH: u64 = 0xbc;
    pub(crate) const CONFIG_GENERATION: u64 = 0xfc;
}

const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");
const VERSION_2: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"VOTV");

/// What a register write asks of the transport beyond the registers themselves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The write made no sense in this state; nothing changed.
    Refused,
    /// DRIVER_OK was set.
    Activate,
    /// Status 0 was written; the registers are to be reset once the worker has let go.
    Reset,
    /// The driver made buffers available.
    Notify,
}

/// One queue as the driver set it up.
#[derive(Clone, Copy, Debug)]
struct QueueRegisters {
    max: u16,
    size: u16,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

/// Everything a driver can set.
#[derive(Debug)]
pub(super) struct Registers {
    device_id: u32,
    offered: u64,
    status: u32,
    accepted: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    pub(super) fn new(device_id: u32, offered: u64, queue_sizes: &[u16]) -> Self {
        let queues = queue_sizes.iter().map(|&max| QueueRegisters {
            max,
            size: 0,
            ready: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        });
        Registers {
            device_id,
            offered,
            status: 0,
            accepted: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            queues: queues.collect(),
        }
    }

    /// Back to the state after [`Registers::new`].
    pub(super) fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters {
                max: queue.max,
                size: 0,
                ready: false,
                descriptors: 0,
                driver: 0,
                device: 0,
            };
        }
    }

    /// Features the driver accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    pub(super) fn status(&self) -> u32 {
        self.status
    }

    /// The queues the driver made ready, checked anew against `ram`.
    pub(super) fn activate_queues(&self, ram: &GuestMemoryMmap<()>) -> Vec<Option<Queue>> {
        self.queues.iter().map(|queue| self.checked(queue, ram)).collect()
    }

    fn checked(&self, queue: &QueueRegisters, ram: &GuestMemoryMmap<()>) -> Option<Queue> {
        let addresses = [queue.descriptors, queue.driver, queue.device];
        let event_idx = self.accepted & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        queue
            .ready
            .then(|| checked_queue(ram, queue.max, queue.size, addresses, event_idx))
            .flatten()
    }

    /// The value of a register; `None` for an offset that holds none. Interrupt status and the device's own status bit are
    /// kept by the transport.
    pub(super) fn read(&self, offset: u64) -> Option<u32> {
        let selected = self.selected();
        Some(match offset {
            offset::MAGIC => MAGIC_VALUE,
            offset::VERSION => VERSION_2,
            offset::DEVICE_ID => self.device_id,
            offset::VENDOR_ID => VENDOR,
            offset::DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            offset::QUEUE_NUM_MAX => selected.map_or(0, |queue| u32::from(queue.max)),
            offset::QUEUE_READY => selected.map_or(0, |queue| u32::from(queue.ready)),
            offset::STATUS => self.status,
            // No shared memory regions: length and base read as all ones (section 4.2.2).
            offset::SHM_LEN_LOW..=offset::SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes while the device lives.
            offset::CONFIG_GENERATION => 0,
            _ => return None,
        })
    }

    /// Applies a write to a register other than InterruptACK.
    pub(super) fn write(&mut self, offset: u64, value: u32, ram: &GuestMemoryMmap<()>) -> Effect {
        match offset {
            offset::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            offset::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            offset::QUEUE_SEL => self.queue_sel = value,
            offset::DRIVER_FEATURES => return self.write_features(value),
            offset::STATUS => return self.write_status(value),
            offset::QUEUE_READY => return self.write_ready(value, ram),
            offset::QUEUE_NOTIFY => return self.notify(value),
            _ => return self.write_queue(offset, value),
        }
        Effect::None
    }

    fn write_features(&mut self, value: u32) -> Effect {
        if self.status & (status::DRIVER | status::FEATURES_OK | status::FAILED) != status::DRIVER {
            return Effect::Refused;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.accepted = (self.accepted & !0xffff_ffff) | value,
            1 => self.accepted = (self.accepted & 0xffff_ffff) | (value << 32),
            // Bits past 63 do not exist; saying that none is accepted is no offence.
            _ if value == 0 => {}
            _ => return Effect::Refused,
        }
        Effect::None
    }

    /// Status bits are only ever added, in the order of section 3.1.1; only 0 takes them away.
    fn write_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        // A driver adds bits to what it read, so the device's own bit may come back.
        let value = value & !status::NEEDS_RESET;
        let known = status::ACKNOWLEDGE
            | status::DRIVER
            | status::FEATURES_OK
            | status::DRIVER_OK
            | status::FAILED;
        if value & !known != 0 || self.status & !value != 0 {
            return Effect::Refused;
        }
        let added = value & !self.status;
        let in_order = (value & status::DRIVER == 0 || value & status::ACKNOWLEDGE != 0)
            && (added & status::FEATURES_OK == 0 || self.status & status::DRIVER != 0)
            && (added & status::DRIVER_OK == 0 || self.status & status::FEATURES_OK != 0)
            && (added & !status::FAILED == 0 || self.status & status::FAILED == 0);
        if !in_order {
            return Effect::Refused;
        }
        if added & status::FEATURES_OK != 0 && !self.features_fit() {
            // The driver reads the status back and finds FEATURES_OK missing (section 3.1.1, step 6).
            self.status |= value & !status::FEATURES_OK;
            return Effect::Refused;
        }
        self.status |= value;
        if added & status::DRIVER_OK != 0 { Effect::Activate } else { Effect::None }
    }

    fn features_fit(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn write_ready(&mut self, value: u32, ram: &GuestMemoryMmap<()>) -> Effect {
        let configurable = self.queues_configurable();
        let Some(mut queue) = self.selected().copied() else { return Effect::Refused };
        if value == u32::from(queue.ready) {
            return Effect::None;
        }
        if !configurable || value > 1 {
            return Effect::Refused;
        }
        queue.ready = value == 1;
        if queue.ready && self.checked(&queue, ram).is_none() {
            return Effect::Refused;
        }
        match self.selected_mut() {
            Some(slot) => *slot = queue,
            None => return Effect::Refused,
        }
        Effect::None
    }

    fn notify(&self, value: u32) -> Effect {
        let exists = usize::try_from(value).is_ok_and(|index| index < self.queues.len());
        if exists && self.status & status::DRIVER_OK != 0 {
            Effect::Notify
        } else {
            Effect::Refused
        }
    }

    /// Size and addresses: only between FEATURES_OK and DRIVER_OK, and only while the queue is not ready.
    fn write_queue(&mut self, offset: u64, value: u32) -> Effect {
        let configurable = self.queues_configurable();
        let Some(queue) = self.selected_mut().filter(|queue| configurable && !queue.ready) else {
            return Effect::Refused;
        };
        match offset {
            offset::QUEUE_NUM => match u16::try_from(value) {
                Ok(size) if size.is_power_of_two() && size <= queue.max => queue.size = size,
                _ => return Effect::Refused,
            },
            offset::QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            offset::QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            offset::QUEUE_DRIVER_LOW => set_low(&mut queue.driver, value),
            offset::QUEUE_DRIVER_HIGH => set_high(&mut queue.driver, value),
            offset::QUEUE_DEVICE_LOW => set_low(&mut queue.device, value),
            offset::QUEUE_DEVICE_HIGH => set_high(&mut queue.device, value),
            _ => return Effect::Refused,
        }
        Effect::None
    }

    fn queues_configurable(&self) -> bool {
        self.status & (status::FEATURES_OK | status::DRIVER_OK | status::FAILED)
            == status::FEATURES_OK
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }
}

/// The 32 bits of `features` that `selector` names.
fn half(features: u64, selector: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match selector {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = (*register & !0xffff_ffff) | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = (*register & 0xffff_ffff) | (u64::from(value) << 32);
}
