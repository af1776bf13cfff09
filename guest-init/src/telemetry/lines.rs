//! Puts lines together from pieces.

/// The beginning of a line whose end has not come yet.
#[derive(Debug)]
pub struct Lines<'m> {
    memory: &'m mut [u8],
    len: usize,
}

impl<'m> Lines<'m> {
    /// An empty beginning; a line longer than `memory` is given in pieces.
    pub fn new(memory: &'m mut [u8]) -> Self {
        Self { memory, len: 0 }
    }

    /// Takes bytes and gives the lines that are whole, without their ends.
    pub fn push(&mut self, bytes: &[u8], mut give: impl FnMut(&[u8])) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            rest = behind.get(1..).unwrap_or(&[]);
            if self.len == 0 {
                give(line);
            } else {
                self.keep(line, &mut give);
                self.flush(&mut give);
            }
        }
        self.keep(rest, &mut give);
    }

    /// Gives what has no end yet, if there is anything.
    pub fn flush(&mut self, mut give: impl FnMut(&[u8])) {
        if self.len > 0 {
            give(self.memory.get(..self.len).unwrap_or(&[]));
            self.len = 0;
        }
    }

    fn keep(&mut self, bytes: &[u8], give: &mut impl FnMut(&[u8])) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let now = rest.len().min(self.memory.len() - self.len);
            let (piece, behind) = rest.split_at(now);
            if let Some(place) = self.memory.get_mut(self.len..self.len + now) {
                place.copy_from_slice(piece);
            }
            self.len += now;
            rest = behind;
            if self.len == self.memory.len() {
                self.flush(&mut *give);
                if self.memory.is_empty() {
                    return;
                }
            }
        }
    }
}
