//! The events of the Telemetry API, kept once for all subscribers: a ring of records that forgets its oldest ones.

/// What a record is for; a subscriber takes some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// A platform event that both the Telemetry API and the Logs API have.
    Platform = 1,
    /// A platform event of the Telemetry API alone.
    PlatformNew = 2,
    /// A platform event of the Logs API alone.
    PlatformOld = 4,
    /// A line of the function's.
    Function = 8,
    /// A line of an extension's.
    Extension = 16,
}

/// Marks the rest of the ring as unused.
const SKIP: u8 = 0;
const HEADER: usize = 8;

/// A record in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub position: u64,
    /// Where the next one begins.
    pub next: u64,
    /// The bit of its [`Tag`].
    pub tag: u8,
    /// Its bytes.
    pub len: usize,
}

/// The ring. Positions only grow; a record never wraps.
#[derive(Debug)]
pub struct Journal<'m> {
    memory: &'m mut [u8],
    head: u64,
    tail: u64,
    touched: usize,
}

impl<'m> Journal<'m> {
    /// An empty ring in `memory`, whose length is a multiple of eight.
    pub fn new(memory: &'m mut [u8]) -> Self {
        debug_assert_eq!(memory.len() % HEADER, 0);
        Self { memory, head: 0, tail: 0, touched: 0 }
    }

    /// Where the oldest record begins.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Where the next record will begin, or what comes before it.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.head = self.tail;
    }

    /// Forgets everything and gives the memory that was touched, once: it can go back to the system.
    pub fn take_touched(&mut self) -> Option<&mut [u8]> {
        self.clear();
        let touched = core::mem::take(&mut self.touched);
        self.memory.get_mut(..touched).filter(|touched| !touched.is_empty())
    }

    fn place(&self, position: u64) -> usize {
        usize::try_from(position % (self.memory.len().max(1) as u64)).unwrap_or(0)
    }

    fn header(&self, position: u64) -> Option<(u8, usize)> {
        let at = self.place(position);
        let [a, b, c, d, tag, ..] = *self.memory.get(at..at + HEADER)?.first_chunk::<HEADER>()?;
        Some((tag, usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?))
    }

    /// The first record at or behind `position`.
    #[must_use]
    pub fn record(&self, position: u64) -> Option<Record> {
        let mut position = position.max(self.head);
        // After a mark for the unused rest comes a record, if anything does.
        for _ in 0..2 {
            if position >= self.tail {
                return None;
            }
            let (tag, len) = self.header(position)?;
            let next = position + (HEADER + len.next_multiple_of(HEADER)) as u64;
            if tag != SKIP {
                return Some(Record { position, next, tag, len });
            }
            position = next;
        }
        None
    }

    /// A record's bytes.
    #[must_use]
    pub fn bytes(&self, record: Record) -> &[u8] {
        let at = self.place(record.position) + HEADER;
        self.memory.get(at..at + record.len).unwrap_or(&[])
    }

    /// What has to be forgotten before a record of `len` bytes has room: the oldest record, if it is in the way.
    #[must_use]
    pub fn in_the_way(&self, len: usize) -> Option<Record> {
        let oldest = self.record(self.head)?;
        (self.end_of(len) - self.head > self.memory.len() as u64).then_some(oldest)
    }

    /// Forgets a record that [`Journal::in_the_way`] gave.
    pub fn forget(&mut self, record: Record) {
        self.head = self.head.max(record.next);
    }

    /// Where a record of `len` bytes would begin.
    fn start_of(&self, len: usize) -> u64 {
        let left = self.memory.len() - self.place(self.tail);
        let needed = HEADER + len.next_multiple_of(HEADER);
        if needed > left { self.tail + left as u64 } else { self.tail }
    }

    fn end_of(&self, len: usize) -> u64 {
        self.start_of(len) + (HEADER + len.next_multiple_of(HEADER)) as u64
    }

    /// Adds a record of exactly `len` bytes that `fill` writes; gives it, or nothing if it is longer than a quarter of the
    /// ring. Nothing may be in its way any more.
    pub fn push(&mut self, tag: Tag, len: usize, fill: impl FnOnce(&mut [u8])) -> Option<Record> {
        if len > self.memory.len() / 4 || self.in_the_way(len).is_some() {
            return None;
        }
        let position = self.start_of(len);
        if position != self.tail {
            let unused = usize::try_from(position - self.tail).ok()? - HEADER;
            self.put_header(self.tail, SKIP, unused)?;
        }
        if self.head == self.tail {
            // Nothing is kept: what is unused in front of the record is in nobody's way.
            self.head = position;
        }
        let next = self.end_of(len);
        self.put_header(position, tag as u8, len)?;
        let at = self.place(position) + HEADER;
        fill(self.memory.get_mut(at..at + len)?);
        self.tail = next;
        self.touched = self.touched.max(at + len);
        Some(Record { position, next, tag: tag as u8, len })
    }

    fn put_header(&mut self, position: u64, tag: u8, len: usize) -> Option<()> {
        let at = self.place(position);
        let [a, b, c, d] = u32::try_from(len).ok()?.to_le_bytes();
        self.memory.get_mut(at..at + HEADER)?.copy_from_slice(&[a, b, c, d, tag, 0, 0, 0]);
        self.touched = self.touched.max(at + HEADER);
        Some(())
    }
}
