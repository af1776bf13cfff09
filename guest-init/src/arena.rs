//! All the memory that PID 1 works with: one block, cut into pieces once.

use crate::limits::{
    CONNECTIONS_MAX, EVENT_HEAD_MAX, EXTENSION_EVENT_MAX, EXTENSIONS_MAX, INBOX_MAX, INPUT_MAX,
    JOURNAL_MAX, LINE_MAX, OUTBOX_MAX, REPLY_MAX, REQUEST_MAX,
};

/// Streams of lines: the runtime's two, and one an extension.
pub const LINES: usize = 2 + EXTENSIONS_MAX;

/// Bytes of the whole block. It is zeroed memory of which only touched pages are real.
pub const ARENA_LEN: usize = CONNECTIONS_MAX * (INPUT_MAX + REPLY_MAX)
    + OUTBOX_MAX
    + EVENT_HEAD_MAX
    + EXTENSION_EVENT_MAX
    + 2 * INBOX_MAX
    + REQUEST_MAX
    + JOURNAL_MAX
    + LINES * LINE_MAX;

/// The pieces.
#[derive(Debug)]
pub struct Arena<'m> {
    /// One a connection: what it sends.
    pub inputs: [&'m mut [u8]; CONNECTIONS_MAX],
    /// One a connection: what it is answered.
    pub replies: [&'m mut [u8]; CONNECTIONS_MAX],
    /// Frames to the agent.
    pub outbox: &'m mut [u8],
    /// Frames from the agent.
    pub inbox: &'m mut [u8],
    /// The body of the `Configure` frame, kept for every start of the runtime.
    pub configure: &'m mut [u8],
    /// The head that answers `next`.
    pub event_head: &'m mut [u8],
    /// The payload that follows it.
    pub request: &'m mut [u8],
    /// The `INVOKE` event of extensions.
    pub extension_event: &'m mut [u8],
    /// Events of the Telemetry API.
    pub journal: &'m mut [u8],
    /// Beginnings of lines: the runtime's standard output and error, then one an extension.
    pub lines: [&'m mut [u8]; LINES],
}

impl<'m> Arena<'m> {
    /// Cuts up `memory`; nothing if it is shorter than [`ARENA_LEN`].
    #[must_use]
    pub fn cut(memory: &'m mut [u8]) -> Option<Self> {
        let mut rest = memory;
        let mut take = |len: usize| -> Option<&'m mut [u8]> {
            let (piece, behind) = core::mem::take(&mut rest).split_at_mut_checked(len)?;
            rest = behind;
            Some(piece)
        };
        // The payload comes first, so that it is page-aligned whenever the block is.
        let request = take(REQUEST_MAX)?;
        let journal = take(JOURNAL_MAX)?;
        let outbox = take(OUTBOX_MAX)?;
        let event_head = take(EVENT_HEAD_MAX)?;
        let extension_event = take(EXTENSION_EVENT_MAX)?;
        let inbox = take(INBOX_MAX)?;
        let configure = take(INBOX_MAX)?;
        let mut inputs: [&'m mut [u8]; CONNECTIONS_MAX] =
            core::array::from_fn(|_| Default::default());
        for input in &mut inputs {
            *input = take(INPUT_MAX)?;
        }
        let mut replies: [&'m mut [u8]; CONNECTIONS_MAX] =
            core::array::from_fn(|_| Default::default());
        for reply in &mut replies {
            *reply = take(REPLY_MAX)?;
        }
        let mut lines: [&'m mut [u8]; LINES] = core::array::from_fn(|_| Default::default());
        for line in &mut lines {
            *line = take(LINE_MAX)?;
        }
        Some(Self {
            inputs,
            replies,
            outbox,
            inbox,
            configure,
            event_head,
            extension_event,
            journal,
            lines,
            request,
        })
    }
}
