//! Where devices do their work: a thread of their own, or the main event loop.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{MmioDevice, Wake, log};

#[cfg(test)]
mod tests;

/// Stack of a device thread in bytes: device models keep less than 16 KiB of buffers there.
pub const STACK_BYTES: usize = 128 << 10;

/// Why a worker could not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No thread could be made.
    #[error("start the thread of {device}")]
    Spawn {
        /// Name of the device.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What wakes the worker could not be waited for.
    #[error("wait for notifications of {device}")]
    Wait {
        /// Name of the device.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a device's thread works on.
pub struct Work {
    /// The device.
    pub device: Arc<MmioDevice>,
    /// Where the driver's and the host's events come together.
    pub epoll: Epoll,
    /// Called on that thread, should the work ever end.
    pub died: Box<dyn FnMut(WorkerError) + Send>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("device", &self.device).finish_non_exhaustive()
    }
}

/// Serves a device for as long as the process lives, on a thread of its own: one that may wait for slow storage. It sleeps in
/// a single system call, whose end is all that a notification costs.
pub fn work(Work { device, epoll, died }: &mut Work) {
    let Err(source) = serve(device, epoll);
    died(WorkerError::Wait { device: device.traits().name, source });
}

/// Has a new thread [`work`] on `device`. `died` is called, on that thread, should it ever end.
///
/// # Errors
/// The thread cannot be made.
pub fn spawn_worker(
    device: Arc<MmioDevice>,
    died: impl FnMut(WorkerError) + Send + 'static,
) -> Result<JoinHandle<()>, WorkerError> {
    let name = device.traits().name;
    let failed = |source| WorkerError::Spawn { device: name, source };
    let epoll = Epoll::new().map_err(failed)?;
    let died = Box::new(died);
    thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES)
        .spawn(|| work(&mut Work { device, epoll, died }))
        .map_err(failed)
}

/// Waits for the driver and, if there is one, for the host's side.
fn serve(device: &MmioDevice, epoll: &Epoll) -> io::Result<Infallible> {
    let watch = |fd, events, wake: Wake| {
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, wake as u64))
    };
    // Each signal of the driver's is an edge, so that nothing has to be read.
    watch(device.notifier().as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED, Wake::Guest)?;
    if let Some(host) = device.host_events() {
        watch(host, EventSet::IN, Wake::Host)?;
    }
    loop {
        let mut events = [EpollEvent::default(); 2];
        let count = match epoll.wait(-1, &mut events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        for event in events.iter().take(count) {
            let from_host = event.data() == Wake::Host as u64;
            device.service(if from_host { Wake::Host } else { Wake::Guest });
        }
    }
}

/// Runs a device on an [`event_manager::EventManager`]: one that never waits for anything.
#[derive(Debug)]
pub struct DeviceSubscriber {
    device: Arc<MmioDevice>,
}

impl DeviceSubscriber {
    /// A subscriber for `device`; add it to the event loop with `add_subscriber`.
    pub fn new(device: Arc<MmioDevice>) -> Self {
        DeviceSubscriber { device }
    }
}

impl MutEventSubscriber for DeviceSubscriber {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let host = self.device.host_events().map(|fd| Events::new_raw(fd, EventSet::IN));
        // Each signal of the driver's is an edge, so that nothing has to be read.
        let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let guest = Events::new(self.device.notifier(), edges);
        for events in [Some(guest), host].into_iter().flatten() {
            if let Err(error) = ops.add(events) {
                log(format_args!("{}: watch its events: {error}", self.device.traits().name));
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let from_guest = events.fd() == self.device.notifier().as_raw_fd();
        self.device.service(if from_guest { Wake::Guest } else { Wake::Host });
    }
}
