//! votive-vmm: one process, one microVM, on KVM.
//!
//! The way of a microVM reads top to bottom in [`boot`]:
//! arguments -> [`spec::VmSpec`] -> [`spec::ValidSpec`] -> [`boot::boot`] -> [`machine::Machine`] ->
//! [`exit::ExitReason`] -> exit code. Nothing is opened before the whole spec has been validated, no
//! guest instruction runs before the whole machine has been made, and nothing that the guest
//! does is trusted.

pub mod limits;
pub mod spec;

pub mod assignment;
pub mod boot;
pub mod cgroup;
pub mod control;
pub mod deadline;
pub mod exit;
pub mod heap;
pub mod limiter;
pub mod machine;
pub mod parent;
pub mod pause;
pub mod probe;
pub mod seccomp;
pub mod signals;
pub mod threads;

pub mod demand;
pub mod descriptor;
pub mod layout;
pub mod memory;
pub mod userfault;

pub mod bootparams;
pub mod ioapic;
pub mod kernel;
pub mod mptable;

pub mod cpuid;
pub mod kvm;
pub mod registers;
pub mod vcpu;

pub mod bus;
pub mod console;
pub mod marks;
pub mod virtio;

pub mod fuzz;
