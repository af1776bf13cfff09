//! The order of calls to KVM: all memory before anything that registers on KVM's I/O bus.

use std::ffi::OsString;

use votive_vmm::boot::{Order, boot};
use votive_vmm::kvm::KvmCall;
use votive_vmm::spec::{Request, VmSpec};

use crate::guest::{Guest, stop};

/// The calls that make a machine with this command line.
fn calls(guest: &Guest) -> Vec<KvmCall> {
    let Ok(Request::Run(spec)) = VmSpec::read(guest.arguments().iter().map(OsString::from)) else {
        panic!("the guest's command line is one");
    };
    // Without filters: this process goes on.
    let order = Order::Microvm(Box::new(spec.validate().unwrap()));
    boot(order, 0, None, |_| Ok(())).unwrap().calls().to_vec()
}

#[test]
fn memory_comes_before_interrupt_controllers_vcpus_and_events_and_there_is_no_timer() {
    let guest = Guest::shaped(&[&stop(0)], 2);
    let disk = guest.file("disk");
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let disk = format!("path={}", disk.display());
    let guest = guest.with(&["--disk", &disk, "--vsock", "cid=3", "--console", "/dev/null"]);
    use KvmCall::{
        CreateVcpu, CreateVm, GetSupportedCpuid, Ioeventfd, SetTssAddress, SetUserMemoryRegion,
        SplitIrqchip,
    };
    assert_eq!(
        calls(&guest),
        [
            CreateVm,
            GetSupportedCpuid,
            SetTssAddress,
            SetUserMemoryRegion,
            SplitIrqchip,
            CreateVcpu,
            CreateVcpu,
            // Disk, vsock, entropy.
            Ioeventfd,
            Ioeventfd,
            Ioeventfd
        ]
    );
}

#[test]
fn no_memory_slot_ever_follows_the_first_call_that_is_none() {
    let mut guest = Guest::new(&[&stop(0)]);
    // Memory on both sides of the hole: two slots.
    guest = guest.without_memory().with(&["--memory-mib", "4096"]);
    let calls = calls(&guest);
    let slots = calls.iter().filter(|call| **call == KvmCall::SetUserMemoryRegion).count();
    assert_eq!(slots, 2);
    let last_slot = calls.iter().rposition(|call| *call == KvmCall::SetUserMemoryRegion);
    let irqchip = calls.iter().position(|call| *call == KvmCall::SplitIrqchip);
    assert!(last_slot < irqchip, "{calls:?}");
}
