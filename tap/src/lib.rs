//! The two calls of a guest's network that no library offers safely: a namespace for this thread, and a tap as the VMM wants it.
//!
//! They are a crate of their own because `votive-agent` has no `unsafe`.

#![expect(
    unsafe_code,
    reason = "two ioctls of a tap, and unshare(2), which takes a thread apart from its process"
)]

use std::fs::{File, OpenOptions};
use std::io;

use rustix::ioctl::{Opcode, Setter, Updater, ioctl};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Bytes of the header before each frame: `struct virtio_net_hdr_mrg_rxbuf`, as every virtio 1 driver has it (section 5.1.6).
pub const HEADER_BYTES: i32 = 12;
/// The longest name of an interface (linux/if.h: `IFNAMSIZ` less its NUL).
pub const NAME_MAX: usize = 15;

const DEVICE: &str = "/dev/net/tun";
/// linux/if_tun.h: `_IOW('T', 202, int)`, though it reads and writes an `ifreq`.
const TUNSETIFF: Opcode = 0x4004_54ca;
/// linux/if_tun.h: `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: Opcode = 0x4004_54d8;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// An interface of that name must not be there yet.
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` of linux/if.h.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_MAX + 1],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Makes a tap in this thread's network namespace: Ethernet frames, each behind a header of [`HEADER_BYTES`], no offloads, one
/// queue. It is gone once the file and all its copies are closed, or its namespace is.
///
/// # Errors
/// The operating system's; `InvalidInput` for a name that is none.
pub fn open(name: &str) -> io::Result<File> {
    let mut request = InterfaceRequest {
        name: [0; NAME_MAX + 1],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
        rest: [0; 22],
    };
    let place =
        request.name.get_mut(..name.len()).filter(|place| (1..=NAME_MAX).contains(&place.len()));
    place.ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(name.as_bytes());
    let file = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    // SAFETY: the opcode is that of TUNSETIFF, which reads and writes an `ifreq`.
    let set = unsafe { Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request) };
    // SAFETY: `set` is made for this call and outlives it; it touches nothing but the request and the tap.
    unsafe { ioctl(&file, set) }?;
    // SAFETY: the opcode is that of TUNSETVNETHDRSZ, which reads an `int`.
    let set = unsafe { Setter::<TUNSETVNETHDRSZ, i32>::new(HEADER_BYTES) };
    // SAFETY: as above; it touches nothing but the tap.
    unsafe { ioctl(&file, set) }?;
    Ok(file)
}

/// Moves this thread, and those that it starts from now on, into a new network namespace. Others stay where they are.
///
/// # Errors
/// The operating system's.
pub fn enter_new_namespace() -> io::Result<()> {
    // SAFETY: without `UnshareFlags::FILES` the descriptors stay those of the whole process, and memory is always.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_that_an_interface_cannot_have_is_refused() {
        for name in ["", "sixteen-letters-"] {
            let refused = super::open(name).map(drop).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
