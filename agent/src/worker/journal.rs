//! An environment's log: the platform's lines and the function's, to where they go.

use std::sync::Arc;
use std::time::Duration;

use votive_protocol::{InvocationId, LogStream};

use crate::clock::wall_clock;
use crate::limits::{LOG_TAIL_MAX, WATCH_LINE_MAX};
use crate::log::{LineCutter, LogWriter, function_line};
use crate::report::LogFormat;
use crate::worker::api::{EnvironmentId, WorkerEventKind};
use crate::worker::watch::Broadcast;

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Nowhere.
    Nowhere,
    /// To standard error.
    Stderr(LogWriter),
    /// To whoever watches the worker.
    Watchers(Arc<Broadcast>),
}

/// The log of one environment.
#[derive(Debug)]
pub(crate) struct Journal {
    environment: EnvironmentId,
    format: LogFormat,
    sink: Sink,
    cutter: LineCutter,
    invocation: Option<InvocationId>,
    /// The end of the invocation's log, if it was asked for.
    tail: Option<Vec<u8>>,
}

impl Journal {
    pub(crate) fn new(environment: EnvironmentId, format: LogFormat, sink: Sink) -> Self {
        let cutter = LineCutter::default();
        Self { environment, format, sink, cutter, invocation: None, tail: None }
    }

    /// An invocation begins.
    pub(crate) fn begin(&mut self, invocation: InvocationId, tail: bool) {
        self.invocation = Some(invocation);
        self.tail = tail.then(Vec::new);
    }

    /// It is over: gives the end of its log.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.invocation = None;
        self.tail.take().unwrap_or_default()
    }

    /// A line of the platform's.
    pub(crate) fn platform(&mut self, line: impl Fn(LogFormat, Duration) -> String) {
        if self.is_read() {
            let line = line(self.format, wall_clock()).into_bytes();
            self.write(None, line);
        }
    }

    /// What the function wrote.
    pub(crate) fn function(&mut self, stream: LogStream, bytes: &[u8]) {
        for line in self.cutter.push(stream, bytes) {
            self.function_line(stream, &line);
        }
    }

    /// What the function wrote without ending its line.
    pub(crate) fn flush(&mut self) {
        for (stream, line) in self.cutter.flush() {
            self.function_line(stream, &line);
        }
    }

    /// Writes what waits.
    pub(crate) fn finish(mut self) {
        self.flush();
        if let Sink::Stderr(writer) = self.sink {
            writer.finish();
        }
    }

    fn function_line(&mut self, stream: LogStream, line: &[u8]) {
        if self.is_read() {
            let line = function_line(stream, line, self.format, wall_clock());
            self.write(Some(stream), line);
        }
    }

    fn is_read(&self) -> bool {
        let read = match &self.sink {
            Sink::Nowhere => false,
            Sink::Stderr(_) => true,
            Sink::Watchers(broadcast) => broadcast.is_log_watched(),
        };
        read || self.tail.is_some()
    }

    fn write(&mut self, stream: Option<LogStream>, mut line: Vec<u8>) {
        if let Some(tail) = &mut self.tail {
            tail.extend_from_slice(&line);
            tail.push(b'\n');
            let excess = tail.len().saturating_sub(LOG_TAIL_MAX);
            tail.drain(..excess);
        }
        match &self.sink {
            Sink::Nowhere => {}
            Sink::Stderr(writer) => writer.line(line),
            Sink::Watchers(broadcast) if broadcast.is_log_watched() => {
                line.truncate(WATCH_LINE_MAX);
                let (environment, invocation) = (self.environment, self.invocation);
                broadcast.tell(WorkerEventKind::Log { environment, invocation, stream, line });
            }
            Sink::Watchers(_) => {}
        }
    }
}
