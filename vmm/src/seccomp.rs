//! The filters on system calls: a thread that has one makes no other call than its list has, or the process is killed.
//!
//! A thread installs its filter itself, before the first byte of what a tenant gives is read. The main thread does so twice: it
//! reads spec, kernel and initrd with the first, and has less before the guest's programs run. [`table`] says which call is
//! there for what; it is compiled while the VMM is built.
#![expect(unsafe_code, reason = "prctl and seccomp")]

use std::io;

use libc::sock_filter as Instruction;

pub mod table;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// What a thread is, and so may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// A vCPU's thread.
    Vcpu,
    /// A disk's thread.
    Disk,
    /// The main thread before tenants' programs run.
    Setup,
    /// The same, with a vsock device that has a path.
    SetupWithPath,
    /// The main thread from then on, which had one of the two before.
    Main,
}

/// How a filter gets installed: [`install`], or something else in a test that outlives its machine.
pub type Install = fn(Filter) -> io::Result<()>;

/// Gives up the way of gaining rights through other programs, for this thread and all that it will start: what the kernel
/// asks of whoever installs a filter.
///
/// # Errors
/// The operating system's.
pub fn renounce_new_rights() -> io::Result<()> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs `filter` on this thread, for as long as it lives. [`renounce_new_rights`] was called before.
///
/// # Errors
/// The operating system's.
pub fn install(filter: Filter) -> io::Result<()> {
    install_program(match filter {
        Filter::Vcpu => &VCPU,
        Filter::Disk => &DISK,
        Filter::Setup => &SETUP,
        Filter::SetupWithPath => &SETUP_WITH_PATH,
        Filter::Main => &MAIN,
    })
}

/// Installs any program: tests have some that lack a call.
///
/// # Errors
/// The operating system's.
pub fn install_program(program: &[Instruction]) -> io::Result<()> {
    let len = program.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel reads it and does not write to it.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let (call, operation) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER);
    // SAFETY: the structure is whole and names instructions that stay where they are during the call.
    let done = unsafe { libc::syscall(call, operation, 0_u32, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
