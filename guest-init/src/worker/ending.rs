//! The end of a life, in AWS's phases (CONTRACT 4.2).
//!
//! ```text
//!  Runtime --ended--> Drain --its output read--> Extensions --ended or out of time--> Rest --nothing left--> Absent
//!    SIGTERM, then       RuntimeExited             SHUTDOWN to those that                SIGKILL to all      Down
//!    SIGKILL at 30 %                               registered for it, SIGKILL
//!                                                  to the others
//! ```

use votive_protocol::{Down, ExitStatus, GuestFrame, RuntimeExited, Shutdown, ShutdownReason};

use super::life::runtime_failure;
use super::{Ending, KILL_WAIT_NS, Life, Platform, Worker};

/// What a function with internal extensions alone has for its end.
const INTERNAL_BUDGET_NS: u64 = 500_000_000;
/// What one with external extensions has.
const EXTERNAL_BUDGET_NS: u64 = 2_000_000_000;
/// The runtime's share of it, in percent.
const RUNTIME_SHARE: u64 = 30;

/// Why a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The runtime ended like this; nobody was told yet.
    Runtime(ExitStatus),
    /// The agent knows.
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Runtime,
    Drain,
    Extensions,
    Rest,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndOfLife {
    reason: ShutdownReason,
    stage: Stage,
    cause: Cause,
    started_ns: u64,
    budget_ns: u64,
    /// When the stage is given up.
    deadline_ns: u64,
    killed: bool,
    /// The runtime was there when the end began.
    had_runtime: bool,
    pub(super) runtime_status: Option<ExitStatus>,
    /// An invocation came and waits for the next life.
    pub(super) restart: bool,
    power_off: bool,
}

