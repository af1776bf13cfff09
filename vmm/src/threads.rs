//! Threads that are made before there is anything for them to do.
//!
//! ```text
//!  main                      a thread
//!  spawn  ----------------->  start, install its filter
//!  Waiting::is_ready <------  ready, asleep
//!  Waiting::start(work) --->  do the work, then sleep for ever: it ends with the process
//! ```
//! What a thread's start and end take of the operating system is therefore in no filter.
#![expect(unsafe_code, reason = "a thread's id, and signals to it")]

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::seccomp::{Filter, Install};

/// A thread of this process, which lives as long as the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadId {
    process: libc::pid_t,
    thread: libc::pid_t,
}

impl ThreadId {
    fn own() -> Self {
        // SAFETY: takes nothing, and cannot fail.
        let process = unsafe { libc::getpid() };
        // Not the C library's `gettid`: the standard library's reference to it is weak, and a static program then has none.
        // SAFETY: as above.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        // The kernel's ids are of this type.
        Self { process, thread: thread as libc::pid_t }
    }

    /// Sends the thread a signal, which must have a handler.
    pub(crate) fn signal(self, signal: libc::c_int) {
        // SAFETY: takes numbers, and the thread is there.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, signal) };
    }
}

/// A thread that has no work yet.
#[derive(Debug)]
pub struct Waiting<W>(Arc<Post<W>>);

#[derive(Debug)]
struct Post<W> {
    state: Mutex<State<W>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<W> {
    Starting,
    Failed(io::Error),
    Ready(ThreadId),
    Given(W),
    Taken,
}

/// Makes a thread that will `act` on its work, once, under `filter`, and keep it.
///
/// # Errors
/// When the operating system gives no thread.
pub fn spawn<W: Send + 'static>(
    name: String,
    stack_bytes: usize,
    (filter, install): (Filter, Install),
    act: fn(&mut W),
) -> io::Result<Waiting<W>> {
    let post = Arc::new(Post { state: Mutex::new(State::Starting), changed: Condvar::new() });
    let own = Arc::clone(&post);
    let live = move || {
        let id = ThreadId::own();
        own.set(match install(filter) {
            Ok(()) => State::Ready(id),
            Err(error) => State::Failed(error),
        });
        let mut work = own.take();
        act(&mut work);
        // What it worked on stays, too: others may still look at it, and no filter lets anybody unmap it.
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name(name).stack_size(stack_bytes).spawn(live)?;
    Ok(Waiting(post))
}

impl<W> Waiting<W> {
    /// Waits until the thread has its filter.
    ///
    /// # Errors
    /// It got none: the operating system's reason. Such a thread must be given no work.
    pub fn is_ready(&self) -> io::Result<ThreadId> {
        let mut state = self.0.lock();
        loop {
            state = match std::mem::replace(&mut *state, State::Starting) {
                State::Failed(error) => return Err(error),
                State::Ready(id) => {
                    *state = State::Ready(id);
                    return Ok(id);
                }
                other => {
                    *state = other;
                    self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Has the thread go to work.
    pub fn start(self, work: W) {
        self.0.set(State::Given(work));
    }
}

impl<W> Post<W> {
    fn set(&self, state: State<W>) {
        *self.lock() = state;
        self.changed.notify_one();
    }

    /// Waits for work. A thread whose filter failed gets none, ever.
    fn take(&self) -> W {
        let mut state = self.lock();
        loop {
            state = match std::mem::replace(&mut *state, State::Taken) {
                State::Given(work) => return work,
                other => {
                    *state = other;
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
