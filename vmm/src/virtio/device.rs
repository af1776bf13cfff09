//! What a device model is to its transport: plain data and a few calls.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::Rings;
use crate::limiter::Dial;

/// What the transport must know of a device; plain data, asked for once.
#[derive(Clone, Debug)]
pub struct DeviceTraits {
    /// Name in log lines, such as `block`.
    pub name: &'static str,
    /// Device ID (virtio 1.2 section 5).
    pub device_id: u32,
    /// Feature bits of the device itself; the transport adds those it implements.
    pub features: u64,
    /// Largest size of each queue in descriptors, a power of two; the number of entries is the number of queues.
    pub queue_sizes: &'static [u16],
    /// The configuration space. Read-only to the driver; bytes beyond it read as 0.
    pub config: Vec<u8>,
    /// Where its limits are set: a disk's one, a network device's for what it receives and what it sends.
    pub dials: Vec<Arc<Dial>>,
}

/// Why a device is asked to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The driver made buffers available, or the device was just activated.
    Guest,
    /// [`VirtioDevice::host_events`] became readable.
    Host,
}

/// A device model. Its worker owns it: no two of these calls ever overlap.
pub trait VirtioDevice: Send {
    /// Called once, before anything else.
    fn traits(&self) -> DeviceTraits;

    /// The driver said DRIVER_OK with `features` accepted, a subset of those offered. All queues the driver made ready are
    /// valid. [`VirtioDevice::process`] follows with [`Wake::Guest`].
    fn activate(&mut self, features: u64);

    /// Does what there is to do, bounded by the sizes of the queues, and returns. Whatever it put in used rings is made known
    /// to the driver afterwards, in one interrupt. Keeps nothing of guest memory.
    fn process(&mut self, rings: &mut Rings, wake: Wake);

    /// The driver reset the device, or it is about to be activated anew: back to the state after construction. The queues
    /// are gone already. Idempotent.
    fn reset(&mut self);

    /// The machine has ended: overwrites what nobody may find in this host's memory. The device serves errors from then on.
    fn end(&mut self) {}

    /// A descriptor that becomes readable when the host side has work; the worker then calls [`VirtioDevice::process`] with
    /// [`Wake::Host`] if a driver is active. Must be quiet while none is. Asked for once, by the worker.
    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A line that interrupts the guest, once for each time that it is raised.
pub trait Interrupt: fmt::Debug + Send + Sync {
    /// Raises it, from any thread.
    fn raise(&self);
}

/// For whoever watches a device without a machine around it.
impl Interrupt for EventFd {
    fn raise(&self) {
        // Fails only at 2^64 - 2 interrupts that nobody has read.
        let _ = self.write(1);
    }
}
