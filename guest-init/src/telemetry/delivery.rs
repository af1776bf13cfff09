//! One batch on its way to a subscriber: what has to be written, and what its answer says.

use super::journal::Journal;
use super::request::Destination;
use crate::http::Writer;
use crate::limits::DESTINATION_MAX;

/// Room for a request's head and a note of what was dropped.
const HEAD_MAX: usize = 512 + DESTINATION_MAX;
// A path, a note, and what is written around them.
const _: () = assert!(DESTINATION_MAX + super::NOTE_MAX + 160 < HEAD_MAX);
/// `HTTP/1.1 200`
const STATUS_LEN: usize = 12;

/// Where the next byte comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The head, and what stands before the first record.
    Head(usize),
    /// The record at this position, and how far it is written with what stands before and behind it.
    Record {
        position: u64,
        at: usize,
        first: bool,
    },
    /// What stands behind the last record.
    End,
    Over,
}

/// What the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not all of its first line is there.
    Unfinished,
    /// The batch was taken.
    Taken,
    /// It was refused, or the answer is none.
    Refused,
}

/// A batch that is being written, or whose answer is awaited.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    head: [u8; HEAD_MAX],
    head_len: usize,
    http: bool,
    place: Place,
    /// Records from here.
    pub(super) start: u64,
    /// And up to here, of these tags.
    pub(super) end: u64,
    mask: u8,
    pub(super) items: u64,
    pub(super) bytes: u64,
    status: [u8; STATUS_LEN],
    status_len: usize,
}

/// What a batch consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) mask: u8,
    pub(super) items: u64,
    pub(super) bytes: u64,
}

impl Delivery {
    /// A batch of records behind `note`, an event of its own that may be empty.
    pub(super) fn new(destination: &Destination, batch: Batch, note: &[u8]) -> Option<Self> {
        let mut head = [0; HEAD_MAX];
        let mut writer = Writer::new(&mut head);
        let http = match destination {
            Destination::Http { port, path, put } => {
                let items = batch.items + u64::from(!note.is_empty());
                let len = batch.bytes + note.len() as u64 + items.saturating_sub(1) + 2;
                writer.push(if *put { b"PUT " } else { b"POST " });
                writer.push(path.as_str().as_bytes());
                writer.push(b" HTTP/1.1\r\nHost: sandbox.localdomain:");
                writer.push_decimal(u64::from(*port));
                writer.push(b"\r\nContent-Type: application/json\r\nContent-Length: ");
                writer.push_decimal(len);
                writer.push(b"\r\nConnection: close\r\n\r\n[");
                true
            }
            Destination::Tcp { .. } => false,
        };
        writer.push(note);
        if !note.is_empty() {
            match (http, batch.items) {
                (false, _) => writer.push(b"\n"),
                (true, 0) => {}
                (true, _) => writer.push(b","),
            }
        }
        let head_len = writer.finish()?;
        let Batch { start, end, mask, items, bytes } = batch;
        Some(Self {
            head,
            head_len,
            http,
            place: Place::Head(0),
            start,
            end,
            mask,
            items,
            bytes,
            status: [0; STATUS_LEN],
            status_len: 0,
        })
    }

    /// Whether all of it was written.
    pub(super) fn is_written(&self, journal: &Journal<'_>) -> bool {
        let mut place = self.place;
        while place != Place::Over {
            let (piece, behind) = self.piece(place, journal);
            if !piece.is_empty() {
                return false;
            }
            place = behind;
        }
        true
    }

    /// The next bytes from `place`, and what comes behind them.
    fn piece<'a>(&'a self, place: Place, journal: &'a Journal<'_>) -> (&'a [u8], Place) {
        match place {
            Place::Head(at) => {
                let head = self.head.get(at..self.head_len).unwrap_or(&[]);
                (head, self.record_from(self.start, true, journal))
            }
            Place::Record { position, at, first } => {
                let Some(record) = journal.record(position) else { return (&[], Place::Over) };
                let before: &[u8] = if self.http && !first { b"," } else { b"" };
                let behind: &[u8] = if self.http { b"" } else { b"\n" };
                let mut skipped = at;
                for part in [before, journal.bytes(record), behind] {
                    if skipped < part.len() {
                        let next = Place::Record { position, at: at - skipped + part.len(), first };
                        return (part.get(skipped..).unwrap_or(&[]), next);
                    }
                    skipped -= part.len();
                }
                (&[], self.record_from(record.next, false, journal))
            }
            Place::End => (if self.http { b"]" } else { b"" }, Place::Over),
            Place::Over => (&[], Place::Over),
        }
    }

    /// The first record of the batch at or behind `position`.
    fn record_from(&self, position: u64, first: bool, journal: &Journal<'_>) -> Place {
        let mut position = position;
        while let Some(record) = journal.record(position) {
            if record.position >= self.end {
                break;
            }
            if record.tag & self.mask != 0 {
                return Place::Record { position: record.position, at: 0, first };
            }
            position = record.next;
        }
        Place::End
    }

    /// Puts the next bytes into `buffer`; gives how many.
    pub fn fill(&self, journal: &Journal<'_>, buffer: &mut [u8]) -> usize {
        let mut place = self.place;
        let mut len = 0;
        while place != Place::Over && len < buffer.len() {
            let (piece, behind) = self.piece(place, journal);
            let now = piece.len().min(buffer.len() - len);
            if let (Some(to), Some(from)) = (buffer.get_mut(len..len + now), piece.get(..now)) {
                to.copy_from_slice(from);
            }
            len += now;
            place = behind;
        }
        len
    }

    /// `len` bytes of what [`Delivery::fill`] gave were written.
    pub fn written(&mut self, journal: &Journal<'_>, len: usize) {
        let mut left = len;
        while left > 0 && self.place != Place::Over {
            let (piece, behind) = self.piece(self.place, journal);
            if left >= piece.len() {
                left -= piece.len();
                self.place = behind;
                continue;
            }
            match &mut self.place {
                Place::Head(at) => *at += left,
                Place::Record { at, .. } => *at += left,
                Place::End | Place::Over => {}
            }
            return;
        }
    }

    /// Takes bytes of the answer.
    pub fn answered(&mut self, bytes: &[u8]) -> Answer {
        for byte in bytes {
            let Some(place) = self.status.get_mut(self.status_len) else { break };
            *place = *byte;
            self.status_len += 1;
        }
        if self.status_len < STATUS_LEN {
            return Answer::Unfinished;
        }
        match self.status {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', b'2' | b'3', tens, ones]
                if tens.is_ascii_digit() && ones.is_ascii_digit() =>
            {
                Answer::Taken
            }
            _ => Answer::Refused,
        }
    }

    pub(super) fn is_http(&self) -> bool {
        self.http
    }
}
