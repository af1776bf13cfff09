//! What the operator asks for by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT's number.
const INTERRUPT: u8 = 2;
/// SIGTERM's number.
const TERMINATE: u8 = 15;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Begin the drain; the signal's name.
    Drain(&'static str),
    /// End everything at once; the signal's number.
    End(u8),
    /// Read the certificates again.
    Renew,
}

/// The signals that are listened to.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    draining: bool,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            draining: false,
        })
    }

    /// Waits for the next one. Nothing is lost if this is cancelled.
    pub async fn next(&mut self) -> Asked {
        let (name, number) = tokio::select! {
            _ = self.hangup.recv() => return Asked::Renew,
            _ = self.interrupt.recv() => ("SIGINT", INTERRUPT),
            _ = self.terminate.recv() => ("SIGTERM", TERMINATE),
        };
        if std::mem::replace(&mut self.draining, true) {
            Asked::End(number)
        } else {
            Asked::Drain(name)
        }
    }
}
