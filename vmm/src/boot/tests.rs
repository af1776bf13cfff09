//! Facts about the kernel's command line.

use super::cmdline;

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
