//! The stream to the agent.

#![expect(
    unsafe_code,
    reason = "rustix leaves socket addresses that it does not know to an unsafe trait"
)]

use rustix::fd::OwnedFd;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use votive_protocol::{AGENT_CID, AGENT_PORT, FaultCode};

use crate::worker::Problem;

/// `struct sockaddr_vm` of linux/vm_sockets.h.
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

const _: () = assert!(size_of::<VsockAddress>() == 16);

// SAFETY: `with_sockaddr` gives `f` a pointer to a `sockaddr_vm` and its size; it lives as long as `self`, which is longer
// than the call.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        f(core::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

/// Connects to the agent; the stream does not block from then on.
pub(super) fn connect() -> Result<OwnedFd, Problem> {
    let problem = |errno| Problem::new(FaultCode::System, errno, "vsock");
    let socket = rustix::net::socket_with(
        AddressFamily::VSOCK,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(problem)?;
    let address = VsockAddress {
        family: AddressFamily::VSOCK.as_raw(),
        reserved: 0,
        port: AGENT_PORT,
        cid: AGENT_CID,
        flags: 0,
        zero: [0; 3],
    };
    rustix::net::connect(&socket, &address).map_err(problem)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(problem)?;
    Ok(socket)
}
