//! Facts about the kernel's command line, and about how guest memory gets its first bytes.

use std::io;

use super::cmdline;
use super::filling::Filling;
use crate::spec::KernelMemory;
use crate::userfault::Userfault;

#[test]
fn devices_are_named_in_order_before_the_callers_text() {
    assert_eq!(
        cmdline(false, 2, "quiet -- a b"),
        "reboot=t panic=-1 noreplace-smp 8250.nr_uarts=0 virtio_mmio.device=4K@0xd0000000:5 \
         virtio_mmio.device=4K@0xd0001000:6 quiet -- a b"
    );
    assert_eq!(cmdline(true, 0, ""), "reboot=t panic=-1 noreplace-smp console=ttyS0");
}

#[test]
fn the_longest_text_fits_beside_every_device() {
    let longest = cmdline(false, 10, &"x".repeat(1500));
    assert!(longest.len() < crate::limits::MAX_CMDLINE_BYTES, "{} bytes", longest.len());
}

#[test]
fn without_a_right_to_userfaultfd_the_kernel_is_mapped_and_whoever_asked_otherwise_is_told() {
    let refused = || Err(io::Error::from_raw_os_error(libc::EPERM));
    let by_default = Filling::choose(None, refused);
    assert_eq!((by_default.how, by_default.notice), (KernelMemory::Mapped, None));
    let asked = Filling::choose(Some(KernelMemory::Demand), refused);
    assert_eq!(asked.how, KernelMemory::Mapped);
    let notice = asked.notice.unwrap();
    assert!(notice.contains("mapped instead") && notice.contains("not permitted"), "{notice}");
}

#[test]
fn with_the_right_it_is_filled_on_demand_unless_another_way_was_asked_for() {
    let open = Userfault::open_for_own_accesses;
    for asked in [None, Some(KernelMemory::Demand)] {
        let filling = Filling::choose(asked, open);
        assert_eq!((filling.how, filling.notice), (KernelMemory::Demand, None));
        assert!(filling.userfault.is_some());
    }
    for how in [KernelMemory::Mapped, KernelMemory::Copied] {
        let filling = Filling::choose(Some(how), || panic!("it was opened"));
        assert_eq!((filling.how, filling.notice), (how, None));
        assert!(filling.userfault.is_none());
    }
}
