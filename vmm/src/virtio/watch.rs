//! What a device waits for on the host's side: any number of descriptors and one timer, behind one descriptor.

#![expect(unsafe_code, reason = "lending a descriptor whose owner is no std type")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::timerfd::TimerFd;

/// Event data of the timer.
pub(super) const TIMER: u64 = u64::MAX - 1;

/// See the module. Readable when something happened to what is watched. Made before there is a tenant: a device that needs
/// one is given it.
#[derive(Debug)]
pub struct Watch {
    epoll: Epoll,
    timer: TimerFd,
    armed_for: Option<Instant>,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The operating system gives no epoll descriptor or no timer.
    pub fn new() -> io::Result<Self> {
        let (epoll, timer) = (Epoll::new()?, TimerFd::new()?);
        let watch = Watch { epoll, timer, armed_for: None };
        watch.add(&watch.timer, TIMER, EventSet::IN)?;
        Ok(watch)
    }

    /// Watches a descriptor; fails if it is watched already.
    pub(super) fn add(&self, fd: &impl AsRawFd, data: u64, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(events, data))
    }

    /// Watches a descriptor that is watched already for other events. What is so already is reported.
    pub(super) fn change(&self, fd: &impl AsRawFd, data: u64, events: EventSet) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Modify, fd.as_raw_fd(), EpollEvent::new(events, data))
    }

    /// Closing is not enough: another process may hold the same socket open.
    pub(super) fn remove(&self, fd: &impl AsRawFd) {
        let nothing = EpollEvent::new(EventSet::empty(), 0);
        let _ = self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), nothing);
    }

    /// Fills `events` with what happened, without waiting; how many there are.
    pub(super) fn events(&self, events: &mut [EpollEvent]) -> usize {
        self.epoll.wait(0, events).unwrap_or(0)
    }

    /// Makes the timer fire at `deadline` if it would not fire earlier.
    pub(super) fn arm(&mut self, deadline: Instant) {
        if self.armed_for.is_some_and(|armed| armed <= deadline) {
            return;
        }
        // A duration of 0 would disarm it.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if self.timer.reset(left, None).is_ok() {
            self.armed_for = Some(deadline);
        }
    }

    /// Makes the timer fire at `deadline` at the latest, or not at all; whether it fired does not matter.
    pub(super) fn until(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return self.disarm() };
        // One that fires early costs a turn; setting it anew for every request would cost more.
        if self.armed_for.is_some_and(|at| at <= Instant::now()) {
            self.disarm();
        }
        self.arm(deadline);
    }

    /// The timer fired, or is not needed any more.
    pub(super) fn disarm(&mut self) {
        if self.armed_for.take().is_some() {
            // Setting it anew also takes back an expiration that was not read.
            let _ = self.timer.clear();
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the epoll descriptor is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.epoll.as_raw_fd()) }
    }
}
