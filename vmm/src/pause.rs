//! Pauses: every vCPU's thread out of `KVM_RUN` and asleep, with nothing of the guest's state lost; devices live on.
//!
//! ```text
//!  main thread                                    a vCPU's thread
//!  Gate::shut: immediate_exit = 1 for each
//!  a signal to each ---------------------------->  KVM_RUN ends with EINTR, now or as soon as it is called
//!                                                  Gate::wait: the last one answers the pause; sleeps
//!  Gate::open ---------------------------------->  immediate_exit = 0, KVM_RUN
//! ```
//! No kick can be lost: a thread that is about to call `KVM_RUN` finds `immediate_exit`, and one that is inside is woken by
//! the signal. `KVM_RUN` looks at the flag only after it has finished the access that it last left for, so a vCPU that waits
//! owes the guest nothing; and an exit that needs no pause never looks at the gate.
#![expect(unsafe_code, reason = "KVM's shared page of a vCPU")]

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::control::{Answer, Answerer};
use crate::signals::kick_signal;
use crate::threads::ThreadId;

/// KVM's word that `KVM_RUN` is to return at once, of one vCPU.
///
/// It is reached through a mapping of its own: the one in [`VcpuFd`] is borrowed whole by the vCPU's thread. It stays for as
/// long as the process lives, as the vCPU's thread does.
#[derive(Debug)]
pub struct ImmediateExit {
    page: *mut kvm_run,
}

// SAFETY: the page stays mapped, whichever thread looks at it.
unsafe impl Send for ImmediateExit {}
// SAFETY: nothing but one atomic byte of the page is ever touched.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// The word of `vcpu`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(vcpu: &VcpuFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (size, fd) = (size_of::<kvm_run>(), vcpu.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice; the first page of a vCPU's descriptor is its `kvm_run`.
        let page = unsafe { libc::mmap(null_mut(), size, protection, libc::MAP_SHARED, fd, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { page: page.cast() })
    }

    fn set(&self, value: u8) {
        let byte = self.page.cast::<u8>().wrapping_add(offset_of!(kvm_run, immediate_exit));
        // SAFETY: the byte is inside the mapping, which stays; all of this process's accesses through it are atomic, and the
        // kernel's are single reads.
        let byte = unsafe { AtomicU8::from_ptr(byte) };
        byte.store(value, Ordering::Release);
    }
}

/// What all vCPUs wait at while the machine is paused.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    opened: Condvar,
    answerer: Answerer,
    answered: EventFd,
    flags: Vec<ImmediateExit>,
}

#[derive(Debug)]
struct State {
    shut: bool,
    waiting: usize,
    answer: Answer,
    /// The main thread waits for the answer.
    watched: bool,
}

impl Gate {
    /// An open gate for the vCPUs with these flags, in order, and the way to say that all of them wait at it.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(flags: Vec<ImmediateExit>, answerer: Answerer) -> io::Result<Self> {
        let state = State { shut: false, waiting: 0, answer: Answer::Given, watched: false };
        Ok(Self {
            state: Mutex::new(state),
            opened: Condvar::new(),
            answerer,
            answered: EventFd::new(EFD_NONBLOCK)?,
            flags,
        })
    }

    /// What has become of the answer to the last pause. Should it be outstanding, [`Gate::answer_event`] says when it is not.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let mut state = self.lock();
        state.watched = state.answer == Answer::Outstanding;
        state.answer
    }

    /// What becomes readable after [`Gate::answer`] found nothing yet, or when the answer was refused.
    #[must_use]
    pub fn answer_event(&self) -> &EventFd {
        &self.answered
    }

    /// Shuts the gate. False when every vCPU waits at it already; otherwise the last one answers, and every thread must be
    /// kicked next.
    fn shut(&self) -> bool {
        let mut state = self.lock();
        state.shut = true;
        // Those that have not left since the gate was last shut wait on.
        if state.waiting == self.flags.len() {
            return false;
        }
        state.answer = Answer::Outstanding;
        for flag in &self.flags {
            flag.set(1);
        }
        true
    }

    fn open(&self) {
        self.lock().shut = false;
        self.opened.notify_all();
    }

    /// Waits on the thread of vCPU `index` for as long as the gate is shut. Says whether it was.
    ///
    /// Called whenever `KVM_RUN` was interrupted.
    pub fn wait(&self, index: u8) -> bool {
        let mut state = self.lock();
        let was_shut = state.shut;
        if was_shut {
            state.waiting += 1;
            if state.waiting == self.flags.len() {
                self.give_answer(&mut state);
            }
            while state.shut {
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.waiting -= 1;
        }
        // Under the lock: what `shut` sets after this stays set.
        if let Some(flag) = self.flags.get(usize::from(index)) {
            flag.set(0);
        }
        was_shut
    }

    /// Says that all vCPUs wait, under the lock: nobody else writes to the socket before the answer is noted.
    fn give_answer(&self, state: &mut State) {
        if state.answer != Answer::Outstanding {
            return;
        }
        state.answer = if self.answerer.paused() { Answer::Given } else { Answer::Refused };
        if std::mem::take(&mut state.watched) || state.answer == Answer::Refused {
            // The counter of a non-blocking eventfd can only be full when the main thread has been woken before.
            let _ = self.answered.write(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The vCPUs' threads behind their gate.
#[derive(Debug)]
pub struct Pause {
    gate: Arc<Gate>,
    threads: Vec<ThreadId>,
}

impl Pause {
    /// A way to pause `threads`, each of which waits at `gate`.
    #[must_use]
    pub fn new(gate: Arc<Gate>, threads: Vec<ThreadId>) -> Self {
        Self { gate, threads }
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Has every vCPU leave the guest and wait; the last one answers. False when they wait already, and none answers.
    #[must_use]
    pub fn begin(&self) -> bool {
        if !self.gate.shut() {
            return false;
        }
        // One that has given a reason to end only sleeps, and nobody waits for it.
        self.threads.iter().for_each(|thread| thread.signal(kick_signal()));
        true
    }

    /// Has every vCPU go on.
    pub fn end(&self) {
        self.gate.open();
    }
}
