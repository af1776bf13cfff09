//! The runtime's process, from its start to the report of its end.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use votive_protocol::{GuestFrame, LogStream, Phase, PhaseName, RuntimeExited};

use super::{
    Command, Ending, KILL_WAIT_NS, Output, Platform, Process, Ready, STDERR, STDOUT, Worker,
    decode_configure, system,
};
use crate::limits::LOG_CHUNK;

impl<P: Platform> Worker<'_, P> {
    pub(super) fn obey(&mut self, command: Command) -> Result<(), Ending> {
        match command {
            Command::Nothing => Ok(()),
            Command::Configured => {
                self.phase(PhaseName::Configured);
                let configure = decode_configure(self.configure.get(..self.configure_len))?;
                self.platform.prepare(&configure)?;
                self.start()
            }
            Command::Invoked => match self.process {
                Process::Absent if self.stopping.is_none() => self.start(),
                Process::Ending { status, .. } => {
                    self.process = Process::Ending { status, restart: true };
                    Ok(())
                }
                Process::Absent | Process::Alive => Ok(()),
            },
            // Without a process its end has been reported already: that report answers this.
            Command::Reset => {
                if self.process == Process::Alive {
                    self.platform.kill();
                }
                Ok(())
            }
            Command::Shutdown { grace_ms } => self.stop(grace_ms),
        }
    }

    pub(super) fn stop(&mut self, grace_ms: u32) -> Result<(), Ending> {
        let grace_ns = u64::from(grace_ms) * 1_000_000;
        if self.process == Process::Alive && grace_ns > 0 {
            self.platform.terminate();
        } else {
            self.platform.kill();
            self.killed = true;
        }
        let wait_ns = if self.killed { KILL_WAIT_NS } else { grace_ns };
        self.stopping = Some(self.platform.now_ns().saturating_add(wait_ns));
        self.check_stopping()
    }

    /// Whether it is time to go, or to stop asking nicely.
    pub(super) fn check_stopping(&mut self) -> Result<(), Ending> {
        let Some(deadline_ns) = self.stopping else { return Ok(()) };
        if self.process == Process::Absent {
            return Err(Ending::Shutdown);
        }
        let now_ns = self.platform.now_ns();
        if now_ns < deadline_ns {
            return Ok(());
        }
        if self.killed {
            return Err(Ending::Shutdown);
        }
        self.platform.kill();
        self.killed = true;
        self.stopping = Some(now_ns.saturating_add(KILL_WAIT_NS));
        Ok(())
    }

    pub(super) fn phase(&mut self, name: PhaseName) {
        let at_ns = self.platform.now_ns();
        self.server.outbox.push(&GuestFrame::Phase(Phase { name, at_ns }));
    }

    /// Starts the runtime.
    pub(super) fn start(&mut self) -> Result<(), Ending> {
        let configure = decode_configure(self.configure.get(..self.configure_len))?;
        self.server.runtime_started();
        let output = self.platform.start(&configure)?;
        self.phase(PhaseName::RuntimeStarted);
        self.process = Process::Alive;
        let Some(Output { stdout, stderr }) = output else { return Ok(()) };
        for (pipe, token) in [(&stdout, STDOUT), (&stderr, STDERR)] {
            epoll::add(&self.epoll, pipe, EventData::new_u64(token), EventFlags::IN)
                .map_err(|errno| system(errno, "epoll_ctl"))?;
        }
        self.logs = [Some(stdout), Some(stderr)];
        Ok(())
    }

    pub(super) fn take_signals(&mut self) -> Result<(), Ending> {
        if let Some(signals) = &self.descriptors.signals {
            // Only that one came matters, so that one read of one record or more will do; what is left wakes the loop again.
            let mut records = [0_u8; 1024];
            let _ = rustix::io::read(signals, &mut records);
        }
        if let Some(status) = self.platform.reap()? {
            self.process = Process::Ending { status, restart: false };
            // Whatever it started ends with it: then its pipes and connections end too.
            self.platform.kill();
        }
        Ok(())
    }

    /// Reports a runtime's end once everything that it left behind was read.
    pub(super) fn finish_ending(&mut self) -> Result<(), Ending> {
        let Process::Ending { status, restart } = self.process else { return Ok(()) };
        if self.logs.iter().any(Option::is_some) || self.clients.iter().any(Option::is_some) {
            return Ok(());
        }
        self.accept()?;
        if self.clients.iter().any(Option::is_some) {
            return Ok(());
        }
        self.process = Process::Absent;
        let id = if restart { None } else { self.server.abandon() };
        let exited = RuntimeExited {
            status,
            out_of_memory: self.platform.out_of_memory(),
            memory_peak_bytes: self.platform.memory_peak_bytes(),
            id,
        };
        self.server.outbox.push(&GuestFrame::RuntimeExited(exited));
        if restart && self.stopping.is_none() { self.start() } else { Ok(()) }
    }

    /// Reads one piece of the runtime's output into a frame.
    pub(super) fn read_log(
        &mut self,
        ready: Ready,
        token: u64,
        stream: LogStream,
    ) -> Result<(), Ending> {
        if !ready.reads(token) || !self.has_room()? {
            return Ok(());
        }
        let slot = usize::from(token == STDERR);
        let Some(pipe) = self.logs.get(slot).and_then(Option::as_ref) else { return Ok(()) };
        match rustix::io::read(pipe, self.server.outbox.log_space(LOG_CHUNK)) {
            Ok(len) if len > 0 => self.server.outbox.finish_log(stream, len),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => {
                let _ = epoll::delete(&self.epoll, pipe);
                if let Some(log) = self.logs.get_mut(slot) {
                    *log = None;
                }
            }
        }
        Ok(())
    }
}
