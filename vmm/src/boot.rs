//! The way of a microVM from its validated spec to a machine that is ready to run, top to bottom.

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VcpuFd;

use crate::bootparams::{self, BootParamsError};
use crate::bus::Bus;
use crate::console::{self, Console, ConsoleError};
use crate::control::ControlSocket;
use crate::deadline::Deadline;
use crate::demand::{self, DemandError, Loading};
use crate::descriptor::{self, Access, FileRef, adopt};
use crate::exit::{Exit, ExitReason, one_line};
use crate::ioapic::{Ioapic, Line};
use crate::kernel::{self, KernelError};
use crate::kvm::{KvmError, Ready, Vm};
use crate::layout::{EBDA, SERIAL_GSI, gsi, mmio_address};
use crate::machine::{Machine, MachineError, Parts, Subscriber};
use crate::marks::Marks;
use crate::memory::{GuestRam, LowMemory, MemoryError};
use crate::mptable;
use crate::pause::{Gate, ImmediateExit};
use crate::registers::{self, RegistersError};
use crate::signals::{self, Signals};
use crate::spec::{EncryptedDiskSpec, KernelMemory, LazyDiskSpec, ValidSpec, VsockSpec};
use crate::userfault::Userfault;
use crate::vcpu::Vcpu;
use crate::virtio::block::{Block, BlockError, BlockSpec, EncryptedSpec, LazySpec};
use crate::virtio::net::{Net, NetError, NetSpec};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{self, Vsock, VsockError};
use crate::virtio::{
    DeviceSubscriber, MmioDevice, MmioError, QUEUE_NOTIFY, VirtioDevice, WorkerError, spawn_worker,
};

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
    /// A device's registers.
    #[error("cannot attach device {index}")]
    Attach {
        /// Its window.
        index: usize,
        /// Why not.
        source: MmioError,
    },
    /// A device's thread.
    #[error("cannot start the worker of device {index}")]
    Worker {
        /// Its window.
        index: usize,
        /// Why not.
        source: WorkerError,
    },
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

/// Makes the machine that `spec` describes; `start_ns` is when this process began. The deadline has been set.
///
/// The virtual machine comes before everything large, and its memory before everything on its I/O
/// bus: [`crate::kvm`] says why.
///
/// # Errors
/// The first step that failed.
pub fn boot(
    spec: ValidSpec,
    start_ns: u64,
    deadline: Option<Deadline>,
) -> Result<Machine, BootError> {
    let signals = Signals::take().map_err(BootError::Signals)?;
    signals::explain_lost_pages().map_err(BootError::Signals)?;
    let exit = Arc::new(Exit::new().map_err(BootError::Exit)?);
    descriptor::make_room();
    let socket = spec.vsock.as_ref().and_then(|vsock| vsock.path.clone());
    let files = Files::open(spec)?;

    let (vm, host) = Vm::create()?;
    let mut filling = Filling::choose(files.kernel_memory, Userfault::open);
    let mut ram = filling.map(files.memory_bytes)?;
    let vm = vm.map(&ram)?.split_irqchip()?;
    let (mut vm, vcpus) = vm.create_vcpus(files.vcpus)?;

    let kernel = kernel::load(&files.kernel, &ram, filling.how)?;
    let initrd = files.initrd.as_ref();
    let initrd = initrd
        .map(|file| bootparams::load_initrd(file, &ram, kernel.end(), filling.how))
        .transpose()?;
    let marks = Marks::new(start_ns, files.marks);
    let attached = attach_all(&mut vm, &ram, &exit, files.devices)?;
    let cmdline = cmdline(attached.console.is_some(), attached.windows.len(), &files.cmdline);
    bootparams::write(&ram, &cmdline, initrd)?;
    ram.write(EBDA, &mptable::table(files.vcpus, &attached.lines))?;
    registers::configure(&vcpus, &host, &ram, kernel.entry)?;

    let loading = filling.start(&mut ram, &exit)?;
    let gate = files.control.as_ref().map(|control| gate(&vcpus, control)).transpose()?;
    let bus = Bus::new(marks, attached.ioapic, attached.console, attached.windows, loading);
    let bus = Arc::new(bus);
    let vcpu =
        |(index, fd)| Vcpu::new(index, fd, Arc::clone(&bus), Arc::clone(&exit), gate.clone());
    let vcpus = (0..).zip(vcpus).map(vcpu).collect();
    let devices = attached.subscribers;
    let control = files.control.zip(gate);
    let notice = filling.notice;
    let parts = Parts { vm, vcpus, bus, exit, signals, devices, socket, control, deadline, notice };
    Ok(Machine::new(parts)?)
}

