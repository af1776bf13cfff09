//! The Telemetry API and the Logs API without their sockets: who subscribed to what, what is still to be delivered, what had
//! to be dropped.
//!
//! Every event is kept once, in a ring ([`journal`]); a subscriber is a place in it. One that falls so far behind that the
//! ring reaches it loses its oldest events, which are counted and told (`platform.logsDropped`); nobody else is held up.

pub mod delivery;
pub mod events;
pub mod journal;
pub mod lines;
pub mod request;
#[cfg(test)]
mod tests;

use votive_protocol::TelemetryTypes;

use crate::http::Writer;
use crate::limits::{EXTENSIONS_MAX, RETRY_NS};
use delivery::{Answer, Batch, Delivery};
use events::EVENT_MAX;
use journal::{Journal, Record, Tag};
use request::{Api, Destination, Request};

/// Why events were dropped, in the words of AWS's emulator.
const SLOW: &str = "Some logs were dropped because the downstream consumer is slower than the logs production rate";
const FAILED: &str = "could not send events";
/// Room for a `platform.logsDropped`.
const NOTE_MAX: usize = 320;

/// Why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeError {
    /// The init phase is over, or the other API is in use.
    Closed,
    /// The extension has subscribed already.
    Taken,
}

/// One subscriber.
#[derive(Clone, Copy, Debug)]
struct Subscriber {
    request: Request,
    mask: u8,
    /// Everything before this was delivered or dropped.
    cursor: u64,
    items: u64,
    bytes: u64,
    /// When the oldest event that is still to be sent came.
    since_ns: u64,
    dropped_records: u64,
    dropped_bytes: u64,
    reason: &'static str,
    flight: Option<Delivery>,
    /// Nothing is sent before this.
    retry_ns: u64,
    flush: bool,
}

/// All subscribers and the events that they are still to be told.
#[derive(Debug)]
pub struct Telemetry<'m> {
    journal: Journal<'m>,
    subscribers: [Option<Subscriber>; EXTENSIONS_MAX],
    api: Option<Api>,
    open: bool,
}

impl<'m> Telemetry<'m> {
    /// No subscribers, and subscription is open; events are kept in `memory`.
    pub fn new(memory: &'m mut [u8]) -> Self {
        Self {
            journal: Journal::new(memory),
            subscribers: [None; EXTENSIONS_MAX],
            api: None,
            open: true,
        }
    }

    /// Forgets everything and opens again.
    pub fn clear(&mut self) {
        self.subscribers = [None; EXTENSIONS_MAX];
        self.api = None;
        self.open = true;
        self.journal.clear();
    }

    /// Nobody can subscribe any more.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Memory that was touched and that nobody needs any more: what it holds is of no use. Names it once.
    pub fn take_unused(&mut self) -> Option<&mut [u8]> {
        if self.is_active() { None } else { self.journal.take_touched() }
    }

    /// Whether there is anybody to tell.
    #[must_use]
    pub fn has_subscribers(&self) -> bool {
        self.subscribers.iter().any(Option::is_some)
    }

