//! The machine while it runs: the main thread's event loop, until someone gives a reason to end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;

use crate::bus::Bus;
use crate::exit::{Exit, ExitReason};
use crate::kvm::{KvmCall, Ready, Vm};
use crate::limits::EVENTS_PER_TURN;
use crate::signals::Signals;
use crate::vcpu::Vcpu;

/// A device, or the machine's own events, on the main thread.
pub type Subscriber = Box<dyn MutEventSubscriber>;

/// Why the machine could not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A vCPU has no thread.
    #[error("cannot start a vcpu's thread")]
    Start(#[source] io::Error),
    /// The event loop.
    #[error("cannot wait for events: {0:?}")]
    Events(event_manager::Error),
}

/// What a machine is made of.
pub struct Parts {
    /// KVM's side of it.
    pub vm: Vm<Ready>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// What answers the guest.
    pub bus: Arc<Bus>,
    /// Where its end is said.
    pub exit: Arc<Exit>,
    /// Signals that ask for its end.
    pub signals: Signals,
    /// Devices that the main thread serves.
    pub devices: Vec<Subscriber>,
    /// The Unix socket that its vsock device listens on.
    pub socket: Option<PathBuf>,
}

/// A machine that has been made whole and not been started.
pub struct Machine {
    vm: Vm<Ready>,
    /// What the main thread serves.
    events: EventManager<Subscriber>,
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    exit: Arc<Exit>,
    socket: Option<PathBuf>,
}

impl Machine {
    /// Puts signals, the exit and devices on one event loop.
    ///
    /// # Errors
    /// When the kernel gives no epoll descriptor.
    pub fn new(parts: Parts) -> Result<Self, MachineError> {
        let Parts { vm, vcpus, bus, exit, signals, devices, socket } = parts;
        let mut events =
            EventManager::new_with_capacity(EVENTS_PER_TURN).map_err(MachineError::Events)?;
        events.add_subscriber(Box::new(Ending { exit: Arc::clone(&exit), signals }) as Subscriber);
        for device in devices {
            events.add_subscriber(device);
        }
        bus.marks().machine();
        Ok(Self { vm, events, vcpus, bus, exit, socket })
    }

    /// Runs the guest until there is a reason to end.
    ///
    /// # Errors
    /// When a thread cannot be started, or waiting fails.
    pub fn run(&mut self) -> Result<ExitReason, MachineError> {
        for vcpu in self.vcpus.drain(..) {
            vcpu.start().map_err(MachineError::Start)?;
        }
        loop {
            self.events.run().map_err(MachineError::Events)?;
            if let Some(reason) = self.exit.reason() {
                return Ok(reason);
            }
        }
    }

    /// Every call to KVM that made this machine, in order.
    #[must_use]
    pub fn calls(&self) -> &[KvmCall] {
        self.vm.calls()
    }

    /// The line that says why the machine ended, and what of its output is missing.
    #[must_use]
    pub fn last_words(&self, reason: &ExitReason) -> String {
        match self.bus.dropped_console_bytes() {
            0 => reason.to_string(),
            bytes => format!("{reason}; {bytes} bytes of console output were dropped"),
        }
    }
}

impl Drop for Machine {
    /// Takes the socket away. Its device cannot: vCPU threads share it, and they end with the process only.
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // It is gone already when no vCPU was left.
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// The events that end a machine.
struct Ending {
    exit: Arc<Exit>,
    signals: Signals,
}

impl MutEventSubscriber for Ending {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        if events.fd() != std::os::fd::AsRawFd::as_raw_fd(self.signals.event()) {
            // The main loop looks at the reason after every turn.
            return;
        }
        while let Some(number) = self.signals.next() {
            self.exit.end(ExitReason::Signal { number });
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        for events in [
            Events::new(self.exit.event(), EventSet::IN),
            Events::new(self.signals.event(), EventSet::IN),
        ] {
            if let Err(error) = ops.add(events) {
                self.exit.end(ExitReason::WorkerDied { what: format!("main loop: {error:?}") });
            }
        }
    }
}
