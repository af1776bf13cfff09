//! The agent's end of a VMM's control channel: a byte asks, the same byte answers once it is done.
//!
//! Used as [`MicrovmControl`], it is one question at a time, each with its answer. Split, it is questions and answers for
//! whoever keeps their own account of both; answers come in the order of the questions.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::limits::HANG_TIMEOUT;

#[cfg(test)]
mod tests;

/// What a VMM can be asked. Both are answered at once when they are so already, so that either asks whether it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// That no vCPU runs, from the answer on.
    Pause,
    /// That the vCPUs run.
    Resume,
}

impl ControlRequest {
    fn byte(self) -> u8 {
        match self {
            Self::Pause => b'p',
            Self::Resume => b'r',
        }
    }

    fn parse(byte: u8) -> Option<Self> {
        [Self::Pause, Self::Resume].into_iter().find(|request| request.byte() == byte)
    }
}

/// Why a VMM was not paused or resumed. Nothing but its end can be wanted of it then.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It did not answer in time.
    #[error("votive-vmm did not answer within {0:?}")]
    TimedOut(Duration),
    /// Its end of the channel is closed.
    #[error("votive-vmm is gone")]
    Gone,
    /// It reads nothing any more.
    #[error("votive-vmm does not take what it is asked")]
    Full,
    /// It answered something else.
    #[error("votive-vmm answered {answer:#04x} where {expected:?} was asked")]
    Unexpected {
        /// What was asked.
        expected: Option<ControlRequest>,
        /// What came.
        answer: u8,
    },
    /// A question before was given up, so that answers cannot be told apart.
    #[error("votive-vmm owes an answer")]
    Unanswered,
    /// The channel.
    #[error("votive-vmm cannot be asked")]
    Io(#[from] std::io::Error),
}

/// What pauses and resumes a microVM. Dropping it ends the microVM.
#[derive(Debug)]
pub struct MicrovmControl {
    sender: ControlSender,
    receiver: ControlReceiver,
    patience: Duration,
    unanswered: bool,
}

/// The questions of a channel. Dropping it ends the microVM.
#[derive(Debug)]
pub struct ControlSender(OwnedWriteHalf);

/// The answers of a channel.
#[derive(Debug)]
pub struct ControlReceiver(OwnedReadHalf);

impl MicrovmControl {
    /// The control of the VMM at the other end of `socket`.
    #[must_use]
    pub fn new(socket: UnixStream) -> Self {
        let (reader, writer) = socket.into_split();
        let (sender, receiver) = (ControlSender(writer), ControlReceiver(reader));
        Self { sender, receiver, patience: HANG_TIMEOUT, unanswered: false }
    }

    /// Waits `patience` for each answer rather than [`HANG_TIMEOUT`].
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Has every vCPU leave the guest. When this returns, none runs.
    ///
    /// # Errors
    /// [`ControlError`]; so does every later call then, and every call after one that was dropped before its end.
    pub async fn pause(&mut self) -> Result<(), ControlError> {
        self.ask(ControlRequest::Pause).await
    }

    /// Has the vCPUs run.
    ///
    /// # Errors
    /// As [`MicrovmControl::pause`].
    pub async fn resume(&mut self) -> Result<(), ControlError> {
        self.ask(ControlRequest::Resume).await
    }

    /// Questions and answers apart from each other.
    #[must_use]
    pub fn into_split(self) -> (ControlSender, ControlReceiver) {
        (self.sender, self.receiver)
    }

    async fn ask(&mut self, request: ControlRequest) -> Result<(), ControlError> {
        if std::mem::replace(&mut self.unanswered, true) {
            return Err(ControlError::Unanswered);
        }
        self.sender.send(request)?;
        match timeout(self.patience, self.receiver.answer()).await {
            Err(_) => Err(ControlError::TimedOut(self.patience)),
            Ok(Ok(answer)) if answer == request => {
                self.unanswered = false;
                Ok(())
            }
            Ok(Ok(answer)) => {
                Err(ControlError::Unexpected { expected: Some(request), answer: answer.byte() })
            }
            Ok(Err(error)) => Err(error),
        }
    }
}

impl ControlSender {
    /// Asks, without waiting. Some hundred questions find room before the VMM must have read one.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Full`], [`ControlError::Io`]
    pub fn send(&self, request: ControlRequest) -> Result<(), ControlError> {
        match self.0.try_write(&[request.byte()]) {
            Ok(1) => Ok(()),
            Ok(_) => Err(ControlError::Full),
            Err(error) => Err(match error.kind() {
                ErrorKind::WouldBlock => ControlError::Full,
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ControlError::Gone,
                _ => ControlError::Io(error),
            }),
        }
    }
}

impl ControlReceiver {
    /// The next answer. May be dropped and called again.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Unexpected`], [`ControlError::Io`]
    pub async fn answer(&mut self) -> Result<ControlRequest, ControlError> {
        let mut answer = [0];
        match self.0.read(&mut answer).await {
            Ok(0) => Err(ControlError::Gone),
            Ok(_) => {
                let [answer] = answer;
                ControlRequest::parse(answer)
                    .ok_or(ControlError::Unexpected { expected: None, answer })
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ControlError::Gone),
            Err(error) => Err(ControlError::Io(error)),
        }
    }
}
