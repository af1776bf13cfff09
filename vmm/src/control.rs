//! The control channel: a byte asks for something, the same byte answers once it is done.
//!
//! `p` pauses, `r` resumes, `l` and a record (`limits`) set a queue's limits, any other byte is answered with `?`. What is so already is answered at once. One command is read
//! at a time, and the next only when the one before it has been answered, so that a peer that writes and never reads holds up
//! itself alone. The peer's end of the channel is the end of the machine: nobody is left to ask for one.
//!
//! A pause that takes a moment is answered by the thread of the vCPU that comes to wait last. The main thread hears of it
//! with the next command, or at once when it has asked for that or the socket did not take the answer.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use self::limits::Record;
use crate::exit::{Exit, ExitReason};
use crate::pause::Pause;
use crate::virtio::MmioDevice;

mod limits;
#[cfg(test)]
mod tests;

const PAUSE: u8 = b'p';
const RESUME: u8 = b'r';
const LIMIT: u8 = b'l';
const UNKNOWN: u8 = b'?';
/// What answers a shell's assignment.
const ASSIGNED: u8 = b'a';

/// A connected stream socket on which commands come. It is used as a file: `read` and `write` are in every filter.
#[derive(Debug)]
pub struct ControlSocket(Arc<File>);

impl ControlSocket {
    /// Takes over `socket`.
    ///
    /// # Errors
    /// When it is not a connected Unix socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixStream::from(socket);
        socket.peer_addr()?;
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(File::from(OwnedFd::from(socket)))))
    }

    /// The socket, for whoever reads something else from it before the first command.
    #[must_use]
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.0)
    }

    /// Says that the assignment has been carried out. False: the peer is gone, or does not read.
    #[must_use]
    pub(crate) fn announce(&self) -> bool {
        matches!((&*self.0).write(&[ASSIGNED]), Ok(1))
    }

    /// How a pause is answered from another thread.
    #[must_use]
    pub fn answerer(&self) -> Answerer {
        Answerer(Arc::clone(&self.0))
    }
}

/// Answers a pause, from whichever thread knows that it has come true.
#[derive(Debug)]
pub struct Answerer(Arc<File>);

impl Answerer {
    /// Answers without waiting. False: the socket did not take it.
    #[must_use]
    pub fn paused(&self) -> bool {
        matches!((&*self.0).write(&[PAUSE]), Ok(1))
    }
}

/// What has become of the answer to a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Some vCPU is on its way.
    Outstanding,
    /// The peer has it.
    Given,
    /// All vCPUs wait, and the socket did not take the answer.
    Refused,
}

/// What a command may do to the machine.
pub(crate) trait Vcpus {
    /// Asks all vCPUs to leave the guest and wait; the last one answers. False: they wait already, and none answers.
    fn pause(&self) -> bool;
    /// Has all vCPUs go on.
    fn resume(&self);
    /// What has become of the answer to the last pause; should it be outstanding, [`Vcpus::paused_event`] says when it is not.
    fn answer(&self) -> Answer;
    /// What becomes readable when that was asked for, or when the answer was refused.
    fn paused_event(&self) -> &vmm_sys_util::eventfd::EventFd;
}

impl Vcpus for Pause {
    fn pause(&self) -> bool {
        self.begin()
    }

    fn resume(&self) {
        self.end();
    }

    fn answer(&self) -> Answer {
        self.gate().answer()
    }

    fn paused_event(&self) -> &vmm_sys_util::eventfd::EventFd {
        self.gate().answer_event()
    }
}

/// What is owed to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    /// The answer to a pause, which the last vCPU gives, or has given.
    Pause,
    /// This byte, once the socket takes it.
    Answer(u8),
}

/// The channel at work, on the main thread.
#[derive(Debug)]
pub(crate) struct Control<V> {
    socket: Arc<File>,
    vcpus: V,
    exit: Arc<Exit>,
    owed: Owed,
    interest: EventSet,
    /// What is coming in behind an `l`.
    record: Option<Record>,
    /// What limits can be set of.
    devices: Vec<Arc<MmioDevice>>,
}

impl<V: Vcpus> Control<V> {
    pub(crate) fn new(
        socket: ControlSocket,
        vcpus: V,
        exit: Arc<Exit>,
        devices: Vec<Arc<MmioDevice>>,
    ) -> Self {
        let (owed, interest, record) = (Owed::Nothing, EventSet::IN, None);
        Self { socket: socket.0, vcpus, exit, owed, interest, record, devices }
    }

