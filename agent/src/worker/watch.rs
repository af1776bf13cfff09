//! What happens, told to whoever watches: bounded, and never waited for.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};

use crate::clock::wall_clock;
use crate::limits::{WATCH_LINES_WAITING_MAX, WATCH_WAITING_MAX};
use crate::worker::api::{WorkerEvent, WorkerEventKind};

/// Where events are put.
#[derive(Debug)]
pub(crate) struct Broadcast {
    events: broadcast::Sender<WorkerEvent>,
    /// Apart from the events, so that a talkative function costs no watcher an event.
    lines: broadcast::Sender<WorkerEvent>,
}

impl Broadcast {
    pub(crate) fn new() -> Self {
        let (events, _) = broadcast::channel(WATCH_WAITING_MAX);
        let (lines, _) = broadcast::channel(WATCH_LINES_WAITING_MAX);
        Self { events, lines }
    }

    /// Whether anyone reads logs: if not, no line needs to be copied.
    pub(crate) fn is_log_watched(&self) -> bool {
        self.lines.receiver_count() > 0
    }

    pub(crate) fn tell(&self, kind: WorkerEventKind) {
        let sender = match kind {
            WorkerEventKind::Log { .. } => &self.lines,
            _ => &self.events,
        };
        // Without a watcher there is nobody to tell.
        let _ = sender.send(WorkerEvent { time: wall_clock(), kind });
    }

    pub(crate) fn watch(&self, logs: bool) -> Watch {
        Watch { events: self.events.subscribe(), lines: logs.then(|| self.lines.subscribe()) }
    }
}

/// A view of what happens. One that does not keep up is told how much it missed.
#[derive(Debug)]
pub struct Watch {
    events: broadcast::Receiver<WorkerEvent>,
    lines: Option<broadcast::Receiver<WorkerEvent>>,
}

impl Watch {
    /// The next event; `None` when the worker has ended. Nothing is lost if this is cancelled.
    pub async fn next(&mut self) -> Option<WorkerEvent> {
        let received = match &mut self.lines {
            None => self.events.recv().await,
            Some(lines) => tokio::select! {
                received = self.events.recv() => received,
                received = lines.recv() => received,
            },
        };
        match received {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(missed_event(wall_clock(), missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

fn missed_event(time: Duration, missed: u64) -> WorkerEvent {
    WorkerEvent { time, kind: WorkerEventKind::Missed(missed) }
}
