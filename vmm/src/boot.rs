//! The way of a microVM from its validated spec to a machine that is ready to run, top to bottom.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, SubscriberOps};
use kvm_ioctls::VcpuFd;

use crate::assignment::{AssignmentError, Mailbox, Outcome};
use crate::bootparams::{self, BootParamsError};
use crate::bus::Bus;
use crate::console::{Console, ConsoleError};
use crate::control::ControlSocket;
use crate::deadline::Deadline;
use crate::demand::DemandError;
use crate::descriptor::{self, Descriptors, adopt};
use crate::exit::{Exit, ExitReason, SETUP_FAILED, WRONG_SPEC, one_line};
use crate::ioapic::{Ioapic, Line};
use crate::kernel::{self, KernelError};
use crate::kvm::{KvmError, Ready, Vm};
use crate::layout::{EBDA, SERIAL_GSI, gsi, mmio_address};
use crate::machine::{Machine, MachineError, Parts, Subscriber, main_loop};
use crate::marks::Marks;
use crate::memory::{GuestRam, MemoryError};
use crate::mptable;
use crate::pause::{Gate, ImmediateExit};
use crate::registers::{self, RegistersError};
use crate::seccomp::{Filter, Install};
use crate::signals::{self, Signals};
use crate::spec::{Ahead, SpecError, ValidShell, ValidSpec};
use crate::threads::Waiting;
use crate::userfault::Userfault;
use crate::vcpu::Vcpu;
use crate::virtio::block::{Block, BlockError};
use crate::virtio::net::{Net, NetError};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Vsock, VsockError};
use crate::virtio::{DeviceSubscriber, MmioDevice, QUEUE_NOTIFY, VirtioDevice, Work, WorkerError};

use self::files::{DeviceFiles, Files};
use self::filling::Filling;
use self::shape::{Kit, Threads};

