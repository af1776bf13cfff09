//! A process in a jail, held by its pidfd.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::UidGuard;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

/// A child in a jail. It is killed and reaped when this is dropped, and its user is free only then.
#[derive(Debug)]
pub struct Jailed {
    id: u32,
    /// Nothing once it is reaped.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    pidfd: AsyncFd<OwnedFd>,
    _uid: UidGuard,
}

impl Jailed {
    /// Takes over a child of this process; called in an asynchronous runtime.
    #[expect(deprecated, reason = "an OwnedFd is the same descriptor for as long as it lives")]
    pub(super) fn new(id: u32, pidfd: OwnedFd, uid: UidGuard) -> io::Result<Self> {
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self { id, held: Some(Held { pidfd, _uid: uid }) })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Kills it, if it has not ended.
    pub fn kill(&self) {
        if let Some(held) = &self.held {
            held.kill();
        }
    }

    /// Waits for its end and reaps it. May be dropped and called again.
    ///
    /// # Errors
    /// The operating system's: nobody knows how it ended then.
    pub async fn ended(&mut self) -> io::Result<Ended> {
        let Some(held) = &self.held else { return Ok(Ended::default()) };
        let ended = held.reap().await;
        self.held = None;
        ended
    }

    /// Waits for its end.
    pub(super) async fn wait(mut self) -> io::Result<Ended> {
        self.ended().await
    }
}

impl Held {
    fn kill(&self) {
        // It has ended: there is nothing to kill.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            tracing::debug!(%error, "a process in a jail was not killed");
        }
    }

    async fn reap(&self) -> io::Result<Ended> {
        loop {
            // A pidfd is readable from the process's end on.
            let mut ready = self.pidfd.readable().await?;
            match self.try_reap()? {
                Some(ended) => return Ok(ended),
                None => ready.clear_ready(),
            }
        }
    }

    fn try_reap(&self) -> io::Result<Option<Ended>> {
        let which = WaitId::PidFd(self.pidfd.as_fd());
        let status = rustix::process::waitid(which, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
        Ok(status.as_ref().map(ended))
    }
}

fn ended(status: &WaitIdStatus) -> Ended {
    Ended { code: status.exit_status(), signal: status.terminating_signal() }
}

impl Drop for Jailed {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else { return };
        held.kill();
        // Without a runtime this process ends, and whoever reaps it reaps its children.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { held.reap().await });
        }
    }
}
