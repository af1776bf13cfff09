//! Facts about the bus.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::{Action, Bus};
use crate::console::Console;
use crate::demand::Loading;
use crate::exit::ExitReason;
use crate::ioapic::Ioapic;
use crate::layout::mmio_address;
use crate::marks::Marks;
use crate::memory::{GuestRam, LowMemory};
use crate::virtio::{MmioDevice, rng};

fn empty() -> Bus {
    bus(None, Vec::new())
}

fn bus(console: Option<Console>, devices: Vec<Arc<MmioDevice>>) -> Bus {
    Bus::new(
        Marks::default(),
        Arc::new(Ioapic::new(24, |_| ())),
        console,
        devices,
        Loading::default(),
    )
}

fn line() -> EventFd {
    EventFd::new(0).unwrap()
}

#[test]
fn only_a_zero_at_the_exit_port_is_a_power_off() {
    let bus = empty();
    assert_eq!(bus.write_port(0xf5, &[0]), Action::End(ExitReason::PoweredOff));
    for code in [1, 0x80, 0xff] {
        let stopped = Action::End(ExitReason::GuestStopped { code });
        assert_eq!(bus.write_port(0xf5, &[code]), stopped);
    }
    assert_eq!(bus.write_port(0xf4, &[0]), Action::Continue);
}

#[test]
fn where_nobody_answers_reads_are_ones_writes_are_lost_and_both_are_counted() {
    let bus = empty();
    let mut data = [0; 4];
    bus.read_port(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
    for gpa in [0, mmio_address(0) - 1, mmio_address(0), mmio_address(0) + 0x1000, u64::MAX] {
        let mut data = [0; 8];
        bus.read_memory(gpa, &mut data);
        assert_eq!(data, [0xff; 8]);
        bus.write_memory(gpa, &data);
    }
    assert_eq!(bus.write_port(0x80, &[1]), Action::Continue);
    assert_eq!(bus.write_port(0x3f8, b"x"), Action::Continue);
    assert_eq!(bus.unanswered(), 1 + 10 + 2);
}

#[test]
fn the_serial_port_answers_at_its_eight_ports_only() {
    let bus = bus(Some(Console::new(tempfile::tempfile().unwrap(), line())), Vec::new());
    let mut data = [0; 2];
    bus.read_port(0x3fd, &mut data);
    assert_eq!(data, [0x60, 0xff]);
    bus.read_port(0x3f8, &mut []);
    for port in [0x3f7, 0x400] {
        bus.read_port(port, &mut data);
        assert_eq!(data, [0xff; 2]);
    }
    assert_eq!(bus.unanswered(), 3);
}

#[test]
fn each_window_reaches_its_own_device() {
    let ram = GuestRam::map(128 << 20, LowMemory::HugePage).unwrap();
    let rng = || Box::new(rng::Rng::new());
    let device = || MmioDevice::new(rng(), Arc::clone(ram.shared()), line()).unwrap();
    let bus = bus(None, vec![device(), device()]);
    let status = |index: usize| {
        let mut data = [0; 4];
        bus.read_memory(mmio_address(index) + 0x70, &mut data);
        u32::from_le_bytes(data)
    };
    bus.write_memory(mmio_address(1) + 0x70, &1_u32.to_le_bytes());
    assert_eq!((status(0), status(1)), (0, 1));
    let mut magic = [0; 4];
    bus.read_memory(mmio_address(0), &mut magic);
    assert_eq!(&magic, b"virt");
    assert_eq!(bus.unanswered(), 0);
}

#[test]
fn the_ioapic_answers_at_its_page_only() {
    let bus = empty();
    bus.write_memory(0xfec0_0000, &1_u32.to_le_bytes());
    let mut version = [0; 4];
    bus.read_memory(0xfec0_0010, &mut version);
    assert_eq!(u32::from_le_bytes(version), 0x0017_0011);
    assert_eq!(bus.unanswered(), 0);
    bus.read_memory(0xfec0_1010, &mut version);
    bus.read_memory(0xfebf_fffc, &mut version);
    assert_eq!(bus.unanswered(), 2);
}
