//! The loop: one epoll set, one thread, all of PID 1's waiting.
//!
//! ```text
//!         Configure, Invoke            all have registered         a process ended, Reset, Shutdown
//!  Absent -----------------> Registering ------------------> Alive --------------------------------> Ending
//!    ^                            |   (at once without external extensions)                            |  |
//!    |                            +------------------------- ditto ----------------------------------->+  |
//!    +----------------------- nothing runs any more: Down; at once on if an Invoke waits <----------------+
//! ```
//! What is ready is served in an order that keeps a runtime's output true: its log before its requests, its requests before
//! its end. Nothing is read from the runtime without room for it in the outbox, so that an agent which does not read stops
//! the runtime and not PID 1.

mod clients;
mod ending;
mod life;
mod logs;
mod sinks;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use votive_protocol::{
    Configure, ExitStatus, Fault, FaultCode, GuestFrame, HostFrame, ResetReason, Shutdown,
};

use votive_protocol::limits::EXTENSION_NAME_MAX;

use crate::arena::Arena;
use crate::limits::{CONNECTIONS_MAX, EXTENSIONS_MAX, STEP_ROOM};
use crate::link::Inbox;
use crate::server::{Facts, Server};
use ending::EndOfLife;
use logs::Logs;
use sinks::Sink;

/// How long the end of killed processes is waited for before the microVM is ended with them.
const KILL_WAIT_NS: u64 = 2_000_000_000;
/// How long the last frames may take on their way out.
const LAST_WORDS_NS: u64 = 1_000_000_000;
/// Attempts to end a wait that a signal keeps interrupting.
const WAIT_ATTEMPTS: usize = 8;

const SIGNALS: u64 = 0;
const LINK: u64 = 1;
const LISTENER: u64 = 2;
/// The runtime's standard output and error, then one pipe an extension.
const LOGS: u64 = 3;
const SINKS: u64 = LOGS + crate::arena::LINES as u64;
const CLIENTS: u64 = SINKS + EXTENSIONS_MAX as u64;
/// Everything that can be ready at once.
const EVENTS_MAX: usize = CLIENTS as usize + CONNECTIONS_MAX;

/// Why PID 1 cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it was doing.
    pub code: FaultCode,
    /// The system's error number; 0 if there is none.
    pub errno: u16,
    /// Which path, field or system call.
    pub detail: &'static str,
}

impl Problem {
    /// A system call failed.
    #[must_use]
    pub fn new(code: FaultCode, errno: Errno, detail: &'static str) -> Self {
        Self { code, errno: u16::try_from(errno.raw_os_error()).unwrap_or(0), detail }
    }

    /// Something else is wrong.
    #[must_use]
    pub const fn without_errno(code: FaultCode, detail: &'static str) -> Self {
        Self { code, errno: 0, detail }
    }
}

/// How [`Worker::serve`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent asked for it.
    Shutdown,
    /// The agent is gone.
    LinkLost,
    /// It could not go on; the agent was told.
    Fault(Problem),
}

