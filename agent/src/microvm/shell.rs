//! Shells: VMMs that were started before anybody knew for whom (`docs/vmm.md`, shells).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::MicrovmError;
use super::options::Options;
use super::process::{ProcessSpec, Running, after_colon};
use crate::jail::Ended;
use crate::limits::BOOT_TIMEOUT;

/// What an assignment begins with, and what it is answered by once the guest runs.
const ASSIGN: u8 = b'a';
/// The most bytes of options, and the most descriptors, that a VMM takes (`vmm/src/limits.rs`).
const OPTIONS_BYTES_MAX: usize = 16 << 10;
const DESCRIPTORS_MAX: usize = 64;

/// A VMM that waits for its assignment. It is killed when this is dropped.
#[derive(Debug)]
pub struct Shell {
    running: Running,
    control: UnixStream,
}

/// Why a shell did not become a microVM. It is gone.
#[derive(Debug)]
pub(super) enum NotAssigned {
    /// It was gone before anything was sent: everything is as it was.
    Gone,
    /// It did not take it.
    Failed(MicrovmError),
}

impl Shell {
    /// Starts one.
    ///
    /// # Errors
    /// [`MicrovmError`]; nothing is left running then.
    pub async fn start(spec: ProcessSpec) -> Result<Self, MicrovmError> {
        let (control, theirs) = UnixStream::pair().map_err(MicrovmError::Channels)?;
        let theirs = theirs.into_std().map_err(MicrovmError::Channels)?;
        let mut options = Options::default();
        options.text("--disks", spec.disks);
        options.descriptor("--shell", theirs);
        let running = Running::start(spec, options).await?;
        Ok(Self { running, control })
    }

    /// Its process id, until it is reaped.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.running.process.id()
    }

    /// Waits for its end and reaps it. May be dropped and called again.
    pub async fn ended(&mut self) -> Ended {
        self.running.process.ended().await
    }

    /// Ends it, and waits for that; gives the last line that it said.
    pub async fn end(mut self) -> String {
        self.running.process.kill();
        self.ended().await;
        self.running.said().await
    }

    /// Has it become the microVM of these options; gives its process and its control channel, once the guest runs.
    pub(super) async fn assign(
        mut self,
        options: &Options,
    ) -> Result<(Running, UnixStream), NotAssigned> {
        let descriptors = options.descriptors();
        let Some(message) = message(options).filter(|_| descriptors.len() <= DESCRIPTORS_MAX)
        else {
            let long = io::Error::other("the assignment is too long");
            return Err(NotAssigned::Failed(MicrovmError::Channels(long)));
        };
        let Ok(sent) = send(&self.control, &message, &descriptors).await else {
            self.end().await;
            return Err(NotAssigned::Gone);
        };
        let answered = timeout(BOOT_TIMEOUT, async {
            self.control.write_all(message.get(sent..).unwrap_or_default()).await?;
            self.control.read_u8().await
        });
        match answered.await {
            Ok(Ok(ASSIGN)) => Ok((self.running, self.control)),
            _ => {
                let said = after_colon(self.end().await);
                Err(NotAssigned::Failed(MicrovmError::Assignment { said }))
            }
        }
    }
}

/// The bytes of an assignment, unless they are too many.
fn message(options: &Options) -> Option<Vec<u8>> {
    let text: Vec<u8> = options
        .arguments(0)
        .iter()
        .flat_map(|argument| argument.bytes().chain(std::iter::once(0)))
        .collect();
    if text.len() > OPTIONS_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(text.len()).ok()?.to_le_bytes();
    Some([&[ASSIGN][..], &length, &text].concat())
}

/// Sends as much as goes at once, with all descriptors; gives how many bytes that was.
async fn send(
    socket: &UnixStream,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    socket
        .async_io(Interest::WRITABLE, || {
            let size = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));
            let mut space = vec![MaybeUninit::uninit(); size];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            // There is room for as many as there may be.
            rights.push(SendAncillaryMessage::ScmRights(descriptors));
            let parts = [IoSlice::new(message)];
            Ok(rustix::net::sendmsg(socket, &parts, &mut rights, SendFlags::NOSIGNAL)?)
        })
        .await
}

#[cfg(test)]
mod tests;