/// What all vCPUs wait at when the control channel says so.
fn gate(vcpus: &[VcpuFd], control: &ControlSocket) -> Result<Arc<Gate>, BootError> {
    signals::let_kicks_through().map_err(BootError::Pause)?;
    let flags: io::Result<Vec<_>> = vcpus.iter().map(ImmediateExit::of).collect();
    let gate = flags.and_then(|flags| Gate::new(flags, control.answerer()));
    gate.map(Arc::new).map_err(BootError::Pause)
}

/// How guest memory gets its first bytes.
struct Filling {
    how: KernelMemory,
    userfault: Option<Userfault>,
    /// What whoever asked for another way should be told.
    notice: Option<String>,
}

impl Filling {
    /// As asked; on demand if nothing was, and this process may.
    fn choose(asked: Option<KernelMemory>, open: impl FnOnce() -> io::Result<Userfault>) -> Self {
        let (how, userfault, error) = match asked {
            Some(how @ (KernelMemory::Mapped | KernelMemory::Copied)) => (how, None, None),
            Some(KernelMemory::Demand) | None => match open() {
                Ok(userfault) => (KernelMemory::Demand, Some(userfault), None),
                Err(error) => (KernelMemory::Mapped, None, asked.map(|_| error)),
            },
        };
        let notice =
            |error| format!("--kernel-memory demand: mapped instead, no userfaultfd: {error}");
        Self { how, userfault, notice: error.map(notice) }
    }

    fn map(&self, bytes: u64) -> Result<GuestRam, MemoryError> {
        match self.how {
            KernelMemory::Demand => {
                GuestRam::map(bytes, LowMemory::HugePage).map(GuestRam::deferring)
            }
            KernelMemory::Mapped => GuestRam::map(bytes, LowMemory::SmallPages),
            KernelMemory::Copied => GuestRam::map(bytes, LowMemory::HugePage),
        }
    }

    /// Starts what fills memory on demand. All of it has been told, and no vCPU runs.
    fn start(&mut self, ram: &mut GuestRam, exit: &Arc<Exit>) -> Result<Loading, DemandError> {
        let Some(userfault) = self.userfault.take() else { return Ok(Loading::default()) };
        let exit = Arc::clone(exit);
        let failed = move |error: DemandError| {
            exit.end(ExitReason::WorkerDied { what: format!("loader: {}", one_line(&error)) });
        };
        demand::start(userfault, ram.take_deferred(), failed)
    }
}

/// Everything that the spec names, opened.
struct Files {
    kernel: File,
    kernel_memory: Option<KernelMemory>,
    initrd: Option<File>,
    marks: Option<File>,
    control: Option<ControlSocket>,
    vcpus: u8,
    memory_bytes: u64,
    cmdline: String,
    devices: DeviceFiles,
}

/// What devices are made of.
struct DeviceFiles {
    console: Option<File>,
    disks: Vec<BlockSpec>,
    vsock: Option<vsock::VsockSpec>,
    rng: bool,
    net: Option<NetSpec>,
}

impl Files {
    fn open(spec: ValidSpec) -> Result<Self, BootError> {
        let optional = |field, file: Option<FileRef>, access| {
            file.map(|file| open(field, &file, access)).transpose()
        };
        let kernel = open("kernel", &spec.kernel, Access::Read)?;
        let initrd = optional("initrd", spec.initrd, Access::Read)?;
        let marks = optional("marks", spec.marks, Access::Append)?;
        let control = spec.control.map(open_control).transpose()?;
        let disk = |(index, disk): (usize, crate::spec::DiskSpec)| {
            let access = if disk.read_only { Access::Read } else { Access::ReadWrite };
            Ok::<_, BootError>(BlockSpec {
                file: open("disk", &disk.file, access)?,
                read_only: disk.read_only,
                serial: format!("disk{index}"),
                lazy: disk.lazy.map(open_lazy).transpose()?,
                encrypted: disk.encrypted.map(open_encrypted).transpose()?,
                limits: disk.limits,
            })
        };
        let devices = DeviceFiles {
            console: spec.console.as_ref().map(console::open).transpose()?,
            disks: spec.disks.into_iter().enumerate().map(disk).collect::<Result<_, _>>()?,
            vsock: spec.vsock.map(open_vsock).transpose()?,
            rng: spec.rng,
            net: spec.net.map(open_net).transpose()?,
        };
        let (vcpus, memory_bytes, cmdline) = (spec.vcpus, spec.memory_bytes, spec.cmdline);
        let kernel_memory = spec.kernel_memory;
        let files = Self {
            kernel,
            kernel_memory,
            initrd,
            marks,
            control,
            vcpus,
            memory_bytes,
            cmdline,
            devices,
        };
        Ok(files)
    }
}

