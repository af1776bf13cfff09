//! What a function writes, cut into lines, and where the lines go.
//!
//! A function can write faster than anyone reads. The lines go through a queue that is bounded in bytes to a thread of their
//! own; what does not fit is dropped and counted, so that a stopped terminal never stops an invocation's clock.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use votive_protocol::LogStream;

use crate::clock::rfc3339_milliseconds;
use crate::limits::LOG_LINE_MAX;
use crate::report::LogFormat;

#[cfg(test)]
mod tests;

/// The bytes that may wait to be written.
const WAITING_MAX: usize = 16 * 1024 * 1024;

/// Cuts what a function writes into lines.
#[derive(Debug, Default)]
pub struct LineCutter {
    partial: [Vec<u8>; 4],
}

impl LineCutter {
    /// Takes bytes and gives the lines that they complete, without their ends.
    pub fn push(&mut self, stream: LogStream, bytes: &[u8]) -> Vec<Vec<u8>> {
        let partial = &mut self.partial[index(stream)];
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, complete) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for chunk in text.chunks(LOG_LINE_MAX) {
                if partial.len() + chunk.len() > LOG_LINE_MAX {
                    lines.push(std::mem::take(partial));
                }
                partial.extend_from_slice(chunk);
            }
            if complete {
                lines.push(std::mem::take(partial));
            }
        }
        lines
    }

    /// Gives the lines that have no end yet.
    pub fn flush(&mut self) -> Vec<(LogStream, Vec<u8>)> {
        let streams = [LogStream::Stdout, LogStream::Stderr, LogStream::Init, LogStream::Extension];
        let mut lines = Vec::new();
        for stream in streams {
            let line = std::mem::take(&mut self.partial[index(stream)]);
            if !line.is_empty() {
                lines.push((stream, line));
            }
        }
        lines
    }
}

fn index(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
        LogStream::Init => 2,
        LogStream::Extension => 3,
    }
}

/// A line that a function wrote, as its log shows it.
#[must_use]
pub fn function_line(stream: LogStream, line: &[u8], format: LogFormat, time: Duration) -> Vec<u8> {
    match format {
        LogFormat::Text => line.to_vec(),
        LogFormat::Json => {
            let kind = match stream {
                LogStream::Stdout | LogStream::Stderr => "function",
                LogStream::Init => "platform.init",
                LogStream::Extension => "extension",
            };
            let record = String::from_utf8_lossy(line);
            let time = rfc3339_milliseconds(time);
            serde_json::json!({ "time": time, "type": kind, "record": record })
                .to_string()
                .into_bytes()
        }
    }
}

/// Writes lines to standard error from a thread of its own.
#[derive(Debug)]
pub struct LogWriter {
    lines: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    dropped: AtomicU64,
    thread: JoinHandle<()>,
}

impl LogWriter {
    /// A writer for standard error. On a terminal, control characters are shown rather than obeyed.
    #[must_use]
    pub fn to_stderr() -> Self {
        let (lines, receiver) = mpsc::channel::<Vec<u8>>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&waiting);
        let plain = std::io::stderr().is_terminal();
        let thread = std::thread::spawn(move || {
            for mut line in receiver {
                counter.fetch_sub(line.len(), Ordering::Relaxed);
                if plain {
                    line = without_controls(&line);
                }
                line.push(b'\n');
                // Nobody reads: there is nobody to tell.
                let _ = std::io::stderr().write_all(&line);
            }
        });
        Self { lines, waiting, dropped: AtomicU64::new(0), thread }
    }

    /// Queues a line.
    pub fn line(&self, line: Vec<u8>) {
        let len = line.len();
        if self.waiting.fetch_add(len, Ordering::Relaxed) + len > WAITING_MAX {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _ = self.lines.send(line);
    }

    /// Writes what waits and ends the thread.
    pub fn finish(self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("votive: {dropped} lines of the log were dropped");
            let _ = self.lines.send(text.into_bytes());
        }
        drop(self.lines);
        let _ = self.thread.join();
    }
}

/// A terminal obeys control characters, and these come from a stranger: they become visible (`^[`).
fn without_controls(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push(c),
            '\0'..='\x1f' => {
                shown.push('^');
                shown.push(char::from(c as u8 ^ 0x40));
            }
            '\x7f'..='\u{9f}' => shown.push('\u{fffd}'),
            _ => shown.push(c),
        }
    }
    shown.into_bytes()
}
