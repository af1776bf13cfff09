//! Turns to boot: as many microVMs at once as the host's processors can bring up in good time.
//!
//! A burst of starts takes no longer when it waits for its turns than when all are slow together, and none is given up for
//! hung. One turn is kept from those that are started ahead of any invocation, so that a caller never waits behind a queue of them.

use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::BOOT_TIMEOUT;
use crate::worker::api::Initialization;

#[cfg(test)]
mod tests;

/// The turns of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Boots {
    all: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
}

/// One turn, over when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _all: OwnedSemaphorePermit,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl Boots {
    /// So many at once, at least one.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        // The only turn there is must do for all; still no more than one of those started ahead waits for it.
        let ahead = count.saturating_sub(1).max(1);
        Self { all: Arc::new(Semaphore::new(count)), ahead: Arc::new(Semaphore::new(ahead)) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// None: the turns are never closed.
    pub(crate) async fn turn(&self, why: Initialization) -> Result<Turn, AcquireError> {
        let ahead = match why {
            Initialization::OnDemand => None,
            Initialization::Provisioned => Some(Arc::clone(&self.ahead).acquire_owned().await?),
        };
        Ok(Turn { _all: Arc::clone(&self.all).acquire_owned().await?, _ahead: ahead })
    }
}

impl Turn {
    /// Ends when the guest has booted: it says something, or its end of the link is closed because it is gone.
    ///
    /// # Errors
    /// When there is no descriptor to be had; the turn is over then.
    pub(crate) fn until_heard(
        self,
        link: &UnixStream,
    ) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
        // Another descriptor of the same socket: what is there to be read stays there.
        let link = link.as_fd().try_clone_to_owned()?;
        let link = UnixStream::from_std(link.into())?;
        Ok(async move {
            // Whatever comes of it, the next one's turn comes.
            let _ = timeout(BOOT_TIMEOUT, link.readable()).await;
            drop(self);
        })
    }
}
