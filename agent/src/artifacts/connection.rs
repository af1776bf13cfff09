//! One VMM's socket: a message for each chunk that it needs, and one answer to each (`docs/vmm.md`, lazy disks).
//!
//! The VMM may be in its guest's hands. Whatever it sends is an index; one that the image does not have is answered with a
//! failure. No more than [`IN_FLIGHT_MAX`] messages are being answered at a time, beyond which its socket is not read; while it
//! does not read its answers, nothing is done for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::artifacts::User;
use crate::causes::with_causes;

/// What a VMM asks for at a time.
const IN_FLIGHT_MAX: usize = 64;
/// The chunk is there.
const PRESENT: u32 = 0;
/// It will not come.
const FAILED: u32 = 1;

/// Bytes of a question.
const QUESTION_BYTES: usize = 4;

/// Serves until the VMM hangs up.
pub(super) async fn serve(user: &Arc<User>, socket: UnixStream, read_limit: Duration) {
    let mut connection = Connection {
        user: Arc::clone(user),
        socket,
        read_limit,
        pending: Vec::new(),
        answers: JoinSet::new(),
    };
    if let Err(error) = connection.run().await {
        tracing::debug!(%error, "a VMM's chunks are served no longer");
    }
    connection.answers.shutdown().await;
}

struct Connection {
    user: Arc<User>,
    socket: UnixStream,
    read_limit: Duration,
    /// What has come of questions that are not being answered.
    pending: Vec<u8>,
    /// Given up with the connection; what they wait for goes on.
    answers: JoinSet<(u32, u32)>,
}

impl Connection {
    async fn run(&mut self) -> io::Result<()> {
        let mut received = [0; IN_FLIGHT_MAX * QUESTION_BYTES];
        loop {
            self.begin().await?;
            let room = self.answers.len() < IN_FLIGHT_MAX;
            tokio::select! {
                Some(answer) = self.answers.join_next() => {
                    // A task that panicked leaves a question without an answer: there is no going on.
                    let (index, status) = answer.map_err(io::Error::other)?;
                    self.answer(index, status).await?;
                }
                length = self.socket.read(&mut received), if room => match length? {
                    0 => return Ok(()),
                    length => self.pending.extend(received.iter().take(length)),
                },
            }
        }
    }

    /// Begins to answer what has come, as far as there is room.
    async fn begin(&mut self) -> io::Result<()> {
        let mut begun = 0;
        let (questions, _) = self.pending.as_chunks::<QUESTION_BYTES>();
        let questions: Vec<_> = questions.iter().map(|index| u32::from_le_bytes(*index)).collect();
        for index in questions {
            if self.answers.len() >= IN_FLIGHT_MAX {
                break;
            }
            begun += QUESTION_BYTES;
            if self.user.served.holds(index) {
                // It came between the VMM's look at the table and its question.
                self.answer(index, PRESENT).await?;
                continue;
            }
            let (user, limit) = (Arc::clone(&self.user), self.read_limit);
            self.answers.spawn(async move { (index, status(&user, index, limit).await) });
        }
        self.pending.drain(..begun);
        Ok(())
    }

    async fn answer(&mut self, index: u32, status: u32) -> io::Result<()> {
        let mut answer = [0; 8];
        let (chunk, code) = answer.split_at_mut(4);
        chunk.copy_from_slice(&index.to_le_bytes());
        code.copy_from_slice(&status.to_le_bytes());
        self.socket.write_all(&answer).await
    }
}

/// Brings a chunk within the limit; the status to answer with.
async fn status(user: &User, index: u32, limit: Duration) -> u32 {
    let read = user.served.read(&user.shared, &user.granted, index);
    match timeout(limit, read).await {
        Ok(Ok(())) => PRESENT,
        Ok(Err(error)) => {
            user.tell(index, &with_causes(&*error));
            FAILED
        }
        Err(_) => {
            user.tell(index, &format!("it did not come within {limit:?}"));
            FAILED
        }
    }
}
