//! A VMM's process, in a jail or not: its end, and what kills it.

use std::os::unix::process::ExitStatusExt as _;

use tokio::process::Child;

use crate::jail::{Ended, Jailed};

/// A child of this process, killed when it is dropped.
#[derive(Debug)]
pub(super) enum Process {
    /// One that was spawned.
    Child(Child),
    /// One that the jailer made.
    Jailed(Jailed),
}

impl Process {
    /// Its process id, until it is reaped.
    pub(super) fn id(&self) -> Option<u32> {
        match self {
            Self::Child(child) => child.id(),
            Self::Jailed(jailed) => Some(jailed.id()),
        }
    }

    pub(super) fn kill(&mut self) {
        match self {
            Self::Child(child) => {
                if let Err(error) = child.start_kill() {
                    // It has been reaped: there is nothing to kill.
                    tracing::debug!(%error, "votive-vmm was not killed");
                }
            }
            Self::Jailed(jailed) => jailed.kill(),
        }
    }

    /// Waits for its end and reaps it. May be dropped and called again. What the system does not tell, nobody knows.
    pub(super) async fn ended(&mut self) -> Ended {
        match self {
            Self::Child(child) => child.wait().await.map_or(Ended::default(), |status| Ended {
                code: status.code(),
                signal: status.signal(),
            }),
            Self::Jailed(jailed) => jailed.ended().await.unwrap_or_default(),
        }
    }
}