impl<P: Platform> Worker<'_, P> {
    /// `Shutdown`
    pub(super) fn shut_down(&mut self, shutdown: Shutdown) -> Result<(), Ending> {
        if matches!(self.life, Life::Registering | Life::Alive) {
            self.begin_ending(shutdown.reason, Cause::Told);
        }
        let now_ns = self.platform.now_ns();
        match &mut self.life {
            Life::Ending(ending) => {
                ending.power_off = true;
                let grace_ns = u64::from(shutdown.grace_ms) * 1_000_000;
                let left_ns = grace_ns.min(ending.budget_ns);
                ending.budget_ns = left_ns.saturating_add(now_ns.saturating_sub(ending.started_ns));
                if !ending.killed {
                    ending.deadline_ns = ending.deadline_ns.min(now_ns.saturating_add(grace_ns));
                }
                self.advance_ending()
            }
            _ => Err(Ending::Shutdown),
        }
    }

    /// Everything that runs is to end.
    pub(super) fn begin_ending(&mut self, reason: ShutdownReason, cause: Cause) {
        self.server.stop();
        let extensions = self.server.extensions();
        let budget_ns = match (extensions.is_empty(), extensions.has_external()) {
            (true, _) => 0,
            (_, false) => INTERNAL_BUDGET_NS,
            (_, true) => EXTERNAL_BUDGET_NS,
        };
        let started_ns = self.platform.now_ns();
        let (runtime_status, had_runtime) = match cause {
            Cause::Runtime(status) => (Some(status), true),
            Cause::Told => (None, self.runtime_runs),
        };
        let mut ending = EndOfLife {
            reason,
            stage: Stage::Runtime,
            cause,
            started_ns,
            budget_ns,
            deadline_ns: started_ns.saturating_add(budget_ns / 100 * RUNTIME_SHARE),
            killed: false,
            had_runtime,
            runtime_status,
            restart: false,
            power_off: false,
        };
        if budget_ns == 0 {
            self.platform.kill();
            ending.killed = true;
            ending.deadline_ns = started_ns.saturating_add(KILL_WAIT_NS);
        } else if self.runtime_runs {
            self.platform.terminate();
        }
        self.life = Life::Ending(ending);
    }

    /// When the loop has to look at the end again.
    pub(super) fn ending_deadline_ns(&self) -> Option<u64> {
        match self.life {
            Life::Ending(ending) => Some(ending.deadline_ns),
            _ => None,
        }
    }

    /// Goes as far as it can.
    pub(super) fn advance_ending(&mut self) -> Result<(), Ending> {
        while let Life::Ending(ending) = self.life {
            let now_ns = self.platform.now_ns();
            let late = now_ns >= ending.deadline_ns;
            let goes_on = match ending.stage {
                Stage::Runtime => self.end_runtime(ending, late, now_ns)?,
                Stage::Drain => self.drain_runtime(ending, late, now_ns)?,
                Stage::Extensions => self.end_extensions(ending, late, now_ns),
                Stage::Rest => return self.end_rest(ending, late),
            };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    fn set_ending(&mut self, ending: EndOfLife) {
        self.life = Life::Ending(ending);
    }

    /// The runtime has its share of the time; says whether that stage is over.
    fn end_runtime(&mut self, ending: EndOfLife, late: bool, now_ns: u64) -> Result<bool, Ending> {
        if !self.runtime_runs {
            self.platform.kill_runtime();
            let deadline_ns = now_ns.saturating_add(KILL_WAIT_NS);
            self.set_ending(EndOfLife { stage: Stage::Drain, deadline_ns, ..ending });
            return Ok(true);
        }
        if late && ending.killed {
            // It cannot be killed: the microVM ends with it.
            return Err(Ending::Shutdown);
        }
        if late {
            self.platform.kill_runtime();
            let deadline_ns = now_ns.saturating_add(KILL_WAIT_NS);
            self.set_ending(EndOfLife { killed: true, deadline_ns, ..ending });
        }
        Ok(false)
    }

    /// What the runtime left in pipes and sockets is read before its end is told.
    fn drain_runtime(
        &mut self,
        ending: EndOfLife,
        late: bool,
        now_ns: u64,
    ) -> Result<bool, Ending> {
        if !late && !self.is_runtime_drained()? {
            return Ok(false);
        }
        if let Cause::Runtime(status) = ending.cause
            && !ending.restart
        {
            let mut message = [0; 80];
            let failure = runtime_failure(status, &mut message);
            self.server.tell_failure(failure, &self.platform);
        }
        if ending.had_runtime {
            let id = if ending.restart { None } else { self.server.abandon() };
            self.server.outbox.push(&GuestFrame::RuntimeExited(RuntimeExited {
                status: ending.runtime_status.unwrap_or(ExitStatus::Signal(9)),
                out_of_memory: self.platform.out_of_memory(),
                memory_peak_bytes: self.platform.memory_peak_bytes(),
                id,
            }));
        }
        let deadline_ns = ending.started_ns.saturating_add(ending.budget_ns);
        self.set_ending(EndOfLife { stage: Stage::Extensions, deadline_ns, ..ending });
        self.tell_extensions(ending.reason, deadline_ns, now_ns);
        Ok(true)
    }

    /// Extensions that registered for it are told, the others end at once.
    fn tell_extensions(&mut self, reason: ShutdownReason, deadline_ns: u64, now_ns: u64) {
        self.server.telemetry.flush();
        for slot in 0..crate::limits::EXTENSIONS_MAX {
            let runs = self.extensions_run & (1 << slot) != 0;
            let told = self.server.extensions().get(slot).is_some_and(|one| one.events().shutdown);
            if runs && !told {
                self.platform.kill_extension(slot);
            }
        }
        let left_ns = deadline_ns.saturating_sub(now_ns);
        let deadline_ms = self.platform.realtime_ns().saturating_add(left_ns) / 1_000_000;
        self.server.begin_shutdown(reason, deadline_ms, &self.platform);
    }

    fn end_extensions(&mut self, ending: EndOfLife, late: bool, now_ns: u64) -> bool {
        if self.extensions_run != 0 && !late {
            return false;
        }
        self.platform.kill();
        let deadline_ns = now_ns.saturating_add(KILL_WAIT_NS);
        self.set_ending(EndOfLife { stage: Stage::Rest, killed: true, deadline_ns, ..ending });
        true
    }

    /// Waits until nothing is left, and begins anew if something waits for that.
    fn end_rest(&mut self, ending: EndOfLife, late: bool) -> Result<(), Ending> {
        if !late && (self.extensions_run != 0 || !self.is_drained()?) {
            return Ok(());
        }
        if late && self.extensions_run != 0 {
            return Err(Ending::Shutdown);
        }
        self.close_sinks();
        self.server.end_life();
        self.life = Life::Absent;
        let at_ns = self.platform.now_ns();
        self.server.outbox.push(&GuestFrame::Down(Down { at_ns }));
        if ending.power_off {
            return Err(Ending::Shutdown);
        }
        if ending.restart { self.start() } else { Ok(()) }
    }

    /// Whether all that the runtime wrote and sent was read.
    fn is_runtime_drained(&mut self) -> Result<bool, Ending> {
        if self.extensions_run == 0 {
            return self.is_drained();
        }
        if self.logs.is_open(0) || self.logs.is_open(1) || !self.platform.is_runtime_gone() {
            return Ok(false);
        }
        // Its connections cannot be told from those of extensions, but no more comes from it: what there is, is read now.
        self.accept()?;
        for index in 0..crate::limits::CONNECTIONS_MAX {
            if !self.drain_client(index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every pipe and every connection has ended.
    fn is_drained(&mut self) -> Result<bool, Ending> {
        if self.logs.any_open() || self.clients.iter().any(Option::is_some) {
            return Ok(false);
        }
        self.accept()?;
        Ok(self.clients.iter().all(Option::is_none))
    }
}
