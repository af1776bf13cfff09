//! The filter of system calls that a function's processes run under, for good (seccomp(2)): they make no vsock sockets.
//!
//! It is the second fence. The first is that the VMM connects one stream to the agent, PID 1's, and refuses every other.

#![expect(unsafe_code, reason = "a system call that no library offers")]

use linux_raw_sys::general as raw;
use rustix::io::Errno;

use super::system::call;

/// `struct sock_filter` of linux/filter.h.
#[repr(C)]
struct Instruction(u16, u8, u8, u32);

/// `struct sock_fprog` of linux/filter.h.
#[repr(C)]
struct Program {
    len: u16,
    instructions: &'static Instruction,
}

// `FILTER`, which build.rs compiles.
include!(concat!(env!("OUT_DIR"), "/filter.rs"));

/// Puts this thread under the filter, and every process that comes of it. It must not be able to gain privileges any more.
pub(super) fn install() -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let len = u16::try_from(FILTER.len()).map_err(|_| Errno::TOOBIG)?;
    let program = Program { len, instructions: FILTER.first().ok_or(Errno::INVAL)? };
    let pointer = (&raw const program) as usize;
    // SAFETY: `pointer` is valid for a `sock_fprog` that has the number of its instructions, which are static.
    unsafe { call(raw::__NR_seccomp, [SECCOMP_SET_MODE_FILTER, 0, pointer, 0, 0]) }.map(drop)
}
