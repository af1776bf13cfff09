//! KVM's virtual machine, made in the one order that is quick.
//!
//! `Vm<Empty> -> Vm<Mapped> -> Vm<Wired> -> Vm<Ready>`: create, then every memory slot, then the
//! interrupt controllers, then vCPUs, then I/O events. Each step consumes the one
//! before it, so another order does not compile. The reason: registering anything on KVM's I/O bus
//! (the interrupt controllers, a timer, an I/O event) starts a grace period that a later memory slot
//! waits for, milliseconds at a time. For the same reason there is no PIT, slots never change, and
//! interrupts are sent as messages: a line would need a routing table that changes as the guest boots.
//!
//! Every call is noted in [`Vm::calls`], so that a test can check the order itself.
#![expect(unsafe_code, reason = "handing guest memory to KVM, and an opened KVM to its crate")]

use std::marker::PhantomData;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::ioapic::Message;
use crate::layout::TSS;
use crate::memory::GuestRam;

/// Most CPUID entries that KVM may report.
const MAX_CPUID_ENTRIES: usize = 256;
/// Tries of a call that a signal interrupted.
const MAX_TRIES: u32 = 5;

/// Why KVM did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No /dev/kvm, or no right to it.
    #[error("cannot open /dev/kvm")]
    Open(#[source] errno::Error),
    /// Another KVM than the one this was written for.
    #[error("/dev/kvm has API version {version}, not {KVM_API_VERSION}")]
    Version {
        /// What it says.
        version: i32,
    },
    /// One call failed.
    #[error("{call:?} failed")]
    Call {
        /// Which one.
        call: KvmCall,
        /// Why.
        source: errno::Error,
    },
}

/// One call to KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmCall {
    /// `KVM_GET_SUPPORTED_CPUID`.
    GetSupportedCpuid,
    /// `KVM_CREATE_VM`.
    CreateVm,
    /// `KVM_SET_TSS_ADDR`.
    SetTssAddress,
    /// `KVM_SET_USER_MEMORY_REGION`.
    SetUserMemoryRegion,
    /// `KVM_ENABLE_CAP` with `KVM_CAP_SPLIT_IRQCHIP`.
    SplitIrqchip,
    /// `KVM_CREATE_VCPU`.
    CreateVcpu,
    /// `KVM_IOEVENTFD`.
    Ioeventfd,
}

/// A virtual machine without memory.
#[derive(Debug)]
pub struct Empty;
/// A virtual machine whose memory will not change any more.
#[derive(Debug)]
pub struct Mapped;
/// A virtual machine with its interrupt controllers.
#[derive(Debug)]
pub struct Wired;
/// A virtual machine with its vCPUs.
#[derive(Debug)]
pub struct Ready;

/// A virtual machine at one stage of being made.
#[derive(Debug)]
pub struct Vm<Stage> {
    fd: Arc<VmFd>,
    calls: Vec<KvmCall>,
    stage: PhantomData<Stage>,
}

/// What this host's KVM can do.
#[derive(Debug)]
pub struct Host {
    /// The CPUID leaves that a guest may see.
    pub cpuid: CpuId,
    /// Whether the local APIC's timer has a deadline mode.
    pub tsc_deadline: bool,
}