/// The reading ends of a runtime's output.
#[derive(Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// What the loop does to the system: mounts and processes. A guest has them; a test on the host brings its own.
pub trait Platform: Facts {
    /// Does what a configuration asks for before the runtime can be started; called once.
    ///
    /// # Errors
    /// PID 1 cannot go on.
    fn prepare(&mut self, configure: &Configure<'_>) -> Result<(), Problem>;
    /// The files of `/opt/extensions`, in the order of their names; says how many there are, also if they are more than fit.
    ///
    /// # Errors
    /// They cannot be read: PID 1 cannot go on.
    fn list_extensions(&mut self, names: &mut ExtensionNames) -> Result<usize, Problem>;
    /// Starts the external extension of that name; gives the reading end of its output. Without one somebody else plays it,
    /// and it never ends.
    ///
    /// # Errors
    /// PID 1 cannot go on.
    fn start_extension(
        &mut self,
        configure: &Configure<'_>,
        slot: usize,
        name: &str,
    ) -> Result<Option<OwnedFd>, Problem>;
    /// Starts the runtime. Without an [`Output`] somebody else plays it, and it never ends.
    ///
    /// # Errors
    /// PID 1 cannot go on.
    fn start(&mut self, configure: &Configure<'_>) -> Result<Option<Output>, Problem>;
    /// Asks the runtime to end.
    fn terminate(&mut self);
    /// Kills the runtime and everything that it started, but no external extension.
    fn kill_runtime(&mut self);
    /// Whether nothing of what [`Platform::kill_runtime`] kills is left.
    fn is_runtime_gone(&mut self) -> bool;
    /// Kills one external extension and what belongs to its process group.
    fn kill_extension(&mut self, slot: usize);
    /// Kills the runtime, all extensions and everything that they started.
    fn kill(&mut self);
    /// Takes the status of children that ended, up to the first one that is the runtime or an extension.
    ///
    /// # Errors
    /// The runtime could not be executed: PID 1 cannot go on.
    fn reap(&mut self) -> Result<Option<Exit>, Problem>;
    /// Sets the clock that [`Facts::realtime_ns`] reads.
    fn set_realtime(&mut self, realtime_ns: u64);
    /// Gives memory back to the system; what it holds is of no use any more.
    fn release(&mut self, memory: &mut [u8]);
    /// Whether the kernel killed a process of this runtime for want of memory.
    fn out_of_memory(&mut self) -> bool;
}

/// The names of external extensions, each ended by a NUL.
#[derive(Debug)]
pub struct ExtensionNames {
    bytes: [[u8; EXTENSION_NAME_MAX + 1]; EXTENSIONS_MAX],
    count: usize,
}

impl Default for ExtensionNames {
    fn default() -> Self {
        Self { bytes: [[0; EXTENSION_NAME_MAX + 1]; EXTENSIONS_MAX], count: 0 }
    }
}

impl ExtensionNames {
    /// Puts a name where it belongs in their order; the last one falls out if there are too many. A name that is no text or
    /// too long is left out.
    pub fn insert(&mut self, name: &[u8]) {
        if name.is_empty() || name.len() > EXTENSION_NAME_MAX || core::str::from_utf8(name).is_err()
        {
            return;
        }
        let place =
            (0..self.count).find(|at| self.get(*at).as_bytes() > name).unwrap_or(self.count);
        if place == EXTENSIONS_MAX {
            return;
        }
        let last = self.count.min(EXTENSIONS_MAX - 1);
        self.bytes.copy_within(place..last, place + 1);
        if let Some(slot) = self.bytes.get_mut(place) {
            slot.fill(0);
            for (to, from) in slot.iter_mut().zip(name) {
                *to = *from;
            }
        }
        self.count = last + 1;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// One of them; empty beyond the last.
    #[must_use]
    pub fn get(&self, at: usize) -> &str {
        let name = self.bytes.get(at).map_or(&[][..], |name| &name[..]);
        let len = name.iter().position(|byte| *byte == 0).unwrap_or(0);
        core::str::from_utf8(name.get(..len).unwrap_or(&[])).unwrap_or("")
    }
}

/// Who ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The runtime.
    Runtime,
    /// The external extension in this place.
    Extension(usize),
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub who: Who,
    /// How it ended.
    pub status: ExitStatus,
    /// Why its program could not be executed, if it could not.
    pub launch_error: Option<Errno>,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// Nothing.
    Absent,
    /// External extensions, some of which have not registered; the runtime is not started yet.
    Registering,
    /// Everything.
    Alive,
    /// Less and less.
    Ending(EndOfLife),
}

/// What a frame of the agent's asks for beyond the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Nothing,
    Configured,
    Invoked,
    Reset(ResetReason),
    Shutdown(Shutdown),
}

/// The descriptors that the loop begins with.
#[derive(Debug)]
pub struct Descriptors {
    /// The stream to the agent; not blocking.
    pub link: OwnedFd,
    /// The Runtime API's socket; not blocking.
    pub listener: OwnedFd,
    /// A signalfd for SIGCHLD, if there are children; not blocking.
    pub signals: Option<OwnedFd>,
}

/// One client of the Runtime API.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    interest: EventFlags,
}

/// The loop and all that it serves.
#[derive(Debug)]
pub struct Worker<'m, P> {
    platform: P,
    server: Server<'m>,
    inbox: Inbox<'m>,
    descriptors: Descriptors,
    epoll: OwnedFd,
    link_interest: EventFlags,
    accepting: bool,
    clients: [Option<Client>; CONNECTIONS_MAX],
    logs: Logs<'m>,
    sinks: [Option<Sink>; EXTENSIONS_MAX],
    life: Life,
    /// The runtime's process has not been reaped.
    runtime_runs: bool,
    /// One bit an external extension: its process has not been reaped.
    extensions_run: u16,
}

