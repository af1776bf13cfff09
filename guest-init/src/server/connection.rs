//! One connection's bytes: what came in, what has to go out, and where the exchange stands.

use crate::http::{Decoder, Reply, Span};
use crate::limits::{INPUT_MAX, REPLY_MAX};
use crate::telemetry::request::Api;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody is connected.
    Free,
    /// A request's head is being read.
    Head,
    /// A request's body is being read.
    Body(Body),
    /// `next` waits for an invocation.
    Next,
    /// The extension in this place waits for an event.
    ExtensionNext(usize),
    /// The last answer is out: everything else is read and thrown away until the client hangs up.
    Linger,
    /// To be closed as soon as the output is written.
    Close,
}

/// A body that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) decoder: Decoder,
    pub(super) purpose: Purpose,
    /// What happens when it is over.
    pub(super) then: Then,
}

/// What a body is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Passed on as it comes; `sent` bytes so far, at most `max`.
    Response { sent: u64, max: u64 },
    /// Kept behind the head until it is whole.
    Error { init: bool, error_type: Span, xray_cause: Span, overflowed: bool },
    /// Kept behind the head until it is whole, too.
    Form { form: Form, overflowed: bool },
    /// Thrown away; `left` bytes may still be.
    Discard { left: u64 },
}

/// What an extension's body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A registration under the name in the head; `account` says whether it asks for the account's id.
    Register { name: Span, account: bool },
    /// A subscription of the extension in this place.
    Subscribe { slot: usize, api: Api },
}

/// What happens behind a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is answered.
    Reply(Reply),
    /// It asked for the next invocation.
    Next,
    /// The extension in this place asked for its next event.
    ExtensionNext(usize),
}

/// What has to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Nothing,
    /// Bytes of `reply`, from `at` up to `len`.
    Reply {
        at: usize,
        len: usize,
    },
    /// The event: so many bytes of its head and payload are out.
    Event {
        sent: u64,
    },
    /// The `INVOKE` event: a head in `reply`, then a body that all extensions share, of which so many bytes are out.
    Invoke {
        at: usize,
        len: usize,
        sent: usize,
    },
}

/// One connection.
///
/// `input[..kept]` is what must stay (the head and body of an error report), `input[raw..end]` what is still to be parsed.
#[derive(Debug)]
pub(super) struct Connection<'m> {
    pub(super) input: &'m mut [u8],
    pub(super) head_len: usize,
    pub(super) kept: usize,
    pub(super) raw: usize,
    pub(super) end: usize,
    /// How far `input[raw..]` was searched for the end of a head.
    pub(super) searched: usize,
    pub(super) phase: Phase,
    pub(super) output: Output,
    pub(super) reply: &'m mut [u8],
    pub(super) keep_alive: bool,
    /// Orders connections by when they were last opened or asked something.
    pub(super) turn: u64,
    /// The writing side is to be shut down: the last answer is out.
    pub(super) half_close: bool,
}

impl<'m> Connection<'m> {
    pub(super) fn new(input: &'m mut [u8], reply: &'m mut [u8]) -> Self {
        debug_assert_eq!((input.len(), reply.len()), (INPUT_MAX, REPLY_MAX));
        Self {
            input,
            head_len: 0,
            kept: 0,
            raw: 0,
            end: 0,
            searched: 0,
            phase: Phase::Free,
            output: Output::Nothing,
            reply,
            keep_alive: true,
            turn: 0,
            half_close: false,
        }
    }

    pub(super) fn reset(&mut self, phase: Phase) {
        self.head_len = 0;
        self.kept = 0;
        self.raw = 0;
        self.end = 0;
        self.searched = 0;
        self.phase = phase;
        self.output = Output::Nothing;
        self.keep_alive = true;
        self.half_close = false;
    }

    /// What was kept of a body.
    pub(super) fn kept_body(&self) -> &[u8] {
        self.input.get(self.head_len..self.kept).unwrap_or(&[])
    }

    /// The bytes that are still to be parsed.
    pub(super) fn rest(&self) -> &[u8] {
        self.input.get(self.raw..self.end).unwrap_or(&[])
    }

    /// Where the next bytes go.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.input.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// Makes as much space as there can be.
    pub(super) fn compact(&mut self) {
        if self.raw == self.end {
            self.raw = self.kept;
            self.end = self.kept;
        } else if self.raw > self.kept && self.end == self.input.len() {
            self.input.copy_within(self.raw..self.end, self.kept);
            self.end -= self.raw - self.kept;
            self.raw = self.kept;
        }
    }

    /// Puts what is still to be parsed at the very front, so that spans of a head stay true while its body is collected.
    pub(super) fn move_to_front(&mut self) {
        if self.raw > 0 {
            self.input.copy_within(self.raw..self.end, 0);
            self.end -= self.raw;
            self.raw = 0;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.end == self.input.len()
    }
}
