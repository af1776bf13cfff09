//! What the runtime and extensions write: frames for the agent, lines for telemetry.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use votive_protocol::{GuestFrame, LogStream};

use super::{Ending, LOGS, Platform, Ready, Worker, system};
use crate::arena::LINES;
use crate::limits::{LINE_MAX, LOG_CHUNK};
use crate::link::Outbox;
use crate::telemetry::Times;
use crate::telemetry::journal::Tag;
use crate::telemetry::lines::Lines;

/// How many pieces of an extension's last words are read at most: as much as a pipe holds.
const LAST_PIECES: usize = 64;

/// The reading ends of pipes, and the beginnings of lines that came from them: the runtime's standard output and error,
/// then one pipe an extension.
#[derive(Debug)]
pub(super) struct Logs<'m> {
    pipes: [Option<OwnedFd>; LINES],
    lines: [Lines<'m>; LINES],
}

impl<'m> Logs<'m> {
    pub(super) fn new(lines: [&'m mut [u8]; LINES]) -> Self {
        Self { pipes: [const { None }; LINES], lines: lines.map(Lines::new) }
    }

    pub(super) fn is_open(&self, at: usize) -> bool {
        self.pipes.get(at).is_some_and(Option::is_some)
    }

    pub(super) fn any_open(&self) -> bool {
        self.pipes.iter().any(Option::is_some)
    }
}

const _: () = assert!(LINE_MAX <= LOG_CHUNK);

impl<P: Platform> Worker<'_, P> {
    /// Reads a pipe from now on.
    pub(super) fn watch_log(&mut self, at: usize, pipe: Option<OwnedFd>) -> Result<(), Ending> {
        let Some(pipe) = pipe else { return Ok(()) };
        epoll::add(&self.epoll, &pipe, EventData::new_u64(LOGS + at as u64), EventFlags::IN)
            .map_err(|errno| system(errno, "epoll_ctl"))?;
        if let Some(slot) = self.logs.pipes.get_mut(at) {
            *slot = Some(pipe);
        }
        Ok(())
    }

    /// Reads one piece of every pipe that has one.
    pub(super) fn read_logs(&mut self, ready: Ready) -> Result<(), Ending> {
        for at in 0..LINES {
            if ready.reads(LOGS + at as u64) && self.has_room()? {
                self.read_log(at)?;
            }
        }
        Ok(())
    }

    /// Reads what an extension that ended has left.
    pub(super) fn drain_log(&mut self, at: usize) -> Result<(), Ending> {
        for _ in 0..LAST_PIECES {
            if !self.logs.is_open(at) || !self.has_room()? || !self.read_log(at)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads one piece; says whether there was one.
    fn read_log(&mut self, at: usize) -> Result<bool, Ending> {
        let Self { logs, server, platform, epoll, .. } = self;
        let Some(pipe) = logs.pipes.get(at).and_then(Option::as_ref) else { return Ok(false) };
        let Some(lines) = logs.lines.get_mut(at) else { return Ok(false) };
        let times = Times { now_ns: platform.now_ns(), realtime_ns: platform.realtime_ns() };
        let mut read = [0; LOG_CHUNK];
        let of_runtime = at < 2;
        let result = if of_runtime {
            rustix::io::read(pipe, server.outbox.log_space(LOG_CHUNK))
        } else {
            rustix::io::read(pipe, &mut read)
        };
        match result {
            Ok(len) if len > 0 && of_runtime => {
                if server.telemetry.is_active() {
                    let bytes = server.outbox.log_text(len);
                    let telemetry = &mut server.telemetry;
                    lines.push(bytes, |line| telemetry.line(Tag::Function, times, line));
                }
                let stream = if at == 0 { LogStream::Stdout } else { LogStream::Stderr };
                server.outbox.finish_log(stream, len);
                Ok(true)
            }
            Ok(len) if len > 0 => {
                let mut text = Text::new();
                lines.push(read.get(..len).unwrap_or(&[]), |line| {
                    text.push(line);
                    server.telemetry.line(Tag::Extension, times, line);
                });
                text.send(&mut server.outbox);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Ok(_) | Err(_) => {
                let tag = if of_runtime { Tag::Function } else { Tag::Extension };
                let mut text = Text::new();
                lines.flush(|line| {
                    if !of_runtime {
                        text.push(line);
                    }
                    server.telemetry.line(tag, times, line);
                });
                text.send(&mut server.outbox);
                let _ = epoll::delete(&*epoll, pipe);
                if let Some(slot) = logs.pipes.get_mut(at) {
                    *slot = None;
                }
                Ok(false)
            }
        }
    }
}

/// Lines of one extension on their way into one frame: the frames of several extensions share a stream.
struct Text {
    bytes: [u8; TEXT_MAX],
    len: usize,
}

/// What one piece can end: a line that had begun, the piece, and ends of lines where a long one is cut.
const TEXT_MAX: usize = LINE_MAX + LOG_CHUNK + 8;
const _: () = assert!(TEXT_MAX < votive_protocol::BODY_MAX);
const _: () = assert!(TEXT_MAX < crate::limits::STEP_ROOM);

impl Text {
    fn new() -> Self {
        Self { bytes: [0; TEXT_MAX], len: 0 }
    }

    fn push(&mut self, line: &[u8]) {
        for piece in [line, b"\n"] {
            if let Some(place) = self.bytes.get_mut(self.len..self.len + piece.len()) {
                place.copy_from_slice(piece);
                self.len += piece.len();
            }
        }
    }

    fn send(&self, outbox: &mut Outbox<'_>) {
        if let Some(bytes) = self.bytes.get(..self.len).filter(|bytes| !bytes.is_empty()) {
            outbox.push(&GuestFrame::Log(LogStream::Extension, bytes));
        }
    }
}