    /// Whether events have to be kept: for a subscriber, or for one that may still come.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.open || self.has_subscribers()
    }

    /// Whether `api` can be subscribed to.
    #[must_use]
    pub fn is_open(&self, api: Api) -> bool {
        self.open && self.api.is_none_or(|used| used == api)
    }

    /// Subscribes the extension in `slot`. It is told everything that is still known from before.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(
        &mut self,
        slot: usize,
        request: Request,
        api: Api,
        now_ns: u64,
    ) -> Result<(), SubscribeError> {
        if !self.is_open(api) {
            return Err(SubscribeError::Closed);
        }
        let place = self.subscribers.get_mut(slot).ok_or(SubscribeError::Closed)?;
        if place.is_some() {
            return Err(SubscribeError::Taken);
        }
        let mut subscriber = Subscriber {
            request,
            mask: mask(request.types, api),
            cursor: self.journal.head(),
            items: 0,
            bytes: 0,
            since_ns: now_ns,
            dropped_records: 0,
            dropped_bytes: 0,
            reason: SLOW,
            flight: None,
            retry_ns: 0,
            flush: false,
        };
        let mut position = subscriber.cursor;
        while let Some(record) = self.journal.record(position) {
            subscriber.count(record, now_ns);
            position = record.next;
        }
        *place = Some(subscriber);
        self.api = Some(api);
        Ok(())
    }

    /// Keeps a platform event.
    pub fn platform(
        &mut self,
        tag: Tag,
        at: Times,
        kind: &str,
        record: impl FnOnce(&mut Writer<'_>),
    ) {
        if !self.is_active() {
            return;
        }
        let mut event = [0; EVENT_MAX];
        let mut writer = Writer::new(&mut event);
        events::envelope(&mut writer, at.realtime_ns, kind, record);
        if let Some(event) = writer.finish().and_then(|len| event.get(..len)) {
            self.push(tag, event.len(), at.now_ns, |place| place.copy_from_slice(event));
        }
    }

    /// Keeps a line that the function or an extension wrote.
    pub fn line(&mut self, tag: Tag, at: Times, line: &[u8]) {
        let kind = if tag == Tag::Function { "function" } else { "extension" };
        let len = events::envelope_len(kind, crate::json::escaped_len(line) + 2);
        self.push(tag, len, at.now_ns, |place| {
            let mut writer = Writer::new(place);
            events::envelope(&mut writer, at.realtime_ns, kind, |writer| {
                events::push_text(writer, line);
            });
        });
    }

    fn push(&mut self, tag: Tag, len: usize, now_ns: u64, fill: impl FnOnce(&mut [u8])) {
        if !self.is_active() {
            return;
        }
        while let Some(record) = self.journal.in_the_way(len) {
            self.forget(record);
        }
        if let Some(record) = self.journal.push(tag, len, fill) {
            for subscriber in self.subscribers.iter_mut().flatten() {
                subscriber.count(record, now_ns);
            }
        }
    }

    /// Makes room: the oldest record goes, and whoever was still to be told loses it.
    fn forget(&mut self, record: Record) {
        for subscriber in self.subscribers.iter_mut().flatten() {
            if subscriber.cursor >= record.next {
                continue;
            }
            // A batch that is half written cannot be taken up again behind a gap.
            if subscriber.flight.is_some_and(|flight| flight.start < record.next) {
                subscriber.drop_flight(SLOW);
            }
            if subscriber.cursor < record.next {
                if record.tag & subscriber.mask != 0 {
                    subscriber.items = subscriber.items.saturating_sub(1);
                    subscriber.bytes = subscriber.bytes.saturating_sub(record.len as u64);
                    subscriber.drop(1, record.len as u64, SLOW);
                }
                subscriber.cursor = record.next;
            }
        }
        self.journal.forget(record);
    }

    /// Everything that is kept is to be sent as soon as it can be.
    pub fn flush(&mut self) {
        for subscriber in self.subscribers.iter_mut().flatten() {
            subscriber.flush = true;
        }
    }

    /// What comes from now on may wait as subscribers asked for.
    pub fn end_flush(&mut self) {
        for subscriber in self.subscribers.iter_mut().flatten() {
            subscriber.flush = false;
        }
    }

    /// Whether nothing is left that a subscriber takes now.
    #[must_use]
    pub fn is_flushed(&self, now_ns: u64) -> bool {
        let waits = |one: &Subscriber| {
            one.flight.is_some() || (one.has_something() && one.retry_ns <= now_ns)
        };
        !self.subscribers.iter().flatten().any(waits)
    }

    /// Where batches of the extension in `slot` go.
    #[must_use]
    pub fn destination(&self, slot: usize) -> Option<Destination> {
        Some(self.subscribers.get(slot)?.as_ref()?.request.destination)
    }

    /// Whether a batch is under way.
    #[must_use]
    pub fn in_flight(&self, slot: usize) -> bool {
        self.subscribers.get(slot).and_then(Option::as_ref).is_some_and(|one| one.flight.is_some())
    }

    /// Whether a batch is to be begun now.
    #[must_use]
    pub fn is_due(&self, slot: usize, now_ns: u64) -> bool {
        let subscriber = self.subscribers.get(slot).and_then(Option::as_ref);
        subscriber.is_some_and(|one| one.due_ns().is_some_and(|due_ns| due_ns <= now_ns))
    }

    /// When the next batch is due, if any will be.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.subscribers.iter().flatten().filter_map(Subscriber::due_ns).min()
    }

    /// Begins a batch; says whether there is one.
    pub fn begin(&mut self, slot: usize, at: Times) -> bool {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return false };
        let mut note = [0; NOTE_MAX];
        let mut note_len = 0;
        if subscriber.dropped_records > 0 && subscriber.request.types.platform {
            let mut writer = Writer::new(&mut note);
            events::envelope(&mut writer, at.realtime_ns, "platform.logsDropped", |writer| {
                writer.push(b"{\"droppedBytes\":");
                writer.push_decimal(subscriber.dropped_bytes);
                writer.push(b",\"droppedRecords\":");
                writer.push_decimal(subscriber.dropped_records);
                events::push_member(writer, ",\"reason\":", subscriber.reason);
                writer.push(b"}");
            });
            note_len = writer.finish().unwrap_or(0);
        }
        let batch = subscriber.batch(&self.journal);
        let note = note.get(..note_len).unwrap_or(&[]);
        if batch.items == 0 && note.is_empty() {
            subscriber.items = 0;
            return false;
        }
        let Some(flight) = Delivery::new(&subscriber.request.destination, batch, note) else {
            return false;
        };
        subscriber.items = subscriber.items.saturating_sub(batch.items);
        subscriber.bytes = subscriber.bytes.saturating_sub(batch.bytes);
        subscriber.since_ns = at.now_ns;
        subscriber.dropped_records = 0;
        subscriber.dropped_bytes = 0;
        subscriber.flight = Some(flight);
        true
    }

    /// Puts the next bytes of the batch that is under way into `buffer`; gives how many.
    pub fn fill(&self, slot: usize, buffer: &mut [u8]) -> usize {
        let flight = self.subscribers.get(slot).and_then(Option::as_ref);
        flight.and_then(|one| one.flight.as_ref()).map_or(0, |one| one.fill(&self.journal, buffer))
    }

    /// `len` of those bytes were written.
    pub fn written(&mut self, slot: usize, len: usize) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return };
        let Some(flight) = &mut subscriber.flight else { return };
        flight.written(&self.journal, len);
        if !flight.is_http() && flight.is_written(&self.journal) {
            subscriber.land();
        }
    }

    /// Takes bytes of a subscriber's answer. A batch that it refuses is dropped.
    pub fn answered(&mut self, slot: usize, bytes: &[u8]) -> Answer {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return Answer::Refused };
        let Some(flight) = &mut subscriber.flight else { return Answer::Taken };
        let answer = flight.answered(bytes);
        match answer {
            Answer::Unfinished => {}
            Answer::Taken => subscriber.land(),
            Answer::Refused => subscriber.drop_flight(FAILED),
        }
        answer
    }

    /// The subscriber cannot be reached: the batch is tried again later.
    pub fn unreachable(&mut self, slot: usize, now_ns: u64) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(slot) else { return };
        if let Some(flight) = subscriber.flight.take() {
            subscriber.items += flight.items;
            subscriber.bytes += flight.bytes;
        }
        subscriber.retry_ns = now_ns.saturating_add(RETRY_NS);
    }

    /// The connection broke, or took too long: nobody knows what of the batch arrived, it is dropped.
    pub fn broken(&mut self, slot: usize) {
        if let Some(Some(subscriber)) = self.subscribers.get_mut(slot) {
            subscriber.drop_flight(FAILED);
        }
    }

    /// The extension in `slot` is gone.
    pub fn leave(&mut self, slot: usize) {
        if let Some(place) = self.subscribers.get_mut(slot) {
            *place = None;
        }
    }
}

