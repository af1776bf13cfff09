//! Devices on a real event loop.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::virtio::driver::{DATA, GuestDriver, ram, writable};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Vsock, VsockSpec};
use crate::virtio::{DeviceTraits, Rings, VirtioDevice};

#[test]
fn one_event_loop_serves_guests_and_host_programs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let spec = VsockSpec { guest_cid: 3, path: Some(path.clone()), ports: Vec::new() };
    let ram = ram().unwrap();
    let vsock = Box::new(Vsock::new(spec).unwrap());
    let mut rng = GuestDriver::new(Box::new(Rng::new()), Arc::clone(&ram)).unwrap();
    let mut vsock = GuestDriver::new(vsock, ram).unwrap();
    let mut events = EventManager::<DeviceSubscriber>::new().unwrap();
    for device in [&rng, &vsock] {
        events.add_subscriber(DeviceSubscriber::new(Arc::clone(device.device())));
    }
    let mut turn = |least: usize| assert!(events.run_with_timeout(10_000).unwrap() >= least);
    let guest = &mut rng;
    assert!(guest.start(1 << 32));
    turn(1);
    guest.offer(0, &[writable(DATA, 16)]);
    guest.kick(0);
    turn(1);
    assert_eq!(guest.used(0), Some((0, 16)));
    // Both devices' rings lie in the same places: the first one is done with them.
    let guest = &mut vsock;
    assert!(guest.start(1 << 32));
    guest.offer(0, &[writable(DATA, 4096)]);
    turn(1);
    let mut program = UnixStream::connect(path).unwrap();
    program.write_all(b"CONNECT 52\n").unwrap();
    turn(1);
    assert_eq!(guest.used(0), Some((0, 44)));
    // Operation 1, to port 52: a request.
    assert_eq!(guest.read(DATA + 20, 4), 52u32.to_le_bytes());
    assert_eq!(guest.read(DATA + 30, 2), [1, 0]);
}

/// A device whose host's side cannot be waited for.
struct Unwaitable(std::fs::File);

impl VirtioDevice for Unwaitable {
    fn traits(&self) -> DeviceTraits {
        DeviceTraits { name: "odd", ..Rng::new().traits() }
    }

    fn activate(&mut self, _features: u64) {}

    fn process(&mut self, _rings: &mut Rings, _wake: Wake) {}

    fn reset(&mut self) {}

    fn host_events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

#[test]
fn a_worker_that_cannot_wait_says_so_before_its_thread_ends() {
    let device = Box::new(Unwaitable(tempfile::tempfile().unwrap()));
    let driver = GuestDriver::new(Box::new(Rng::new()), ram().unwrap()).unwrap();
    let interrupt = driver.interrupt().try_clone().unwrap();
    let device = MmioDevice::new(device, ram().unwrap(), interrupt).unwrap();
    let (died, why) = std::sync::mpsc::channel();
    spawn_worker(device, move |error| died.send(error.to_string()).unwrap()).unwrap();
    assert_eq!(why.recv().unwrap(), "wait for notifications of odd");
}
