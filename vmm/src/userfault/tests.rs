//! Facts about accesses to missing memory.

use std::thread;

use vm_memory::{Bytes, GuestAddress};

use super::Userfault;
use crate::memory::{GuestRam, LowMemory};

const MIB: u64 = 1 << 20;

#[test]
fn an_access_is_told_and_goes_on_when_nobody_listens_any_more() {
    let userfault = Userfault::open_for_own_accesses().unwrap();
    let ram = GuestRam::map(4 * MIB, LowMemory::SmallPages).unwrap();
    let (_, _, host) = ram.slots()[0];
    assert_eq!(userfault.next().unwrap(), None);
    userfault.register(host, MIB).unwrap();
    ram.write(MIB, &[1]).unwrap();
    assert_eq!(userfault.next().unwrap(), None, "an access outside was told");
    let shared = ram.shared().clone();
    let reader = thread::spawn(move || shared.read_obj::<u8>(GuestAddress(0x5123)).unwrap());
    userfault.wait().unwrap();
    assert_eq!(userfault.next().unwrap(), Some(host + 0x5000));
    assert_eq!(userfault.next().unwrap(), None);
    // It looks again, and is told again.
    userfault.wake(host, MIB).unwrap();
    userfault.wait().unwrap();
    assert_eq!(userfault.next().unwrap(), Some(host + 0x5000));
    drop(userfault);
    assert_eq!(reader.join().unwrap(), 0);
}

#[test]
fn what_is_no_anonymous_memory_is_refused() {
    let userfault = Userfault::open_for_own_accesses().unwrap();
    let ram = GuestRam::map(4 * MIB, LowMemory::SmallPages).unwrap();
    let (_, _, host) = ram.slots()[0];
    assert!(userfault.register(host + 1, MIB).is_err());
    assert!(userfault.register(0, MIB).is_err());
    assert!(userfault.wake(host, 0).is_err());
}
