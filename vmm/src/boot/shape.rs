//! What follows from a microVM's shape, whatever it will run: its threads, and kernel objects for its devices.

use std::io;

use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::eventfd::EventFd;

use super::BootError;
use crate::limits::VCPU_STACK_BYTES;
use crate::seccomp::{Filter, Install};
use crate::spec::Ahead;
use crate::threads::{self, ThreadId, Waiting};
use crate::vcpu::Vcpu;
use crate::virtio::{WORKER_STACK_BYTES, Watch, Work, notifier, work};

/// The threads of a shape, all waiting.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) vcpus: Vec<Waiting<Vcpu>>,
    pub(super) disks: Vec<Waiting<Work>>,
}

impl Threads {
    pub(super) fn spawn(shape: &Ahead, install: Install) -> io::Result<Self> {
        let vcpu = |index| {
            let filter = (Filter::Vcpu, install);
            threads::spawn(format!("vcpu{index}"), VCPU_STACK_BYTES, filter, Vcpu::run)
        };
        let disk = |index| {
            let filter = (Filter::Disk, install);
            threads::spawn(format!("disk{index}"), WORKER_STACK_BYTES, filter, work)
        };
        Ok(Self {
            vcpus: (0..shape.vcpus).map(vcpu).collect::<Result<_, _>>()?,
            disks: (0..shape.disks).map(disk).collect::<Result<_, _>>()?,
        })
    }

    /// Waits until each has its filter. The vCPUs' threads.
    pub(super) fn are_filtered(&self) -> io::Result<Vec<ThreadId>> {
        self.disks.iter().try_for_each(|thread| thread.is_ready().map(drop))?;
        self.vcpus.iter().map(Waiting::is_ready).collect()
    }
}

/// What devices need of the kernel, made before there is a filter.
#[derive(Debug)]
pub(super) struct Kit {
    notifiers: Vec<EventFd>,
    watches: Vec<Watch>,
    epolls: Vec<Epoll>,
}

impl Kit {
    pub(super) fn new(shape: &Ahead) -> io::Result<Self> {
        let watches = shape.disks + shape.watchers;
        Ok(Self {
            notifiers: (0..shape.devices).map(|_| notifier()).collect::<Result<_, _>>()?,
            watches: (0..watches).map(|_| Watch::new()).collect::<Result<_, _>>()?,
            epolls: (0..shape.disks).map(|_| Epoll::new()).collect::<Result<_, _>>()?,
        })
    }

    /// What wakes a device.
    pub(super) fn notifier(&mut self) -> Result<EventFd, BootError> {
        taken(&mut self.notifiers)
    }

    /// What a device watches the host's side with.
    pub(super) fn watch(&mut self) -> Result<Watch, BootError> {
        taken(&mut self.watches)
    }

    /// What a disk's thread waits with.
    pub(super) fn epoll(&mut self) -> Result<Epoll, BootError> {
        taken(&mut self.epolls)
    }
}

/// The shape says how many are needed.
fn taken<T>(from: &mut Vec<T>) -> Result<T, BootError> {
    from.pop().ok_or_else(|| BootError::Kit(io::ErrorKind::NotFound.into()))
}
