//! Virtio devices over MMIO (virtio 1.2): the transport, the block, network, entropy and socket devices, and their workers.
//!
//! A device model implements [`VirtioDevice`]; [`MmioDevice`] puts the registers of virtio-mmio version 2 in front of it. vCPU
//! threads touch registers only: they read and write plain fields under a short lock, and hand a finished driver set-up over to
//! the device's *worker*, which is where queues are read and I/O happens.
//!
//! ```text
//!  vCPU threads                     MmioDevice                      worker: own thread (block) or event loop (the others)
//!  read/write ------------> registers (Mutex)
//!  DRIVER_OK  ------------> queues checked, put in the seat, wake eventfd --> activate, process
//!  QueueNotify (ioeventfd) -----------------------------> wake eventfd -----> process
//!  status = 0 ------------> queues taken from the seat (waits for the request in hand), wake --> reset
//!  IRQ <------------------- Interrupt <-------------------------------------- used buffers
//! ```
//!
//! How the machine attaches a device:
//!
//! 1. `MmioDevice::new(Box::new(device), ram, interrupt)` makes the transport (an eventfd, nothing else).
//! 2. [`MmioDevice::read`] and [`MmioDevice::write`] serve the 4 KiB window; they never fail.
//! 3. Its [`Interrupt`] is an edge-triggered line, raised from the device's worker and from vCPU threads.
//! 4. [`MmioDevice::notifier`] goes to `KVM_IOEVENTFD` at window + [`QUEUE_NOTIFY`], length 0 and no datamatch
//!    (`kvm_ioctls::NoDatamatch`): one descriptor serves all queues of the device, so the I/O bus stays short. Without an
//!    ioeventfd the write reaches [`MmioDevice::write`] and has the same effect.
//! 5. Its worker: [`spawn_worker`] for a thread of its own (block), or [`DeviceSubscriber`] on the main event loop (the others).
//!
//! ```text
//! // Signatures, for orientation:
//! MmioDevice::new(device: Box<dyn VirtioDevice>, ram: GuestRam, interrupt: impl Interrupt) -> Result<Arc<MmioDevice>, MmioError>
//! MmioDevice::read(&self, offset: u64, data: &mut [u8])     MmioDevice::write(&self, offset: u64, data: &[u8])
//! MmioDevice::notifier(&self) -> &EventFd
//! spawn_worker(device: Arc<MmioDevice>, died: impl FnOnce(WorkerError) + Send + 'static) -> Result<JoinHandle<()>, WorkerError>
//! DeviceSubscriber::new(device: Arc<MmioDevice>) -> DeviceSubscriber           // event_manager::MutEventSubscriber
//! block::Block::new(block::BlockSpec { file: File, read_only: bool, serial: String, lazy: Option<block::LazySpec>, limits: Limits }) -> Result<Block, BlockError>
//! net::Net::new(net::NetSpec { tap: File, mac: [u8; 6], mtu: u16, receive: Limits, send: Limits }) -> Result<Net, NetError>
//! rng::Rng::new() -> Rng
//! vsock::Vsock::new(vsock::VsockSpec { guest_cid: u32, path: Option<PathBuf>, ports: Vec<(u32, OwnedFd)> }) -> Result<Vsock, VsockError>
//! ```
//! `Vsock::new` binds `path` (and removes it when dropped); nothing else is opened after construction but what the guest's
//! connections need.
//!
//! Everything a guest writes is hostile: nonsense in registers is ignored and counted, a ring that makes no sense makes the device
//! ask for a reset (`DEVICE_NEEDS_RESET`), a bad request gets its error or a used length of 0. Counts are in [`MmioDevice::counts`].

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::GuestMemoryMmap;

pub mod block;
mod device;
pub mod driver;
pub mod fuzz;
mod mmio;
pub mod net;
mod ring;
pub mod rng;
pub mod vsock;
mod watch;
mod worker;

pub use device::{DeviceTraits, Interrupt, VirtioDevice, Wake};
pub use mmio::{Counts, MmioDevice, MmioError, QUEUE_NOTIFY, WINDOW_BYTES, notifier};
pub use ring::{Answer, Chain, LetGo, Nonsense, Rings, Segment};
pub use watch::Watch;
pub use worker::{
    DeviceSubscriber, STACK_BYTES as WORKER_STACK_BYTES, Work, WorkerError, spawn_worker, work,
};

/// Guest RAM as every device sees it. Its bitmap is `()`: dirty pages are not tracked here.
pub type GuestRam = Arc<GuestMemoryMmap<()>>;

/// Lines that devices of this process may write to stderr in all, so that no guest can fill a log or block on it.
const LOG_LINES_MAX: u32 = 256;

/// One line on stderr, for what an operator should know of a device.
fn log(line: fmt::Arguments<'_>) {
    static LINES: AtomicU32 = AtomicU32::new(0);
    if LINES.load(Ordering::Relaxed) < LOG_LINES_MAX {
        LINES.fetch_add(1, Ordering::Relaxed);
        // There is nowhere to complain about a stderr that is gone.
        let _ = writeln!(std::io::stderr(), "votive-vmm: {line}");
    }
}