/// What is ready, one bit a token.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    readable: u64,
    writable: u64,
}

const _: () = assert!(EVENTS_MAX <= 64);

impl Ready {
    fn reads(self, token: u64) -> bool {
        self.readable & (1 << token) != 0
    }

    fn writes(self, token: u64) -> bool {
        self.writable & (1 << token) != 0
    }
}

fn system(errno: Errno, call: &'static str) -> Problem {
    Problem::new(FaultCode::System, errno, call)
}

fn frame_problem(detail: &'static str) -> Ending {
    Ending::Fault(Problem::without_errno(FaultCode::Frame, detail))
}

impl From<Problem> for Ending {
    fn from(problem: Problem) -> Self {
        Self::Fault(problem)
    }
}

impl<'m, P: Platform> Worker<'m, P> {
    /// A loop over `descriptors` with the memory of `arena`.
    ///
    /// # Errors
    /// The kernel refused an epoll set.
    pub fn new(platform: P, arena: Arena<'m>, descriptors: Descriptors) -> Result<Self, Problem> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| system(errno, "epoll_create1"))?;
        let add = |source: &OwnedFd, token: u64| {
            epoll::add(&epoll, source, EventData::new_u64(token), EventFlags::IN)
                .map_err(|errno| system(errno, "epoll_ctl"))
        };
        add(&descriptors.link, LINK)?;
        add(&descriptors.listener, LISTENER)?;
        if let Some(signals) = &descriptors.signals {
            add(signals, SIGNALS)?;
        }
        let (server, inbox, lines) = Server::new(arena);
        Ok(Self {
            platform,
            server,
            inbox: Inbox::new(inbox),
            descriptors,
            epoll,
            link_interest: EventFlags::IN,
            accepting: true,
            clients: Default::default(),
            logs: Logs::new(lines),
            sinks: [const { None }; EXTENSIONS_MAX],
            life: Life::Absent,
            runtime_runs: false,
            extensions_run: 0,
        })
    }

    /// The platform.
    pub fn platform(&mut self) -> &mut P {
        &mut self.platform
    }

    /// Serves until the agent ends it, is gone, or something fails. The agent has been told why, if it still listens.
    pub fn serve(&mut self) -> Ending {
        loop {
            let Err(ending) = self.turn() else { continue };
            match ending {
                Ending::LinkLost => {}
                Ending::Shutdown => self.last_words(),
                Ending::Fault(problem) => self.fault(problem),
            }
            return ending;
        }
    }

    /// Tells the agent that PID 1 cannot go on.
    pub fn fault(&mut self, problem: Problem) {
        let Problem { code, errno, detail } = problem;
        self.server.outbox.push(&GuestFrame::Fault(Fault { code, errno, detail }));
        self.last_words();
    }

    /// One wait and what came of it.
    fn turn(&mut self) -> Result<(), Ending> {
        self.flush_link()?;
        if self.server.outbox.room() < STEP_ROOM {
            return self.wait_for_link();
        }
        let ready = self.wait()?;
        if ready.reads(SIGNALS) {
            self.take_signals()?;
        }
        self.read_logs(ready)?;
        if ready.reads(LINK) {
            self.read_link()?;
        }
        if ready.reads(LISTENER) {
            self.accept()?;
        }
        for index in 0..CONNECTIONS_MAX {
            let token = CLIENTS + index as u64;
            if ready.writes(token) {
                self.flush_client(index)?;
            }
            if ready.reads(token) {
                self.read_client(index)?;
            }
        }
        self.flush_stirred()?;
        self.serve_sinks(ready)?;
        if let Some(memory) = self.server.take_excess() {
            self.platform.release(memory);
        }
        if let Some(memory) = self.server.telemetry.take_unused() {
            self.platform.release(memory);
        }
        if self.server.outbox.lost() > 0 {
            return Err(Problem::without_errno(FaultCode::System, "outbox").into());
        }
        self.server.check_flushed(&self.platform);
        self.advance()?;
        // What came of it goes out before the next wait.
        self.flush_stirred()
    }

