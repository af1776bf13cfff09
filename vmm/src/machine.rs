//! The machine while it runs: the main thread's event loop, until someone gives a reason to end.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;

use crate::bus::Bus;
use crate::control::{Control, ControlSocket};
use crate::deadline::Deadline;
use crate::exit::{Exit, ExitReason};
use crate::kvm::{KvmCall, Ready, Vm};
use crate::limits::EVENTS_PER_TURN;
use crate::pause::{Gate, Pause};
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
    /// Where commands come from, and what its vCPUs wait at when one says so.
    pub control: Option<(ControlSocket, Arc<Gate>)>,
    /// When it ends at the latest.
    pub deadline: Option<Deadline>,
    /// What whoever started it should be told.
    pub notice: Option<String>,
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
    control: Option<(ControlSocket, Arc<Gate>)>,
    notice: Option<String>,
}

impl Machine {
    /// Puts signals, the exit and devices on one event loop.
    ///
    /// # Errors
    /// When the kernel gives no epoll descriptor.
    pub fn new(parts: Parts) -> Result<Self, MachineError> {
        let Parts { vm, vcpus, bus, exit, signals, devices, socket, control, deadline, notice } =
            parts;
        let mut events =
            EventManager::new_with_capacity(EVENTS_PER_TURN).map_err(MachineError::Events)?;
        let ending = Ending { exit: Arc::clone(&exit), signals, deadline };
        events.add_subscriber(Box::new(ending) as Subscriber);
        for device in devices {
            events.add_subscriber(device);
        }
        bus.marks().machine();
        Ok(Self { vm, events, vcpus, bus, exit, socket, control, notice })
    }

    /// Runs the guest until there is a reason to end.
    ///
    /// # Errors
    /// When a thread cannot be started, or waiting fails.
    pub fn run(&mut self) -> Result<ExitReason, MachineError> {
        let mut threads = Vec::with_capacity(self.vcpus.len());
        for vcpu in self.vcpus.drain(..) {
            threads.push(vcpu.start().map_err(MachineError::Start)?);
        }
        if let Some((socket, gate)) = self.control.take() {
            let pause = Pause::new(gate, threads);
            let devices = self.bus.devices().to_vec();
            let control = Control::new(socket, pause, Arc::clone(&self.exit), devices);
            self.events.add_subscriber(Box::new(control) as Subscriber);
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

    /// What whoever started the machine should be told, if it is not all as they asked.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
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
    /// Has keys overwritten, and takes the socket away. Its device cannot: vCPU threads share it, and they end with the process only.
    fn drop(&mut self) {
        for device in self.bus.devices() {
            device.end();
        }
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
    deadline: Option<Deadline>,
}

impl MutEventSubscriber for Ending {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        // The main loop looks at the reason after every turn.
        if events.fd() == self.signals.event().as_raw_fd() {
            while let Some(number) = self.signals.next() {
                self.exit.end(ExitReason::Signal { number });
            }
        } else if self.deadline.as_ref().is_some_and(Deadline::take) {
            self.exit.end(ExitReason::DeadlinePassed);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let deadline = self.deadline.as_ref().map(|deadline| deadline.event().as_raw_fd());
        let ends = [self.exit.event().as_raw_fd(), self.signals.event().as_raw_fd()];
        for fd in ends.into_iter().chain(deadline) {
            let events = Events::new_raw(fd, EventSet::IN);
            if let Err(error) = ops.add(events) {
                self.exit.end(ExitReason::WorkerDied { what: format!("main loop: {error:?}") });
            }
        }
    }
}