fn open(field: &'static str, file: &FileRef, access: Access) -> Result<File, BootError> {
    let failed = |source| BootError::Open { field, name: file.to_string(), source };
    file.open(access).map_err(failed)
}

fn open_lazy(spec: LazyDiskSpec) -> Result<LazySpec, BootError> {
    let requests = open("disk requests", &FileRef::Fd(spec.requests), Access::ReadWrite)?;
    Ok(LazySpec {
        presence: open("disk presence", &FileRef::Fd(spec.presence), Access::Read)?,
        requests: UnixStream::from(OwnedFd::from(requests)),
        reads: spec
            .reads
            .map(|fd| open("disk reads", &FileRef::Fd(fd), Access::ReadWrite))
            .transpose()?,
        timeout: Duration::from_millis(spec.timeout_ms.into()),
    })
}

fn open_encrypted(spec: EncryptedDiskSpec) -> Result<EncryptedSpec, BootError> {
    let template = spec.template.as_ref();
    let template = template.map(|file| open("disk template", file, Access::Read)).transpose()?;
    Ok(EncryptedSpec { template })
}

fn open_control(fd: RawFd) -> Result<ControlSocket, BootError> {
    let socket = adopt(fd).and_then(|file| ControlSocket::new(OwnedFd::from(file)));
    socket.map_err(|source| BootError::Open { field: "control", name: format!("fd:{fd}"), source })
}

fn open_vsock(spec: VsockSpec) -> Result<vsock::VsockSpec, BootError> {
    let port = |(port, fd)| match adopt(fd) {
        Ok(file) => Ok((port, OwnedFd::from(file))),
        Err(source) => {
            Err(BootError::Open { field: "vsock port", name: format!("fd:{fd}"), source })
        }
    };
    let ports = spec.ports.into_iter().map(port).collect::<Result<_, _>>()?;
    let path: Option<PathBuf> = spec.path;
    Ok(vsock::VsockSpec { guest_cid: spec.cid, path, ports })
}

fn open_net(spec: crate::spec::NetSpec) -> Result<NetSpec, BootError> {
    let tap = open("net tap", &FileRef::Fd(spec.tap), Access::ReadWrite)?;
    let crate::spec::NetSpec { mac, mtu, receive, send, .. } = spec;
    Ok(NetSpec { tap, mac, mtu, receive, send })
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
) -> Result<Attached, BootError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::new();
    for (index, disk) in files.disks.into_iter().enumerate() {
        let block = Block::new(disk).map_err(|source| BootError::Disk { index, source })?;
        devices.push(Box::new(block));
    }
    let disks = devices.len();
    if let Some(spec) = files.vsock {
        devices.push(Box::new(Vsock::new(spec)?));
    }
    if files.rng {
        devices.push(Box::new(Rng::new()));
    }
    if let Some(spec) = files.net {
        devices.push(Box::new(Net::new(spec)?));
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
        let line = attached.wire(gsi(index));
        let device = MmioDevice::new(device, Arc::clone(ram.shared()), line)
            .map_err(|source| BootError::Attach { index, source })?;
        attached.windows.push(device);
    }
    // I/O events last: each one makes KVM's I/O bus anew.
    for (index, device) in attached.windows.iter().enumerate() {
        vm.connect_notifier(device.notifier(), mmio_address(index) + QUEUE_NOTIFY)?;
        if index < disks {
            let exit = Arc::clone(exit);
            let died = move |error: WorkerError| {
                let what = format!("disk {index}: {}", one_line(&error));
                exit.end(ExitReason::WorkerDied { what });
            };
            spawn_worker(Arc::clone(device), died)
                .map_err(|source| BootError::Worker { index, source })?;
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
