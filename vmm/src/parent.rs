//! The end of the process that started this one is the end of this one.
#![expect(unsafe_code, reason = "prctl")]

use std::io;

/// The id of a parent in another process namespace.
const UNSEEN: u32 = 0;

/// Has the kernel kill this process when its parent, which must be process `parent`, is gone.
///
/// In a process namespace of its own it has a parent that it cannot see; whoever made the namespace has looked then.
///
/// # Errors
/// The operating system's, or `parent` is not the parent: most likely it is gone already.
pub fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal's number and no pointer.
    let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // Only now: a parent that went before the call above sends no signal.
    if ![parent, UNSEEN].contains(&std::os::unix::process::parent_id()) {
        return Err(io::Error::other(format!("process {parent} is not the parent")));
    }
    Ok(())
}

/// Keeps this process's memory, with the guest's in it, out of core files, and from other processes of the same user.
///
/// # Errors
/// The operating system's.
pub fn hide_memory() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes a number and no pointer.
    let set = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
