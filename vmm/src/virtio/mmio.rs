//! The virtio-mmio transport, version 2 (virtio 1.2 section 4.2.2): one [`MmioDevice`] per device.
//!
//! What a guest could abuse: registers written in any order, from many vCPUs at once, while the worker runs. Registers live
//! behind one lock and follow a strict state machine (`registers`); queues are checked before they are activated and never
//! change afterwards; a reset takes the queues from the worker before the guest can see it. No access can fail or block for
//! longer than the worker needs for the request in hand.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::EventFd;

use self::registers::{Effect, Registers};
pub(super) use self::registers::{offset, status};
use super::ring::{LetGo, Nonsense, Rings};
use super::{DeviceTraits, GuestRam, Interrupt, VirtioDevice, Wake, log};
use crate::limiter::Limits;

mod registers;
#[cfg(test)]
mod tests;

/// Size of a device's window in guest physical memory, in bytes.
pub const WINDOW_BYTES: u64 = 0x1000;
/// Offset of the QueueNotify register: where an ioeventfd belongs.
pub const QUEUE_NOTIFY: u64 = offset::QUEUE_NOTIFY;

/// Offset of the device configuration.
pub(super) const CONFIG: u64 = 0x100;
/// Interrupt status bits (section 4.2.2): a used buffer, a change of configuration (or of the status, section 2.1.2).
const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;
const INTERRUPT_ALL: u32 = INTERRUPT_USED | INTERRUPT_CONFIG;

/// Why a transport could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MmioError {
    /// An eventfd could not be created.
    #[error("create the notifier of {device}")]
    EventFd {
        /// Name of the device.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a device refused so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Register accesses that made no sense: size, alignment, offset, state, value.
    pub registers: u64,
    /// Chains and requests that made no sense.
    pub requests: u64,
    /// Times the device asked for a reset.
    pub needs_reset: u64,
}

/// One virtio-mmio device: registers at a 4 KiB window, shared by vCPU threads and its worker.
pub struct MmioDevice {
    traits: DeviceTraits,
    ram: GuestRam,
    registers: Mutex<Registers>,
    seat: Mutex<Seat>,
    let_go: Arc<LetGo>,
    interrupt_status: AtomicU32,
    needs_reset: AtomicBool,
    refused_registers: AtomicU64,
    refused_requests: AtomicU64,
    resets_needed: AtomicU64,
    interrupt: Box<dyn Interrupt>,
    notifier: EventFd,
}

/// What the worker works with. vCPU threads only ever put queues in and take them out.
struct Seat {
    device: Box<dyn VirtioDevice>,
    rings: Option<Rings>,
    features: u64,
    /// The driver reset the device; the model has not been told yet.
    reset_due: bool,
    /// `rings` are new; the model has not been told yet.
    activate_due: bool,
}

impl std::fmt::Debug for MmioDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioDevice").field("traits", &self.traits).finish_non_exhaustive()
    }
}

impl MmioDevice {
    /// Puts registers in front of `device`, whose buffers will lie in `ram` and which raises `interrupt`.
    ///
    /// # Errors
    /// No eventfd can be created (limit on descriptors).
    pub fn new(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        interrupt: impl Interrupt + 'static,
    ) -> Result<Arc<Self>, MmioError> {
        let notifier = notifier()
            .map_err(|source| MmioError::EventFd { device: device.traits().name, source })?;
        Ok(Self::with_notifier(device, ram, interrupt, notifier))
    }

    /// As [`MmioDevice::new`] with the eventfd that [`notifier`] made before, so that nothing is asked of the operating system.
    pub fn with_notifier(
        device: Box<dyn VirtioDevice>,
        ram: GuestRam,
        interrupt: impl Interrupt + 'static,
        notifier: EventFd,
    ) -> Arc<Self> {
        let traits = device.traits();
        let offered = traits.features | (1 << VIRTIO_F_VERSION_1) | (1 << VIRTIO_RING_F_EVENT_IDX);
        Arc::new(MmioDevice {
            registers: Mutex::new(Registers::new(traits.device_id, offered, traits.queue_sizes)),
            seat: Mutex::new(Seat {
                device,
                rings: None,
                features: 0,
                reset_due: false,
                activate_due: false,
            }),
            traits,
            ram,
            let_go: Arc::default(),
            interrupt_status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            refused_registers: AtomicU64::new(0),
            refused_requests: AtomicU64::new(0),
            resets_needed: AtomicU64::new(0),
            interrupt: Box::new(interrupt),
            notifier,
        })
    }

    /// What the device is.
    pub fn traits(&self) -> &DeviceTraits {
        &self.traits
    }

    /// Wakes the worker: for `KVM_IOEVENTFD` at window + [`QUEUE_NOTIFY`], without datamatch. One for all queues.
    pub fn notifier(&self) -> &EventFd {
        &self.notifier
    }

    /// What was refused so far.
    pub fn counts(&self) -> Counts {
        Counts {
            registers: self.refused_registers.load(Ordering::Relaxed),
            requests: self.refused_requests.load(Ordering::Relaxed),
            needs_reset: self.resets_needed.load(Ordering::Relaxed),
        }
    }

    /// Sets the limits at its `dial`, to be heeded from its next turn on, which is soon; false if there is none. Never waits for
    /// the worker.
    pub fn set_limits(&self, dial: usize, limits: Limits) -> bool {
        let Some(dial) = self.traits.dials.get(dial) else { return false };
        dial.set(limits);
        self.wake();
        true
    }

    /// The machine has ended; see [`VirtioDevice::end`]. Waits for nobody: a worker that is in the middle of a request keeps its
    /// device.
    pub fn end(&self) {
        self.let_go.set(true);
        if let Ok(mut seat) = self.seat.try_lock() {
            seat.device.end();
        }
    }