    /// Waits for anything.
    fn wait(&mut self) -> Result<Ready, Ending> {
        let timeout = self.time_left();
        let mut events =
            [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS_MAX];
        let count = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(system(errno, "epoll_wait").into()),
        };
        let mut ready = Ready::default();
        for event in events.iter().take(count) {
            let bit = 1_u64 << (event.data.u64() & 63);
            let flags = event.flags;
            if flags
                .intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP)
            {
                ready.readable |= bit;
            }
            if flags.contains(EventFlags::OUT) {
                ready.writable |= bit;
            }
        }
        Ok(ready)
    }

    /// How long a wait may take: not at all limited unless something is being ended, or telemetry is due.
    fn time_left(&self) -> Option<Timespec> {
        let deadlines =
            [self.ending_deadline_ns(), self.server.flush_until_ns(), self.sinks_due_ns()];
        let deadline_ns = deadlines.into_iter().flatten().min()?;
        Some(timespec(deadline_ns.saturating_sub(self.platform.now_ns())))
    }

    /// Waits for the link alone: the outbox is too full to read anything that would add to it.
    fn wait_for_link(&mut self) -> Result<(), Ending> {
        let link = &self.descriptors.link;
        let mut wanted = [PollFd::new(link, PollFlags::IN | PollFlags::OUT)];
        match poll(&mut wanted, self.time_left().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(system(errno, "poll").into()),
        }
        let came = wanted[0].revents();
        if came.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read_link()?;
        }
        self.advance()
    }

    /// Writes frames as far as the link takes them.
    fn flush_link(&mut self) -> Result<(), Ending> {
        let outbox = &mut self.server.outbox;
        if outbox.is_held() {
            return Ok(());
        }
        while !outbox.pending().is_empty() {
            match rustix::io::write(&self.descriptors.link, outbox.pending()) {
                Ok(len) => outbox.written(len),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Ending::LinkLost),
            }
        }
        let wanted = if outbox.pending().is_empty() {
            EventFlags::IN
        } else {
            EventFlags::IN | EventFlags::OUT
        };
        if wanted != self.link_interest {
            let data = EventData::new_u64(LINK);
            epoll::modify(&self.epoll, &self.descriptors.link, data, wanted)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
            self.link_interest = wanted;
        }
        Ok(())
    }

    /// Gives the last frames a moment to leave.
    fn last_words(&mut self) {
        for _ in 0..WAIT_ATTEMPTS {
            if self.flush_link().is_err() || self.server.outbox.pending().is_empty() {
                return;
            }
            let mut wanted = [PollFd::new(&self.descriptors.link, PollFlags::OUT)];
            let _ = poll(&mut wanted, Some(&timespec(LAST_WORDS_NS / WAIT_ATTEMPTS as u64)));
        }
    }

    /// Reads frames from the agent.
    fn read_link(&mut self) -> Result<(), Ending> {
        match rustix::io::read(&self.descriptors.link, self.inbox.space()) {
            Ok(0) => return Err(Ending::LinkLost),
            Ok(len) => self.inbox.received(len),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(Ending::LinkLost),
        }
        while let Some(command) = self.take_frame()? {
            self.obey(command)?;
        }
        self.flush_stirred()
    }

    /// Takes one frame; what it says to the server, the server is told.
    fn take_frame(&mut self) -> Result<Option<Command>, Ending> {
        let taken = self.inbox.take().map_err(|_| frame_problem("header"))?;
        let Some((kind, body)) = taken else { return Ok(None) };
        let frame = HostFrame::decode(kind, body).map_err(|_| frame_problem("body"))?;
        let configured = self.server.configuration().is_some();
        let command = match frame {
            HostFrame::Configure(_) if !configured => {
                if !self.server.configure(body) {
                    return Err(frame_problem("Configure"));
                }
                Command::Configured
            }
            HostFrame::Invoke(invoke) if configured => {
                self.platform.set_realtime(invoke.realtime_ns);
                self.server.invoke(&invoke, &self.platform).map_err(|_| frame_problem("Invoke"))?;
                Command::Invoked
            }
            HostFrame::Payload(bytes) if configured => {
                self.server.payload(bytes).map_err(|_| frame_problem("Payload"))?;
                Command::Nothing
            }
            HostFrame::Reset(reason) if configured => Command::Reset(reason),
            HostFrame::Shutdown(shutdown) => Command::Shutdown(shutdown),
            _ => return Err(frame_problem("order")),
        };
        Ok(Some(command))
    }

    /// Whether there is room for one more step; makes some if it can.
    fn has_room(&mut self) -> Result<bool, Ending> {
        if self.server.outbox.room() < STEP_ROOM {
            self.flush_link()?;
        }
        Ok(self.server.outbox.room() >= STEP_ROOM)
    }
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
    }
}
