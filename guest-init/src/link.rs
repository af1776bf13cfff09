//! Frames on their way: [`Inbox`] puts together what the agent says, [`Outbox`] holds what it is still to be told.

#[cfg(test)]
mod tests;

use votive_protocol::{FrameError, GuestFrame, HEADER_LEN, Header, Kind};

/// Puts frames together from a stream.
#[derive(Debug)]
pub struct Inbox<'m> {
    buffer: &'m mut [u8],
    start: usize,
    end: usize,
}

impl<'m> Inbox<'m> {
    /// An empty inbox; `buffer` holds at least one whole frame.
    pub fn new(buffer: &'m mut [u8]) -> Self {
        Self { buffer, start: 0, end: 0 }
    }

    /// Where the next bytes of the stream go; never empty once every whole frame was taken.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// `len` bytes were read into [`Inbox::space`].
    pub fn received(&mut self, len: usize) {
        self.end = self.buffer.len().min(self.end.saturating_add(len));
    }

    /// The next frame, if it is there whole: its kind and its body.
    ///
    /// # Errors
    /// [`FrameError`] if a header is none; the stream cannot be followed any further.
    pub fn take(&mut self) -> Result<Option<(Kind, &[u8])>, FrameError> {
        let there = self.buffer.get(self.start..self.end).unwrap_or(&[]);
        let Some(header) = there.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::parse(*header)?;
        let len = HEADER_LEN + header.body_len;
        if there.len() < len {
            return Ok(None);
        }
        let from = self.start + HEADER_LEN;
        self.start += len;
        Ok(Some((header.kind, self.buffer.get(from..self.start).unwrap_or(&[]))))
    }
}

/// Holds frames until the link takes them.
#[derive(Debug)]
pub struct Outbox<'m> {
    buffer: &'m mut [u8],
    start: usize,
    end: usize,
    lost: u32,
    held: bool,
}

impl<'m> Outbox<'m> {
    /// An empty outbox.
    pub fn new(buffer: &'m mut [u8]) -> Self {
        Self { buffer, start: 0, end: 0, lost: 0, held: false }
    }

    /// Bytes that frames can still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.buffer.len() - (self.end - self.start)
    }

    /// Frames that found no room or could not be written: a fault of PID 1's, since it reads nothing without room.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.lost
    }

    /// Adds a frame that says little by itself: if it is the only one, it may wait for the next, so that one write takes
    /// both. A client sends the head and the body of a request in two pieces as a rule.
    pub fn push_held(&mut self, frame: &GuestFrame<'_>) {
        let alone = self.pending().is_empty();
        self.push(frame);
        self.held = alone;
    }

    /// Whether the only frame is one that may wait.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: &GuestFrame<'_>) {
        self.held = false;
        let place = self.buffer.get_mut(self.end..).unwrap_or(&mut []);
        if let Ok(len) = frame.encode(place) {
            self.end += len;
            return;
        }
        self.compact();
        match frame.encode(self.buffer.get_mut(self.end..).unwrap_or(&mut [])) {
            Ok(len) => self.end += len,
            Err(_) => self.lost = self.lost.saturating_add(1),
        }
    }

    /// Room for a log frame whose text is read straight into it: at most `max` bytes. [`Outbox::finish_log`] completes it.
    pub fn log_space(&mut self, max: usize) -> &mut [u8] {
        if self.buffer.len() - self.end < HEADER_LEN + 1 + max {
            self.compact();
        }
        let from = self.end + HEADER_LEN + 1;
        let to = self.buffer.len().min(from.saturating_add(max));
        self.buffer.get_mut(from..to).unwrap_or(&mut [])
    }

    /// The first `len` bytes of what was read into [`Outbox::log_space`], which is not a frame yet.
    #[must_use]
    pub fn log_text(&self, len: usize) -> &[u8] {
        let from = self.end + HEADER_LEN + 1;
        self.buffer.get(from..from + len).unwrap_or(&[])
    }

    /// Makes a frame of `len` bytes that were read into [`Outbox::log_space`].
    pub fn finish_log(&mut self, stream: votive_protocol::LogStream, len: usize) {
        let Ok(header) = Header::new(Kind::Log, len.saturating_add(1)) else { return };
        let end = self.end + HEADER_LEN + 1 + len;
        if let Some([head @ .., kind]) = self.buffer.get_mut(self.end..self.end + HEADER_LEN + 1)
            && let Some(head) = head.first_chunk_mut::<HEADER_LEN>()
        {
            *head = header.to_bytes();
            *kind = stream as u8;
            self.end = end;
            self.held = false;
        }
    }

    /// What is still to be written.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or(&[])
    }

    /// `len` bytes of [`Outbox::pending`] were written.
    pub fn written(&mut self, len: usize) {
        self.start = self.end.min(self.start.saturating_add(len));
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    fn compact(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}