impl Vm<Empty> {
    /// Asks KVM what it can do and creates a virtual machine: by `device`, an opened /dev/kvm, or one that is opened here.
    ///
    /// # Errors
    /// When there is no KVM that can be used.
    pub fn create(device: Option<OwnedFd>) -> Result<(Self, Host), KvmError> {
        let kvm = match device {
            // SAFETY: the descriptor is this one's alone; what it opens is found out by its answers.
            Some(device) => unsafe { Kvm::from_raw_fd(device.into_raw_fd()) },
            None => Kvm::new().map_err(KvmError::Open)?,
        };
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::Version { version });
        }
        let mut calls = Vec::with_capacity(64);
        let fd = noted(&mut calls, KvmCall::CreateVm, || kvm.create_vm())?;
        let cpuid = noted(&mut calls, KvmCall::GetSupportedCpuid, || {
            kvm.get_supported_cpuid(MAX_CPUID_ENTRIES)
        })?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        let mut vm = Self { fd: Arc::new(fd), calls, stage: PhantomData };
        vm.call(KvmCall::SetTssAddress, |fd| fd.set_tss_address(TSS as usize))?;
        Ok((vm, Host { cpuid, tsc_deadline }))
    }

    /// Gives the machine all of its memory, for good.
    ///
    /// # Errors
    /// When KVM refuses a slot.
    pub fn map(mut self, ram: &GuestRam) -> Result<Vm<Mapped>, KvmError> {
        for (slot, (gpa, bytes, host)) in (0..).zip(ram.slots()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: bytes,
                userspace_addr: host,
            };
            self.call(KvmCall::SetUserMemoryRegion, |fd| {
                // SAFETY: the range is guest memory, which stays mapped for the process's life and
                // is never referred to by Rust references.
                unsafe { fd.set_user_memory_region(region) }
            })?;
        }
        Ok(self.next())
    }
}

impl Vm<Mapped> {
    /// Has KVM make a local APIC with each vCPU, and leaves the rest to [`crate::ioapic`]: no PIC, no PIT.
    ///
    /// # Errors
    /// When KVM has no local APICs.
    pub fn split_irqchip(mut self) -> Result<Vm<Wired>, KvmError> {
        // No line is level-triggered, so there is no end of interrupt that anybody waits for.
        let cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        self.call(KvmCall::SplitIrqchip, |fd| fd.enable_cap(&cap))?;
        Ok(self.next())
    }
}

impl Vm<Wired> {
    /// Makes the vCPUs 0 to `count` - 1.
    ///
    /// # Errors
    /// When KVM refuses one.
    pub fn create_vcpus(mut self, count: u8) -> Result<(Vm<Ready>, Vec<VcpuFd>), KvmError> {
        let vcpus = (0..count)
            .map(|id| self.call(KvmCall::CreateVcpu, |fd| fd.create_vcpu(u64::from(id))))
            .collect::<Result<_, _>>()?;
        Ok((self.next(), vcpus))
    }
}

impl Vm<Ready> {
    /// A way to send messages to the vCPUs' local APICs, from any thread.
    pub fn messages(&self) -> impl Fn(Message) + Send + Sync + use<> {
        let fd = Arc::clone(&self.fd);
        move |Message { address, data }| {
            let message = kvm_msi { address_lo: address, data, ..Default::default() };
            // KVM tells whether anybody took it; a guest that names nobody gets nothing.
            let _ = fd.signal_msi(message);
        }
    }

    /// Writes `event` whenever the guest writes at `gpa`, without a way out of KVM.
    ///
    /// # Errors
    /// When KVM refuses.
    pub fn connect_notifier(&mut self, event: &EventFd, gpa: u64) -> Result<(), KvmError> {
        let address = IoEventAddress::Mmio(gpa);
        self.call(KvmCall::Ioeventfd, |fd| fd.register_ioevent(event, &address, NoDatamatch))
    }

    /// Every call so far, in order.
    #[must_use]
    pub fn calls(&self) -> &[KvmCall] {
        &self.calls
    }
}

impl<Stage> Vm<Stage> {
    fn call<T>(
        &mut self,
        call: KvmCall,
        act: impl Fn(&VmFd) -> Result<T, errno::Error>,
    ) -> Result<T, KvmError> {
        noted(&mut self.calls, call, || act(&self.fd))
    }

    fn next<Next>(self) -> Vm<Next> {
        Vm { fd: self.fd, calls: self.calls, stage: PhantomData }
    }
}

/// Notes a call and makes it, again if a signal interrupted it.
fn noted<T>(
    calls: &mut Vec<KvmCall>,
    call: KvmCall,
    act: impl Fn() -> Result<T, errno::Error>,
) -> Result<T, KvmError> {
    calls.push(call);
    let mut tries = 1;
    loop {
        match act() {
            Err(error) if error.errno() == libc::EINTR && tries < MAX_TRIES => tries += 1,
            done => return done.map_err(|source| KvmError::Call { call, source }),
        }
    }
}
