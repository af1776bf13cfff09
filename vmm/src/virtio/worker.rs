//! Where devices do their work: a thread of their own, or the main event loop.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::{MmioDevice, Wake, log};

#[cfg(test)]
mod tests;

/// Stack of a device thread in bytes: device models keep less than 16 KiB of buffers there.
const STACK_BYTES: usize = 128 << 10;

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
    /// The eventfd that wakes the worker could not be read.
    #[error("wait for notifications of {device}")]
    Wait {
        /// Name of the device.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs `device` on a thread of its own, which lives as long as the process: one that may wait for slow storage. It sleeps in
/// a single blocking read; the device must have no host events. `died` is called, on that thread, should it ever end.
///
/// # Errors
/// The thread cannot be made.
pub fn spawn_worker(
    device: Arc<MmioDevice>,
    died: impl FnOnce(WorkerError) + Send + 'static,
) -> Result<JoinHandle<()>, WorkerError> {
    let name = device.traits().name;
    thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES)
        .spawn(move || died(run(&device)))
        .map_err(|source| WorkerError::Spawn { device: name, source })
}

fn run(device: &MmioDevice) -> WorkerError {
    loop {
        match device.notifier().read() {
            Ok(_) => device.service(Wake::Guest),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return WorkerError::Wait { device: device.traits().name, source },
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
        let guest = Events::new(self.device.notifier(), EventSet::IN);
        for events in [Some(guest), host].into_iter().flatten() {
            if let Err(error) = ops.add(events) {
                log(format_args!("{}: watch its events: {error}", self.device.traits().name));
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let notifier = self.device.notifier();
        if std::os::fd::AsRawFd::as_raw_fd(notifier) == events.fd() {
            // Only this thread reads it, and epoll says that there is something: this does not block.
            let _ = notifier.read();
            self.device.service(Wake::Guest);
        } else {
            self.device.service(Wake::Host);
        }
    }
}