    /// Does what can be done without waiting, and says what to wait for next: a command, room for an answer, or neither.
    fn turn(&mut self) -> Result<EventSet, Closed> {
        match self.owed {
            Owed::Nothing if self.record.is_some() => self.go_on_reading()?,
            Owed::Nothing => {
                if let Some(command) = self.read()? {
                    self.obey(command)?;
                }
            }
            Owed::Answer(byte) => self.answer(byte)?,
            Owed::Pause => {}
        }
        Ok(match self.owed {
            Owed::Nothing => EventSet::IN,
            Owed::Answer(_) => EventSet::OUT,
            // Nearly always the answer comes before the next command, and nothing needs to be changed for that.
            Owed::Pause => self.interest,
        })
    }

    fn read(&mut self) -> Result<Option<u8>, Closed> {
        let mut command = [0];
        match (&*self.socket).read(&mut command) {
            Ok(0) => Err(Closed),
            Ok(_) => Ok(Some(command[0])),
            Err(error) if is_for_later(&error) => Ok(None),
            Err(_) => Err(Closed),
        }
    }

    fn go_on_reading(&mut self) -> Result<(), Closed> {
        let Some(record) = &mut self.record else { return Ok(()) };
        match record.read(&*self.socket) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let done = record.apply(&self.devices);
                self.record = None;
                self.answer(if done { LIMIT } else { UNKNOWN })
            }
            Err(error) if is_for_later(&error) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    fn obey(&mut self, command: u8) -> Result<(), Closed> {
        match command {
            PAUSE if self.vcpus.pause() => {
                self.owed = Owed::Pause;
                Ok(())
            }
            PAUSE => self.answer(PAUSE),
            RESUME => {
                self.vcpus.resume();
                self.answer(RESUME)
            }
            LIMIT => {
                self.record = Some(Record::new());
                Ok(())
            }
            _ => self.answer(UNKNOWN),
        }
    }

    fn answer(&mut self, byte: u8) -> Result<(), Closed> {
        self.owed = match (&*self.socket).write(&[byte]) {
            Ok(1) => Owed::Nothing,
            Ok(_) => Owed::Answer(byte),
            Err(error) if is_for_later(&error) => Owed::Answer(byte),
            Err(_) => return Err(Closed),
        };
        Ok(())
    }

    fn on_socket(&mut self, events: EventSet) -> Result<EventSet, Closed> {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            return Err(Closed);
        }
        self.go_on()
    }

    /// Takes note of an answer that was given elsewhere, and does what can be done then.
    fn go_on(&mut self) -> Result<EventSet, Closed> {
        if self.owed == Owed::Pause {
            self.owed = match self.vcpus.answer() {
                // A command before the answer to the last: it stays where it is until then.
                Answer::Outstanding => return Ok(EventSet::empty()),
                Answer::Given => Owed::Nothing,
                Answer::Refused => Owed::Answer(PAUSE),
            };
        }
        self.turn()
    }

    fn on_paused(&mut self) -> Result<EventSet, Closed> {
        // Only this thread reads it; should nothing be there, all the better.
        let _ = self.vcpus.paused_event().read();
        if self.owed == Owed::Pause { self.go_on() } else { Ok(self.interest) }
    }
}

/// The peer is gone.
#[derive(Debug, PartialEq, Eq)]
struct Closed;

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl<V: Vcpus> MutEventSubscriber for Control<V> {
    fn init(&mut self, ops: &mut EventOps) {
        for events in [
            Events::new(&*self.socket, self.interest),
            Events::new(self.vcpus.paused_event(), EventSet::IN),
        ] {
            if let Err(error) = ops.add(events) {
                self.exit.end(ExitReason::WorkerDied { what: format!("control: {error}") });
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let next = if events.fd() == self.socket.as_raw_fd() {
            self.on_socket(events.event_set())
        } else {
            self.on_paused()
        };
        let Ok(interest) = next else {
            self.exit.end(ExitReason::ControlClosed);
            return;
        };
        if interest != self.interest {
            self.interest = interest;
            if let Err(error) = ops.modify(Events::new(&*self.socket, interest)) {
                self.exit.end(ExitReason::WorkerDied { what: format!("control: {error}") });
            }
        }
    }
}