mod files;
mod filling;
mod shape;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file of the spec.
    #[error("cannot open {field} {name}")]
    Open {
        /// The option that names it.
        field: &'static str,
        /// Its name.
        name: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Signals.
    #[error("cannot take signals as events")]
    Signals(#[source] io::Error),
    /// The event that ends the machine.
    #[error("cannot make the machine's exit")]
    Exit(#[source] io::Error),
    /// KVM.
    #[error("cannot make the virtual machine")]
    Kvm(#[from] KvmError),
    /// Guest memory.
    #[error("cannot make guest memory")]
    Memory(#[from] MemoryError),
    /// The kernel.
    #[error("cannot load the kernel")]
    Kernel(#[from] KernelError),
    /// What the kernel is told.
    #[error("cannot tell the kernel how to boot")]
    BootParams(#[from] BootParamsError),
    /// The console.
    #[error("cannot make the console")]
    Console(#[from] ConsoleError),
    /// A disk's file.
    #[error("cannot use disk {index}")]
    Disk {
        /// Its place on the command line, from 0.
        index: usize,
        /// Why not.
        source: BlockError,
    },
    /// The vsock device.
    #[error("cannot make the vsock device")]
    Vsock(#[from] VsockError),
    /// The network device.
    #[error("cannot make the network device")]
    Net(#[from] NetError),
    /// What devices and their threads need of the operating system.
    #[error("cannot make a device's events")]
    Kit(#[source] io::Error),
    /// A thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A filter on system calls.
    #[error("cannot install a filter on system calls")]
    Filter(#[source] io::Error),
    /// A shell's assignment is none.
    #[error("cannot take the assignment")]
    Assignment(#[from] AssignmentError),
    /// What the assignment asks for.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The deadline of an assignment.
    #[error("cannot set the deadline")]
    Deadline(#[source] io::Error),
    /// A shell ended before it became a microVM.
    #[error("{0}")]
    Ended(ExitReason),
    /// What fills guest memory.
    #[error("cannot fill guest memory on demand")]
    Demand(#[from] DemandError),
    /// vCPU state.
    #[error("cannot set up the vcpus")]
    Registers(#[from] RegistersError),
    /// What pauses vCPUs.
    #[error("cannot prepare pauses")]
    Pause(#[source] io::Error),
    /// The main loop.
    #[error("cannot make the main loop")]
    Machine(#[from] MachineError),
}

impl BootError {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Ended(reason) => reason.code(),
            Self::Assignment(_) | Self::Spec(_) => WRONG_SPEC,
            _ => SETUP_FAILED,
        }
    }
}

/// What is to be made.
#[derive(Debug)]
pub enum Order {
    /// This microVM.
    Microvm(Box<ValidSpec>),
    /// A shell, and the microVM that it is assigned.
    Shell(Box<ValidShell>),
}

impl Order {
    /// What has to be known first.
    #[must_use]
    pub fn ahead(&self) -> Ahead {
        match self {
            Self::Microvm(spec) => spec.ahead(),
            Self::Shell(shell) => shell.ahead.clone(),
        }
    }
}

/// Makes the machine that is ordered; `start_ns` is when this process began. A deadline that the order has been given with has
/// been set.
///
/// The virtual machine comes before everything large, and its memory before everything on its I/O
/// bus: [`crate::kvm`] says why. Everything that takes more than few system calls comes before any file's content is looked at,
/// which this thread and all others do under filters that `install` installs. No mapping is taken back, even where
/// something fails: no filter has a call for that, and the process ends.
///
/// # Errors
/// The first step that failed.
pub fn boot(
    order: Order,
    start_ns: u64,
    deadline: Option<Arc<Deadline>>,
    install: Install,
) -> Result<Machine, BootError> {
    // What no tenant has a say in.
    let signals = Signals::take().map_err(BootError::Signals)?;
    signals::explain_lost_pages().map_err(BootError::Signals)?;
    signals::leave_faults_to_the_kernel().map_err(BootError::Signals)?;
    let exit = Arc::new(Exit::new().map_err(BootError::Exit)?);
    descriptor::make_room();
    let ahead = order.ahead();
    let devices = Devices::take(&ahead)?;
    let (shell, files) = match order {
        // Paths can be opened before the filters only. Nothing is read.
        Order::Microvm(spec) => (None, Some(Files::open(*spec, &mut Descriptors::Inherited)?)),
        Order::Shell(shell) => (Some(shell), None),
    };
    let (vm, host) = Vm::create(devices.kvm)?;
    let mut filling = Filling::choose(ahead.kernel_memory, || match &devices.userfaultfd {
        Some(device) => Userfault::open_by(device),
        None => Userfault::open(),
    });
    let mut ram = filling.map(ahead.memory_bytes)?;
    let vm = vm.map(&ram)?.split_irqchip()?;
    let (mut vm, vcpus) = vm.create_vcpus(ahead.vcpus)?;
    let vcpus = ManuallyDrop::new(vcpus);
    registers::configure(&vcpus, &host)?;
    let gate = devices.control.as_ref().map(|control| gate(&vcpus, control)).transpose()?;
    let threads = Threads::spawn(&ahead, install).map_err(BootError::Thread)?;
    let kit = Kit::new(&ahead).map_err(BootError::Kit)?;
    let mut events = main_loop(&exit, signals, deadline.clone())?;
    let filter = if ahead.with_path { Filter::SetupWithPath } else { Filter::Setup };
    let vcpu_ids = threads.are_filtered().map_err(BootError::Filter)?;
    install(filter).map_err(BootError::Filter)?;

    // What the tenant has.
    let announce = shell.is_some();
    let files = match (shell, files, &devices.control) {
        (_, Some(files), _) => files,
        (Some(shell), None, Some(control)) => {
            let (spec, mut received) = assigned(*shell, control, &mut events, &exit)?;
            if let (Some(at_ns), Some(deadline)) = (spec.deadline_ns, &deadline) {
                deadline.set(at_ns).map_err(BootError::Deadline)?;
            }
            Files::open(spec, &mut received)?
        }
        _ => return Err(BootError::Ended(ExitReason::ControlClosed)),
    };
    let socket = files.devices.vsock.as_ref().and_then(|vsock| vsock.path.clone());
    let kernel = kernel::load(&files.kernel, &ram, filling.how)?;
    let initrd = files.initrd.as_ref();
    let initrd = initrd
        .map(|file| bootparams::load_initrd(file, &ram, kernel.end(), filling.how))
        .transpose()?;
    let marks = Marks::new(start_ns, files.marks);
    let attached = attach_all(&mut vm, &ram, &exit, files.devices, kit, threads.disks)?;
    let cmdline = cmdline(attached.console.is_some(), attached.windows.len(), &files.cmdline);
    bootparams::write(&ram, &cmdline, initrd)?;
    ram.write(EBDA, &mptable::table(ahead.vcpus, &attached.lines))?;
    registers::enter(&vcpus, &ram, kernel.entry)?;

    let (loader, loading) = filling.loader(&mut ram, loaded(Arc::clone(&exit), install))?;
    let bus = Bus::new(marks, attached.ioapic, attached.console, attached.windows, loading);
    let bus = Arc::new(bus);
    let vcpu =
        |(index, fd)| Vcpu::new(index, fd, Arc::clone(&bus), Arc::clone(&exit), gate.clone());
    let vcpus = (0..).zip(ManuallyDrop::into_inner(vcpus)).map(vcpu);
    let vcpus = threads.vcpus.into_iter().zip(vcpus).collect();
    let control = devices.control.zip(gate);
    let (devices, notice) = (attached.subscribers, filling.notice);
    let parts = Parts {
        vm,
        events,
        vcpus,
        vcpu_ids,
        bus,
        exit,
        loader,
        devices,
        socket,
        control,
        notice,
        announce,
        install,
    };
    Ok(Machine::new(parts))
}

/// The opened devices and the socket that a process was started with.
struct Devices {
    kvm: Option<OwnedFd>,
    userfaultfd: Option<File>,
    control: Option<ControlSocket>,
}

impl Devices {
    fn take(ahead: &Ahead) -> Result<Self, BootError> {
        let failed = |field, fd: RawFd| {
            move |source| BootError::Open { field, name: format!("fd:{fd}"), source }
        };
        let take = |field, fd: Option<RawFd>| {
            fd.map(|fd| adopt(fd).map_err(failed(field, fd))).transpose()
        };
        let control = |fd| {
            let socket = adopt(fd).and_then(|file| ControlSocket::new(OwnedFd::from(file)));
            socket.map_err(failed("control", fd))
        };
        Ok(Self {
            kvm: take("kvm", ahead.kvm)?.map(OwnedFd::from),
            userfaultfd: take("userfaultfd", ahead.userfaultfd)?,
            control: ahead.control.map(control).transpose()?,
        })
    }
}

/// Waits for a shell's assignment: the whole spec, and what its descriptors' numbers mean.
fn assigned(
    shell: ValidShell,
    control: &ControlSocket,
    events: &mut EventManager<Subscriber>,
    exit: &Arc<Exit>,
) -> Result<(ValidSpec, Descriptors), BootError> {
    let outcome = Outcome::default();
    let mailbox = Mailbox::new(control.file(), Arc::clone(exit), Rc::clone(&outcome));
    let mailbox = events.add_subscriber(Box::new(mailbox) as Subscriber);
    let assigned = loop {
        events.run().map_err(MachineError::Events)?;
        if let Some(reason) = exit.reason() {
            return Err(BootError::Ended(reason));
        }
        if let Some(assigned) = outcome.take() {
            break assigned?;
        }
    };
    events.remove_subscriber(mailbox).map_err(MachineError::Events)?;
    let spec = shell.assign(assigned.options, assigned.descriptors.len())?;
    let received = assigned.descriptors.into_iter().map(Some).collect();
    Ok((spec, Descriptors::Received(received)))
}

/// What is done when guest memory is whole, before any program in the guest runs: this thread is left with less.
fn loaded(exit: Arc<Exit>, install: Install) -> impl FnMut(Result<(), DemandError>) -> bool {
    move |filled| {
        let filled = filled.map_err(|error| one_line(&error));
        let what = filled.and_then(|()| install(Filter::Main).map_err(|error| error.to_string()));
        let Err(what) = what else { return true };
        exit.end(ExitReason::WorkerDied { what: format!("loader: {what}") });
        false
    }
}

/// What all vCPUs wait at when the control channel says so.
fn gate(vcpus: &[VcpuFd], control: &ControlSocket) -> Result<Arc<Gate>, BootError> {
    signals::let_kicks_through().map_err(BootError::Pause)?;
    let flags: io::Result<Vec<_>> = vcpus.iter().map(ImmediateExit::of).collect();
    let gate = flags.and_then(|flags| Gate::new(flags, control.answerer()));
    gate.map(Arc::new).map_err(BootError::Pause)
}

/// The devices of a machine.
struct Attached {
    ioapic: Arc<Ioapic>,
    /// The IOAPIC's pins that something is wired to.
    lines: Vec<u8>,
    console: Option<Console>,
    windows: Vec<Arc<MmioDevice>>,
    subscribers: Vec<Subscriber>,
}

impl Attached {
    /// A line into the IOAPIC for one more device.
    fn wire(&mut self, gsi: u32) -> Line {
        self.lines.push(gsi as u8);
        Line { ioapic: Arc::clone(&self.ioapic), pin: gsi }
    }
}

/// Makes the devices, disks first, and connects each to its interrupt line and its notifications.
fn attach_all(
    vm: &mut Vm<Ready>,
    ram: &GuestRam,
    exit: &Arc<Exit>,
    files: DeviceFiles,
    mut kit: Kit,
    threads: Vec<Waiting<Work>>,
) -> Result<Attached, BootError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (index, disk) in files.disks.into_iter().enumerate() {
        let block = Block::with_watch(disk, kit.watch()?)
            .map_err(|source| BootError::Disk { index, source })?;
        devices.push(Box::new(block));
    }
    let disks = devices.len();
    if let Some(vsock) = files.vsock {
        let vsock = Vsock::assembled(vsock.cid, vsock.listener, vsock.ports, kit.watch()?)?;
        devices.push(Box::new(vsock));
    }
    if files.rng {
        devices.push(Box::new(Rng::new()));
    }
    if let Some(spec) = files.net {
        devices.push(Box::new(Net::with_watch(spec, kit.watch()?)?));
    }
    // Each pin costs a boot eight exits.
    let pins = devices.len().checked_sub(1).map_or(SERIAL_GSI, gsi) as usize + 1;
    let mut attached = Attached {
        ioapic: Arc::new(Ioapic::new(pins, vm.messages())),
        lines: Vec::new(),
        console: None,
        windows: Vec::new(),
        subscribers: Vec::new(),
    };
    if let Some(file) = files.console {
        let line = attached.wire(SERIAL_GSI);
        attached.console = Some(Console::new(file, line));
    }
    for (index, device) in devices.into_iter().enumerate() {
        let (line, ram) = (attached.wire(gsi(index)), Arc::clone(ram.shared()));
        attached.windows.push(MmioDevice::with_notifier(device, ram, line, kit.notifier()?));
    }
    let mut threads = threads.into_iter().take(disks);
    // I/O events last: each one makes KVM's I/O bus anew.
    for (index, device) in attached.windows.iter().enumerate() {
        vm.connect_notifier(device.notifier(), mmio_address(index) + QUEUE_NOTIFY)?;
        if let Some(thread) = threads.next() {
            let (device, exit) = (Arc::clone(device), Arc::clone(exit));
            let epoll = kit.epoll()?;
            let died = Box::new(move |error: WorkerError| {
                let what = format!("disk {index}: {}", one_line(&error));
                exit.end(ExitReason::WorkerDied { what });
            });
            thread.start(Work { device, epoll, died });
        } else {
            attached.subscribers.push(Box::new(DeviceSubscriber::new(Arc::clone(device))));
        }
    }
    Ok(attached)
}

/// The kernel's command line: what this machine needs, its devices, then `text`, which may end in
/// arguments for PID 1.
fn cmdline(console: bool, devices: usize, text: &str) -> String {
    // A panic or a reset becomes a triple fault, at once. With one vCPU, Linux would replace every lock prefix in its text,
    // and so make a copy of nearly every page of it: a fault or two for each.
    let mut line = String::from("reboot=t panic=-1 noreplace-smp");
    // Without a port there is nothing to look for.
    line.push_str(if console { " console=ttyS0" } else { " 8250.nr_uarts=0" });
    for index in 0..devices {
        let (address, gsi) = (mmio_address(index), gsi(index));
        line.push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{gsi}"));
    }
    if !text.is_empty() {
        line.push(' ');
        line.push_str(text);
    }
    line
}

#[cfg(test)]
mod tests;
