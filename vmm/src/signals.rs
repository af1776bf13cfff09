//! Signals: the ones that ask for an end become an event, one wakes a vCPU's thread from the guest, and a lost page of a mapped
//! file becomes a reason.
#![expect(unsafe_code, reason = "signal masks, signalfd and a SIGBUS handler")]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::FromRawFd;

const ASK_FOR_AN_END: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
const LOST_PAGE: &[u8] = b"votive-vmm: a mapped file was cut short while in use\n";
/// As for any other file that cannot be used.
const LOST_PAGE_EXIT_CODE: i32 = 1;

/// Signals that ask for an end, as an event.
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// Blocks the signals that ask for an end, for this thread and all threads it will start, and takes
    /// them as events instead. All others are let through, whatever the parent blocked: kicks and the
    /// deadline must arrive. Must be called before the first thread is started.
    ///
    /// # Errors
    /// The operating system's.
    pub fn take() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset writes the whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in ASK_FOR_AN_END {
            // SAFETY: the set has been initialised, and the signal exists.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        }
        // SAFETY: the set is whole; the old mask is not asked for.
        let masked =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) };
        if masked != 0 {
            return Err(io::Error::from_raw_os_error(masked));
        }
        // SAFETY: -1 asks for a new descriptor; the set is whole.
        let fd =
            unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// What the main loop waits on.
    #[must_use]
    pub fn event(&self) -> &File {
        &self.0
    }

    /// The next signal that came, if any.
    #[must_use]
    pub fn next(&self) -> Option<u8> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.0).read_exact(&mut info).ok()?;
        // ssi_signo is the first field.
        u8::try_from(u32::from_le_bytes([info[0], info[1], info[2], info[3]])).ok()
    }
}

/// The signal that wakes a vCPU's thread from `KVM_RUN`.
#[must_use]
pub fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Gives the kick signal a handler that does nothing: `KVM_RUN` ends with `EINTR`, any other call goes on.
///
/// # Errors
/// The operating system's.
pub fn let_kicks_through() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = nothing;
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a value of every field: no flags, an empty mask, the default action.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is whole and its handler does nothing; the old action is not asked for.
    if unsafe { libc::sigaction(kick_signal(), action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a write to a stream that nobody reads any more an error, and no signal.
///
/// # Errors
/// The operating system's.
pub fn ignore_broken_pipes() -> io::Result<()> {
    // SAFETY: to ignore a signal needs no handler.
    if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Leaves a fault of the program's own to the kernel, which ends the process by `SIGSEGV`. The standard library's handler
/// looks whether a stack has overflowed, and takes calls for that which no filter has.
///
/// # Errors
/// The operating system's.
pub fn leave_faults_to_the_kernel() -> io::Result<()> {
    // SAFETY: the default action needs no handler.
    if unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Says why when a file that was mapped into guest memory has lost a page that a device reads.
///
/// # Errors
/// The operating system's.
pub fn explain_lost_pages() -> io::Result<()> {
    extern "C" fn lost_page(_: i32) {
        // SAFETY: write is safe in a signal handler, and the text is constant.
        unsafe { libc::write(libc::STDERR_FILENO, LOST_PAGE.as_ptr().cast(), LOST_PAGE.len()) };
        // SAFETY: _exit is safe in a signal handler and ends every thread.
        unsafe { libc::_exit(LOST_PAGE_EXIT_CODE) };
    }
    let handler: extern "C" fn(i32) = lost_page;
    // SAFETY: the handler calls nothing but write and _exit.
    if unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
