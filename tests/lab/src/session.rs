//! One run followed to its end: frames in, an outcome out, with bounds on time, silence and size.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::frame::{self, FrameError, Kind};
use crate::job::{Job, Outcome, Stream};
use crate::qemu::Qemu;

/// All that a command may write and bring back, in bytes.
const OUTPUT_MAX: usize = 64 << 20;

/// L1 sends a frame every few seconds. A host whose processors are taken may delay that a lot.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Frames that may wait for us; then QEMU waits.
const FRAMES_IN_FLIGHT: usize = 64;

type Incoming = Result<(Kind, Vec<u8>), FrameError>;

/// Follows the machine's frames until the command has ended.
pub(crate) fn follow(
    qemu: &mut Qemu,
    job: &Job,
    start: Instant,
    sink: &mut dyn FnMut(Stream, &[u8]),
) -> Result<Outcome, Error> {
    let Some(mut frames) = qemu.frames() else { return Err(Error::Ended) };
    let (sender, receiver) = sync_channel::<Incoming>(FRAMES_IN_FLIGHT);
    // The thread ends with the pipe, which ends with QEMU, or when nobody receives any more.
    let reader = std::thread::Builder::new().name("lab-frames".to_owned()).spawn(move || {
        while let Some(frame) = frame::read(&mut frames).transpose() {
            let failed = frame.is_err();
            if sender.send(frame).is_err() || failed {
                return;
            }
        }
    })?;
    let mut record = Record::default();
    let outcome = loop {
        match next(&receiver, job, start).and_then(|frame| record.take(frame, sink)) {
            Ok(None) => {}
            Ok(Some(exit)) => break Ok(record.finish(exit, start.elapsed())),
            Err(error) => break Err(error),
        }
    };
    drop(receiver);
    drop(reader);
    outcome
}

/// Waits for the next frame, no longer than the job and the limit on silence allow.
fn next(
    receiver: &Receiver<Incoming>,
    job: &Job,
    start: Instant,
) -> Result<(Kind, Vec<u8>), Error> {
    let left = job.timeout.saturating_sub(start.elapsed());
    // In exact mode there is no sign of life to wait for.
    let patience = if job.exact { left } else { left.min(SILENCE_MAX) };
    match receiver.recv_timeout(patience) {
        Ok(frame) => Ok(frame?),
        Err(RecvTimeoutError::Disconnected) => Err(Error::Ended),
        Err(RecvTimeoutError::Timeout) if patience == left => Err(Error::Timeout(job.timeout)),
        Err(RecvTimeoutError::Timeout) => Err(Error::Stalled(SILENCE_MAX)),
    }
}

/// What has come so far.
#[derive(Debug, Default)]
struct Record {
    bytes: usize,
    stdout: Vec<u8>,
    results: BTreeMap<PathBuf, Vec<u8>>,
    open: Option<PathBuf>,
}

impl Record {
    /// Takes one frame; the exit code if it was the last.
    fn take(
        &mut self,
        (kind, body): (Kind, Vec<u8>),
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Option<i32>, Error> {
        self.bytes += body.len();
        if self.bytes > OUTPUT_MAX {
            return Err(Error::Output(OUTPUT_MAX));
        }
        match kind {
            Kind::Stdout => {
                sink(Stream::Stdout, &body);
                self.stdout.extend_from_slice(&body);
            }
            Kind::Stderr => sink(Stream::Stderr, &body),
            Kind::ResultBegins => {
                let path = PathBuf::from(String::from_utf8_lossy(&body).into_owned());
                self.results.insert(path.clone(), Vec::new());
                self.open = Some(path);
            }
            Kind::ResultData => {
                let open = self.open.as_ref().and_then(|path| self.results.get_mut(path));
                open.ok_or(FrameError::Kind(kind as u8))?.extend_from_slice(&body);
            }
            Kind::Exit => {
                let code = body.try_into().map_err(|_| FrameError::Kind(kind as u8))?;
                return Ok(Some(i32::from_le_bytes(code)));
            }
            Kind::Refused => {
                return Err(Error::Refused(String::from_utf8_lossy(&body).into_owned()));
            }
            Kind::Alive => {}
        }
        Ok(None)
    }

    fn finish(self, exit: i32, wall: Duration) -> Outcome {
        Outcome { exit, stdout: self.stdout, results: self.results, wall }
    }
}

#[cfg(test)]
mod tests;
