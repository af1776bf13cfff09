//! Joining a control group, before there is anything that would have to be counted anew.

use std::io::{self, Write};

use crate::descriptor::{Access, FileRef};

/// Moves this process into the control group whose `cgroup.procs` this is. Called while it has one thread.
///
/// The kernel checks the rights of whoever opened the file, so that an inherited descriptor lets a process without any join
/// just this group.
///
/// # Errors
/// The operating system's.
pub fn join(procs: &FileRef) -> io::Result<()> {
    // 0 is the writer.
    procs.open(Access::Write)?.write_all(b"0")
}
