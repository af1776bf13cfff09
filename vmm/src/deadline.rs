//! The deadline: a moment of `CLOCK_BOOTTIME`, which nobody can set and which runs on while the host sleeps.
//!
//! At it, the main loop ends the machine as for any other reason. Should that hang (a standard error that nobody reads is
//! enough), a timer of the kernel's ends the process [`GRACE_NS`] later from whichever thread is there; it guards set-up as well.
#![expect(unsafe_code, reason = "timers, and a signal handler that ends the process")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use crate::exit::ExitReason;

/// How long an orderly end may take: writing a line and leaving. Then the process ends without it. A busy host needs some
/// milliseconds for that; whoever set the deadline wants it kept.
pub const GRACE_NS: u64 = 250_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// What the process ends with when it is ended by force.
static FORCED_EXIT_CODE: AtomicI32 = AtomicI32::new(1);
/// The timer that ends it.
static FORCE: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn boottime_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
}

/// A deadline, which may be set.
#[derive(Debug)]
pub struct Deadline {
    timer: File,
}

impl Deadline {
    /// One that is not set: nothing happens. [`prepare_end`] was called.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: timerfd_create takes no pointer.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self { timer: unsafe { File::from_raw_fd(fd) } })
    }

    /// Sets it to `at_ns` of `CLOCK_BOOTTIME`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set(&self, at_ns: u64) -> io::Result<()> {
        // One that has passed already leaves the time to say so.
        let forced = at_ns.max(boottime_ns()).saturating_add(GRACE_NS);
        force(ExitReason::DeadlinePassed.code(), forced, libc::TIMER_ABSTIME)?;
        let when = once_at(at_ns);
        let (fd, flags) = (self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME);
        // SAFETY: the descriptor is a timer; the new value is read, and the old one is not asked for.
        succeeded(unsafe { libc::timerfd_settime(fd, flags, &raw const when, null_mut()) })
    }

    /// What the main loop waits on.
    #[must_use]
    pub fn event(&self) -> &File {
        &self.timer
    }

    /// Takes the timer's word that the deadline has passed, if it is there.
    pub fn take(&self) -> bool {
        let mut expirations = [0; 8];
        (&self.timer).read_exact(&mut expirations).is_ok()
    }
}

/// Makes ready what ends the process by force, once and before its first thread.
///
/// # Errors
/// The operating system's.
pub fn prepare_end() -> io::Result<()> {
    handle_force()?;
    let mut event = MaybeUninit::<libc::sigevent>::zeroed();
    // SAFETY: zeroes are a value of every field.
    let event = unsafe { event.assume_init_mut() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGALRM;
    let mut timer: libc::timer_t = null_mut();
    // SAFETY: both pointers are to values of our own.
    succeeded(unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, event, &raw mut timer) })?;
    FORCE.store(timer, Ordering::Relaxed);
    Ok(())
}

/// Ends the process with `code` in [`GRACE_NS`], should it still be there.
///
/// # Errors
/// The operating system's.
pub fn end_soon(code: u8) -> io::Result<()> {
    force(code, GRACE_NS, 0)
}

/// Ends the process now, every thread of it, with nothing put away: the kernel does that.
pub fn end_now(code: u8) -> ! {
    // SAFETY: takes a number and does not come back.
    unsafe { libc::_exit(code.into()) }
}

/// Has the kernel send `SIGALRM` once, in so many nanoseconds or at a moment of `CLOCK_BOOTTIME`; the process ends with `code`.
fn force(code: u8, ns: u64, flags: libc::c_int) -> io::Result<()> {
    FORCED_EXIT_CODE.store(code.into(), Ordering::Relaxed);
    let when = once_at(ns);
    let timer = FORCE.load(Ordering::Relaxed);
    // SAFETY: the timer is this process's or none, which is an error; the new value is read, the old one not asked for.
    succeeded(unsafe { libc::timer_settime(timer, flags, &raw const when, null_mut()) })
}

fn succeeded(done: libc::c_int) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SIGALRM` ends the process, whatever this process was told about it by its parent.
fn handle_force() -> io::Result<()> {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: _exit is safe in a signal handler and ends every thread.
        unsafe { libc::_exit(FORCED_EXIT_CODE.load(Ordering::Relaxed)) };
    }
    let handler: extern "C" fn(libc::c_int) = end;
    // SAFETY: the handler calls nothing but _exit.
    if unsafe { libc::signal(libc::SIGALRM, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set has been initialised, and the signal exists.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGALRM) };
    // SAFETY: the set is whole; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A timer that goes off once. Zero would be never: the first nanosecond is as good, and long past.
fn once_at(at_ns: u64) -> libc::itimerspec {
    let at_ns = at_ns.max(1);
    libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: libc::timespec {
            tv_sec: i64::try_from(at_ns / SECOND_NS).unwrap_or(i64::MAX),
            tv_nsec: (at_ns % SECOND_NS) as i64,
        },
    }
}
