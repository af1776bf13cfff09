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
use crate::seccomp::{Filter, Install};
use crate::signals::Signals;
use crate::threads::{ThreadId, Waiting};
use crate::vcpu::Vcpu;

/// A device, or the machine's own events, on the main thread.
pub type Subscriber = Box<dyn MutEventSubscriber>;

/// Why the machine could not run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The filter of the main thread's second stage.
    #[error("cannot install a filter on system calls")]
    Filter(#[source] io::Error),
    /// The event loop.
    #[error("cannot wait for events: {0:?}")]
    Events(event_manager::Error),
}

/// What a machine is made of.
pub struct Parts {
    /// KVM's side of it.
    pub vm: Vm<Ready>,
    /// What the main thread waits with, from [`main_loop`].
    pub events: EventManager<Subscriber>,
    /// Its vCPUs, and a thread for each.
    pub vcpus: Vec<(Waiting<Vcpu>, Vcpu)>,
    /// These threads.
    pub vcpu_ids: Vec<ThreadId>,
    /// What answers the guest.
    pub bus: Arc<Bus>,
    /// Where its end is said.
    pub exit: Arc<Exit>,
    /// What fills guest memory while it runs, and installs the main thread's last filter then.
    pub loader: Option<Subscriber>,
    /// Devices that the main thread serves.
    pub devices: Vec<Subscriber>,
    /// The Unix socket that its vsock device listens on.
    pub socket: Option<PathBuf>,
    /// Where commands come from, and what its vCPUs wait at when one says so.
    pub control: Option<(ControlSocket, Arc<Gate>)>,
    /// What whoever started it should be told.
    pub notice: Option<String>,
    /// Whether someone waits to hear that the vCPUs run.
    pub announce: bool,
    /// How filters are installed.
    pub install: Install,
}

/// A machine that has been made whole and not been started.
pub struct Machine {
    parts: Parts,
}

/// What the main thread waits with: signals, the exit and the deadline.
///
/// # Errors
/// When the kernel gives no epoll descriptor.
pub fn main_loop(
    exit: &Arc<Exit>,
    signals: Signals,
    deadline: Option<Arc<Deadline>>,
) -> Result<EventManager<Subscriber>, MachineError> {
    let mut events =
        EventManager::new_with_capacity(EVENTS_PER_TURN).map_err(MachineError::Events)?;
    let ending = Ending { exit: Arc::clone(exit), signals, deadline };
    events.add_subscriber(Box::new(ending) as Subscriber);
    Ok(events)
}

impl Machine {
    /// A machine of these parts.
    #[must_use]
    pub fn new(mut parts: Parts) -> Self {
        for device in parts.devices.drain(..) {
            parts.events.add_subscriber(device);
        }
        parts.bus.marks().machine();
        Self { parts }
    }

    /// Runs the guest until there is a reason to end.
    ///
    /// # Errors
    /// When there is no filter, or waiting fails.
    pub fn run(&mut self) -> Result<ExitReason, MachineError> {
        let Parts {
            events, exit, install, loader, vcpus, vcpu_ids, control, bus, announce, ..
        } = &mut self.parts;
        match loader.take() {
            Some(loader) => drop(events.add_subscriber(loader)),
            None => install(Filter::Main).map_err(MachineError::Filter)?,
        }
        for (thread, vcpu) in vcpus.drain(..) {
            thread.start(vcpu);
        }
        if let Some((socket, gate)) = control.take() {
            let pause = Pause::new(gate, std::mem::take(vcpu_ids));
            if *announce && !socket.announce() {
                return Ok(ExitReason::ControlClosed);
            }
            let devices = bus.devices().to_vec();
            let control = Control::new(socket, pause, Arc::clone(exit), devices);
            events.add_subscriber(Box::new(control) as Subscriber);
        }
        loop {
            events.run().map_err(MachineError::Events)?;
            if let Some(reason) = exit.reason() {
                return Ok(reason);
            }
        }
    }

    /// Every call to KVM that made this machine, in order.
    #[must_use]
    pub fn calls(&self) -> &[KvmCall] {
        self.parts.vm.calls()
    }

    /// What whoever started the machine should be told, if it is not all as they asked.
    #[must_use]
    pub fn notice(&self) -> Option<&str> {
        self.parts.notice.as_deref()
    }

    /// The line that says why the machine ended, and what of its output is missing.
    #[must_use]
    pub fn last_words(&self, reason: &ExitReason) -> String {
        match self.parts.bus.dropped_console_bytes() {
            0 => reason.to_string(),
            bytes => format!("{reason}; {bytes} bytes of console output were dropped"),
        }
    }

    /// Has keys overwritten, and takes the vsock device's socket away. The device cannot: threads share it, and they end with the
    /// process only.
    pub fn put_away(&self) {
        for device in self.parts.bus.devices() {
            device.end();
        }
        if let Some(socket) = &self.parts.socket {
            // It is gone already when somebody else took care.
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// The events that end a machine.
struct Ending {
    exit: Arc<Exit>,
    signals: Signals,
    deadline: Option<Arc<Deadline>>,
}

impl MutEventSubscriber for Ending {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        // The main loop looks at the reason after every turn.
        if events.fd() == self.signals.event().as_raw_fd() {
            while let Some(number) = self.signals.next() {
                self.exit.end(ExitReason::Signal { number });
            }
        } else if self.deadline.as_ref().is_some_and(|deadline| deadline.take()) {
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
