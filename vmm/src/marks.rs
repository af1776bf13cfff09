//! Marks: moments of a microVM's start, one line each, in the host's monotonic clock.
//!
//! The VMM's own marks are kept until the guest is about to run and then written at once, so that
//! measuring a start costs it one system call.
#![expect(unsafe_code, reason = "reading the monotonic clock as nanoseconds")]

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::limits::MAX_GUEST_MARKS;

/// Nanoseconds of `CLOCK_MONOTONIC`, comparable with those of any process of this host.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The marks of one microVM.
#[derive(Debug, Default)]
pub struct Marks {
    file: Option<File>,
    start_ns: u64,
    machine_ns: AtomicU64,
    guest_marks: AtomicU32,
}

impl Marks {
    /// Marks of a process whose first moment was `start_ns`, going to `file` if there is one.
    #[must_use]
    pub fn new(start_ns: u64, file: Option<File>) -> Self {
        Self { file, start_ns, ..Self::default() }
    }

    /// Everything of the machine has been made.
    pub fn machine(&self) {
        self.machine_ns.store(monotonic_ns(), Ordering::Relaxed);
    }

    /// The guest is about to run: writes the VMM's own marks.
    pub fn run(&self) {
        if self.file.is_some() {
            let (start, machine, run) =
                (self.start_ns, self.machine_ns.load(Ordering::Relaxed), monotonic_ns());
            self.write(&format!("start {start}\nmachine {machine}\nrun {run}\n"));
        }
    }

    /// The guest wrote `value` to the mark port.
    pub fn guest(&self, value: u8) {
        // A wrap takes 2^32 exits, and then 64 more lines: no way to fill a disk.
        let earlier = self.guest_marks.fetch_add(1, Ordering::Relaxed);
        if self.file.is_some() && earlier < MAX_GUEST_MARKS {
            self.write(&format!("guest-{value:#04x} {}\n", monotonic_ns()));
        }
    }

    fn write(&self, lines: &str) {
        if let Some(mut file) = self.file.as_ref() {
            // A mark that cannot be written is lost: measuring must not end a microVM.
            let _ = file.write_all(lines.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