/// The same moment on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub now_ns: u64,
    /// Nanoseconds since the Unix epoch.
    pub realtime_ns: u64,
}

/// The records that a subscriber takes.
fn mask(types: TelemetryTypes, api: Api) -> u8 {
    let own = match api {
        Api::Telemetry => Tag::PlatformNew,
        Api::Logs => Tag::PlatformOld,
    };
    let mut mask = 0;
    for (wanted, tag) in [
        (types.platform, Tag::Platform),
        (types.platform, own),
        (types.function, Tag::Function),
        (types.extension, Tag::Extension),
    ] {
        if wanted {
            mask |= tag as u8;
        }
    }
    mask
}

impl Subscriber {
    fn count(&mut self, record: Record, now_ns: u64) {
        if record.tag & self.mask == 0 {
            return;
        }
        if self.items == 0 {
            self.since_ns = now_ns;
        }
        self.items += 1;
        self.bytes += record.len as u64;
    }

    fn has_something(&self) -> bool {
        self.items > 0 || (self.dropped_records > 0 && self.request.types.platform)
    }

    fn due_ns(&self) -> Option<u64> {
        if self.flight.is_some() || !self.has_something() {
            return None;
        }
        let buffering = self.request.buffering;
        let full = self.items >= buffering.max_items || self.bytes >= buffering.max_bytes;
        let due_ns = if full || self.flush {
            0
        } else {
            self.since_ns.saturating_add(buffering.timeout_ms.saturating_mul(1_000_000))
        };
        Some(due_ns.max(self.retry_ns))
    }

    /// The next records, within the limits of a batch; one at least if there is one.
    fn batch(&self, journal: &Journal<'_>) -> Batch {
        let buffering = self.request.buffering;
        let start = self.cursor;
        let mut batch = Batch { start, end: start, mask: self.mask, items: 0, bytes: 0 };
        while let Some(record) = journal.record(batch.end) {
            if record.tag & self.mask != 0 {
                let bytes = batch.bytes + record.len as u64;
                let over = bytes > buffering.max_bytes && batch.items > 0;
                if over || batch.items == buffering.max_items {
                    break;
                }
                batch.items += 1;
                batch.bytes = bytes;
            }
            batch.end = record.next;
        }
        batch
    }

    /// The batch arrived.
    fn land(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.cursor = flight.end;
        }
        self.flush &= self.has_something();
    }

    fn drop(&mut self, records: u64, bytes: u64, reason: &'static str) {
        self.dropped_records += records;
        self.dropped_bytes += bytes;
        self.reason = reason;
    }

    fn drop_flight(&mut self, reason: &'static str) {
        if let Some(flight) = self.flight.take() {
            self.cursor = flight.end;
            self.drop(flight.items, flight.bytes, reason);
        }
    }
}