    /// A guest's read at `offset` in the window. Nonsense reads as 0.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            return self.read_config(offset.saturating_sub(CONFIG), data);
        }
        let Ok(data) = <&mut [u8; 4]>::try_from(data) else { return self.refuse_register() };
        if !offset.is_multiple_of(4) {
            return self.refuse_register();
        }
        let value = match offset {
            // Not behind the lock: an interrupt handler reads it while another vCPU may be resetting the device.
            offset::INTERRUPT_STATUS => Some(self.interrupt_status.load(Ordering::Acquire)),
            _ => self.lock_registers().read(offset),
        };
        let Some(mut value) = value else { return self.refuse_register() };
        if offset == offset::STATUS && self.needs_reset.load(Ordering::Acquire) {
            value |= status::NEEDS_RESET;
        }
        *data = value.to_le_bytes();
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        if !matches!(data.len(), 1 | 2 | 4 | 8) {
            return self.refuse_register();
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.traits.config.iter().skip(start);
        for (to, from) in data.iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    /// A guest's write at `offset` in the window. Nonsense is ignored and counted; so is every write to the configuration,
    /// which is read-only in all devices here.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Ok(&value) = <&[u8; 4]>::try_from(data) else { return self.refuse_register() };
        let value = u32::from_le_bytes(value);
        if offset >= CONFIG {
            return self.refuse_register();
        }
        // Interrupt handlers must not wait for a vCPU that is resetting the device.
        if offset == offset::INTERRUPT_ACK {
            return self.acknowledge(value);
        }
        let mut registers = self.lock_registers();
        match registers.write(offset, value, &self.ram) {
            Effect::None => {}
            Effect::Refused => self.refuse_register(),
            Effect::Activate => self.activate(&registers),
            Effect::Reset => self.reset(&mut registers),
            Effect::Notify => self.wake(),
        }
    }

    fn acknowledge(&self, bits: u32) {
        if bits & !INTERRUPT_ALL != 0 {
            self.refuse_register();
        }
        self.interrupt_status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Hands the queues to the worker.
    fn activate(&self, registers: &Registers) {
        let queues = registers.activate_queues(&self.ram);
        let rings = Rings::new(Arc::clone(&self.ram), queues, Arc::clone(&self.let_go));
        let mut seat = self.lock_seat();
        seat.features = registers.accepted();
        seat.rings = Some(rings);
        seat.activate_due = true;
        drop(seat);
        self.wake();
    }

    /// Takes the queues from the worker, then resets what the guest sees. The model is reset later, by the worker, before
    /// anything else happens to it.
    fn reset(&self, registers: &mut Registers) {
        let was_active = registers.status() & status::DRIVER_OK != 0;
        if was_active {
            self.let_go.set(true);
            let mut seat = self.lock_seat();
            seat.rings = None;
            seat.reset_due = true;
            seat.activate_due = false;
            self.let_go.set(false);
            self.clear_events();
            drop(seat);
            self.wake();
        } else {
            self.clear_events();
        }
        registers.reset();
    }

    fn clear_events(&self) {
        self.interrupt_status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// One turn of the worker: tells the model of a reset or an activation, lets it work, tells the driver.
    pub(super) fn service(&self, wake: Wake) {
        let mut seat = self.lock_seat();
        let Seat { device, rings: place, features, reset_due, activate_due } = &mut *seat;
        if std::mem::take(reset_due) {
            device.reset();
        }
        let Some(rings) = place else { return };
        let wake = if std::mem::take(activate_due) {
            device.reset();
            device.activate(*features);
            Wake::Guest
        } else {
            wake
        };
        device.process(rings, wake);
        let settled = rings.settle();
        if settled.refused > 0 {
            self.refuse_requests(settled.refused, settled.latest);
        }
        if settled.interrupt {
            self.raise(INTERRUPT_USED);
        }
        if settled.broken.is_some() {
            // Until the driver resets the device there is nothing to do, and the host's side must not wake us for it.
            *place = None;
            device.reset();
            self.resets_needed.fetch_add(1, Ordering::Relaxed);
            self.needs_reset.store(true, Ordering::Release);
            self.raise(INTERRUPT_CONFIG);
        } else if settled.again {
            self.wake();
        }
    }

    fn raise(&self, bit: u32) {
        self.interrupt_status.fetch_or(bit, Ordering::AcqRel);
        self.interrupt.raise();
    }

    fn wake(&self) {
        signal(&self.notifier);
    }

    fn refuse_register(&self) {
        self.refused_registers.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts, and says so in a line each time the count reaches the next power of two: at most 64 lines, ever.
    fn refuse_requests(&self, more: u64, latest: Option<Nonsense>) {
        let before = self.refused_requests.fetch_add(more, Ordering::Relaxed);
        let after = before.saturating_add(more);
        if let (true, Some(nonsense)) = (before.checked_ilog2() != after.checked_ilog2(), latest) {
            log(format_args!("{}: {nonsense} ({after} requests refused)", self.traits.name));
        }
    }

    /// The host side's wake-up, if the model has one.
    pub(crate) fn host_events(&self) -> Option<RawFd> {
        self.lock_seat().device.host_events().map(|fd| fd.as_raw_fd())
    }

    fn lock_registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An eventfd to wake a device's worker by.
///
/// # Errors
/// The operating system's (limit on descriptors).
pub fn notifier() -> io::Result<EventFd> {
    // It is read by one worker that has nothing else to do, or that knows that there is something to read.
    EventFd::new(libc::EFD_CLOEXEC)
}

/// Adds 1 to an eventfd.
fn signal(eventfd: &EventFd) {
    // Fails only at 2^64 - 2 unread signals, when the reader is being woken anyway.
    let _ = eventfd.write(1);
}
