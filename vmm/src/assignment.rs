//! A shell's assignment: one message with the options that it lacks, and with all descriptors that they name.
//!
//! ```text
//! offset  bytes
//!      0  1      `a`
//!      1  4      bytes of the rest, little-endian, at most MAX_ASSIGNMENT_BYTES
//!      5         the options as on a command line, each followed by a zero byte, or all but the last
//! ```
//! Descriptors come with the first byte. In the options, `fd:K` is the `K`th of them, from 0.
#![expect(unsafe_code, reason = "recvmsg, and descriptors that come with a message")]

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::exit::{Exit, ExitReason};
use crate::limits::{MAX_ASSIGNMENT_BYTES, MAX_ASSIGNMENT_DESCRIPTORS};

const ASSIGN: u8 = b'a';
const HEADER_BYTES: usize = 5;
const WHOLE_BYTES: usize = HEADER_BYTES + MAX_ASSIGNMENT_BYTES;
/// Room for the descriptors of a message, in words, for that is how their header is aligned.
const CONTROL_WORDS: usize = 2 + MAX_ASSIGNMENT_DESCRIPTORS / 2;

/// Why a message is no assignment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// It is something else.
    #[error("the assignment does not begin with `a`")]
    Other,
    /// It says that it is too long, or is longer than it says.
    #[error(
        "the assignment has {bytes} bytes; {MAX_ASSIGNMENT_BYTES} are allowed, and no more than it says"
    )]
    Length {
        /// What it says, or has.
        bytes: usize,
    },
    /// Too many descriptors, or some with a later byte.
    #[error(
        "an assignment's descriptors come with its first byte, {MAX_ASSIGNMENT_DESCRIPTORS} at most"
    )]
    Descriptors,
}

/// The options of the assignment that `bytes` begin with; `None` while it is not whole.
///
/// # Errors
/// See [`AssignmentError`].
pub fn parse(bytes: &[u8]) -> Result<Option<Vec<OsString>>, AssignmentError> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    if first != ASSIGN {
        return Err(AssignmentError::Other);
    }
    let Some((length, text)) = rest.split_first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_ASSIGNMENT_BYTES || text.len() > length {
        return Err(AssignmentError::Length { bytes: length.max(text.len()) });
    }
    if text.len() < length {
        return Ok(None);
    }
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let options = text.split(|byte| *byte == 0).map(|option| OsString::from_vec(option.into()));
    Ok(Some(if text.is_empty() { Vec::new() } else { options.collect() }))
}

/// What an assignment brought.
#[derive(Debug)]
pub(crate) struct Assigned {
    /// Its options.
    pub(crate) options: Vec<OsString>,
    /// Its descriptors.
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Where an assignment, or what is wrong with it, is found once it has come.
pub(crate) type Outcome = Rc<RefCell<Option<Result<Assigned, AssignmentError>>>>;

/// Takes an assignment on an event loop.
#[derive(Debug)]
pub(crate) struct Mailbox {
    socket: Arc<File>,
    exit: Arc<Exit>,
    outcome: Outcome,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Mailbox {
    /// Waits at `socket`, which waits for nothing. When the other end goes, so does the microVM.
    pub(crate) fn new(socket: Arc<File>, exit: Arc<Exit>, outcome: Outcome) -> Self {
        Self { socket, exit, outcome, bytes: Vec::new(), descriptors: Vec::new() }
    }

    /// Takes what there is.
    fn take(&mut self) -> io::Result<Result<Assigned, AssignmentError>> {
        loop {
            let mut room = [0; 4096];
            // One byte more than may come, so that too many are known.
            let left = (WHOLE_BYTES + 1).saturating_sub(self.bytes.len()).min(room.len());
            let first = self.bytes.is_empty();
            let (count, descriptors, cut) = receive(&self.socket, &mut room[..left])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if cut || !first && !descriptors.is_empty() {
                return Ok(Err(AssignmentError::Descriptors));
            }
            self.bytes.extend(&room[..count]);
            self.descriptors.extend(descriptors);
            match parse(&self.bytes) {
                Ok(None) => {}
                Ok(Some(options)) => {
                    let descriptors = std::mem::take(&mut self.descriptors);
                    return Ok(Ok(Assigned { options, descriptors }));
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }
}

impl MutEventSubscriber for Mailbox {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        match self.take() {
            Ok(outcome) => *self.outcome.borrow_mut() = Some(outcome),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.exit.end(ExitReason::ControlClosed),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&*self.socket, EventSet::IN)) {
            self.exit.end(ExitReason::WorkerDied { what: format!("assignment: {error}") });
        }
    }
}

/// Receives bytes and the descriptors that come with them; whether some of these did not fit.
fn receive(socket: &File, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut vector = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut message = libc::msghdr {
        msg_name: null_mut(),
        msg_namelen: 0,
        msg_iov: &raw mut vector,
        msg_iovlen: 1,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message's pointers are to memory of our own, with its lengths.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let count = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled the message in.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the header is null or one inside the message's control bytes, and aligned.
    while let Some(one) = unsafe { header.as_ref() } {
        if (one.cmsg_level, one.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: takes a number.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data is behind a header that is there.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for at in 0..one.cmsg_len.saturating_sub(before) / size_of::<RawFd>() {
                // SAFETY: the data has that many descriptors, as its length says.
                let fd = unsafe { data.wrapping_add(at).read_unaligned() };
                // SAFETY: the descriptor is new and nobody else's.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: the header is one of this message's.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((count, descriptors, message.msg_flags & libc::MSG_CTRUNC != 0))
}

#[cfg(test)]
mod tests;
