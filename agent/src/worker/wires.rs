//! The tasks at an environment's edges: what the guest says, what it is told, and the end of its process.

use std::future::Future;
use std::pin::Pin;

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::event::Event;
use crate::limits::LAST_WORDS_GRACE;
use crate::link::{FrameReader, FrameWriter, HostMessage};
use crate::microvm::MicrovmEnd;

/// Brings the guest's frames into the queue; a full queue stops the link.
pub(crate) async fn read_guest(reader: OwnedReadHalf, events: mpsc::Sender<Event>) {
    let mut reader = FrameReader::new(reader);
    loop {
        let (event, last) = match reader.next().await {
            Ok(Some(frame)) => (Event::Guest(frame), false),
            Ok(None) => (Event::LinkClosed(None), true),
            Err(error) => (Event::LinkClosed(Some(error)), true),
        };
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

/// Tells the guest what it is to hear.
pub(crate) async fn write_guest(writer: OwnedWriteHalf, mut messages: mpsc::Receiver<HostMessage>) {
    let mut writer = FrameWriter::new(writer);
    while let Some(message) = messages.recv().await {
        if let Err(error) = writer.send(&message).await {
            // The reader notices the same, and tells.
            tracing::debug!(%error, "the guest was not told");
            return;
        }
    }
}

/// Waits for the process's end, and a little for what its guest said last.
pub(crate) async fn watch(
    end: Pin<Box<dyn Future<Output = MicrovmEnd> + Send>>,
    mut reading: JoinHandle<()>,
    ended: oneshot::Sender<MicrovmEnd>,
) {
    let end = end.await;
    if tokio::time::timeout(LAST_WORDS_GRACE, &mut reading).await.is_err() {
        reading.abort();
    }
    // The actor may have given the process up.
    let _ = ended.send(end);
}
