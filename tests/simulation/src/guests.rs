//! Guests and their VMMs, played: they boot, start runtimes, answer, pause, crash, hang and lie.

use votive_agent::event::{Event, ExtensionEnd, GuestEvent};
use votive_agent::microvm::MicrovmEnd;
use votive_agent::worker::api::EnvironmentId;
use votive_protocol::{
    Done, ExitStatus, ExtensionFault, FaultCode, Hello, InvocationId, Phase, PhaseName,
    ResponseMode, ResponseOutcome, RuntimeErrorScope, RuntimeExited, VERSION,
};

use crate::world::World;

const MS: u64 = 1_000_000;

/// A guest and its VMM.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The VMM's process is there.
    pub(crate) alive: bool,
    /// It does nothing any more.
    hung: bool,
    paused: bool,
    /// What its processor would do next, had it one.
    frozen: Vec<Happening>,
    /// The invocation that it works on.
    working: Option<InvocationId>,
    /// It lies about what it works on: nothing that follows is to be trusted.
    lying: bool,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let frozen = Vec::new();
        Self { alive: true, hung: false, paused: false, frozen, working: None, lying: false }
    }
}

/// What can come of a guest or its VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Hello,
    Ready,
    InitError,
    Fault,
    Respond(InvocationKey),
    Done(InvocationKey),
    FunctionError(InvocationKey),
    RuntimeExit(Option<InvocationKey>),
    ExtensionCrash(Option<InvocationKey>),
    Down,
    Lie,
    VmmAnswer,
    PoweredOff,
    Killed,
    Deadline,
}

/// An invocation's id in a form that can be ordered.
pub(crate) type InvocationKey = u128;

fn key(id: InvocationId) -> InvocationKey {
    u128::from_be_bytes(id.0)
}

fn id_of(key: InvocationKey) -> InvocationId {
    InvocationId(key.to_be_bytes())
}

impl World {
    fn rare(&mut self, per_mille: u64) -> bool {
        let happens = self.faulty && self.random.chance(per_mille);
        self.counts.faults += u64::from(happens);
        happens
    }

    fn ms(&mut self, begin: u64, end: u64) -> u64 {
        self.random.between(begin, end) * MS
    }

    /// A microVM's process was started.
    pub(crate) fn boot(&mut self, id: EnvironmentId, deadline: u64) {
        let delay = deadline.saturating_sub(self.now);
        self.plan(id, delay, Happening::Deadline);
        let delay = self.ms(5, 400);
        if self.rare(20) {
            self.plan(id, delay, Happening::PoweredOff);
        } else if !self.rare(10) {
            self.plan(id, delay, Happening::Hello);
        }
    }

    pub(crate) fn on_configure(&mut self, id: EnvironmentId) {
        self.start_runtime(id, None);
    }

    fn start_runtime(&mut self, id: EnvironmentId, invocation: Option<InvocationKey>) {
        let delay = self.ms(10, 2500);
        let happening = if self.rare(20) {
            Happening::InitError
        } else if self.rare(20) {
            Happening::RuntimeExit(invocation)
        } else if self.rare(10) {
            Happening::ExtensionCrash(invocation)
        } else if self.rare(10) {
            Happening::Fault
        } else if self.rare(15) {
            // It never gets there.
            return;
        } else {
            Happening::Ready
        };
        self.plan(id, delay, happening);
    }

    pub(crate) fn on_invoke(&mut self, id: EnvironmentId, invocation: InvocationId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        if let Some(before) = place.guest.working
            && place.guest.alive
            && !place.guest.lying
        {
            return self.break_rule(format!("{id} works on {before} and is sent {invocation}"));
        }
        if place.guest.paused && !place.guest.hung {
            return self.break_rule(format!("{id} is paused and is sent {invocation}"));
        }
        place.guest.working = Some(invocation);
        let invocation = key(invocation);
        let delay = match self.random.below(10) {
            0..7 => self.ms(1, 200),
            7..9 => self.ms(200, 4000),
            _ => self.ms(4000, 40_000),
        };
        let happening = if self.rare(30) {
            Happening::RuntimeExit(Some(invocation))
        } else if self.rare(15) {
            Happening::ExtensionCrash(Some(invocation))
        } else if self.rare(20) {
            Happening::Lie
        } else if self.rare(10) {
            Happening::PoweredOff
        } else if self.rare(20) {
            // It never answers.
            return;
        } else if self.random.chance(100) {
            Happening::FunctionError(invocation)
        } else {
            Happening::Respond(invocation)
        };
        self.plan(id, delay, happening);
    }

    pub(crate) fn on_reset(&mut self, id: EnvironmentId) {
        if self.rare(30) {
            return;
        }
        let delay = self.ms(1, 2000);
        let working = self.places.get(&id).and_then(|place| place.guest.working.map(key));
        self.plan(id, delay, Happening::RuntimeExit(working));
    }

    pub(crate) fn on_shutdown(&mut self, id: EnvironmentId) {
        if !self.rare(50) {
            let delay = self.ms(1, 2200);
            self.plan(id, delay, Happening::PoweredOff);
        }
    }

    pub(crate) fn on_kill(&mut self, id: EnvironmentId) {
        let delay = self.ms(0, 20);
        self.plan(id, delay, Happening::Killed);
    }

    pub(crate) fn on_pause(&mut self, id: EnvironmentId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.guest.paused = true;
        self.vmm_answers(id);
    }

    pub(crate) fn on_resume(&mut self, id: EnvironmentId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        place.guest.paused = false;
        for happening in std::mem::take(&mut place.guest.frozen) {
            self.plan(id, MS, happening);
        }
        self.vmm_answers(id);
    }

    fn vmm_answers(&mut self, id: EnvironmentId) {
        let slow = if self.rare(10) { 700 } else { 20 };
        let delay = self.ms(0, slow);
        self.plan(id, delay, Happening::VmmAnswer);
    }

    /// A VMM hangs, with its guest.
    pub(crate) fn hang(&mut self, id: EnvironmentId) {
        if let Some(place) = self.places.get_mut(&id) {
            place.guest.hung = true;
        }
    }

    /// Something comes of a guest or its VMM, unless there is none any more.
    pub(crate) fn happen(&mut self, id: EnvironmentId, happening: Happening) {
        let Some(place) = self.places.get_mut(&id) else { return };
        let guest = &mut place.guest;
        if !guest.alive {
            return;
        }
        match happening {
            Happening::PoweredOff | Happening::Killed | Happening::Deadline => {
                if guest.hung && happening == Happening::PoweredOff {
                    return;
                }
                guest.alive = false;
                let end = MicrovmEnd {
                    code: Some(if happening == Happening::Deadline { 6 } else { 0 }),
                    signal: None,
                    reason: String::new(),
                    marks: Vec::new(),
                };
                return self.event(id, Event::MicrovmEnded(end));
            }
            _ if guest.hung => return,
            Happening::VmmAnswer => return self.event(id, Event::VmmAnswered),
            _ if guest.paused => return guest.frozen.push(happening),
            _ => {}
        }
        self.speak(id, happening);
    }

    fn speak(&mut self, id: EnvironmentId, happening: Happening) {
        let phase = |name| Phase { name, at_ns: 1 };
        match happening {
            Happening::Hello => {
                self.say(id, GuestEvent::Hello(Hello { version: VERSION, started_ns: 1 }));
            }
            Happening::Ready => self.say(id, GuestEvent::Ready(phase(PhaseName::InitOver))),
            Happening::InitError => {
                let scope = RuntimeErrorScope::Init;
                let error_type = String::from("Function.Broken");
                self.say(id, GuestEvent::RuntimeError { scope, error_type, body: Vec::new() });
            }
            Happening::Fault => {
                let code = FaultCode::Mount;
                self.say(id, GuestEvent::Fault { code, errno: 5, detail: String::new() });
                self.plan(id, MS, Happening::PoweredOff);
            }
            Happening::Respond(key) => self.respond(id, key),
            Happening::FunctionError(key) => {
                let scope = RuntimeErrorScope::Invocation(id_of(key));
                let error_type = String::from("Function.Unknown");
                self.say(id, GuestEvent::RuntimeError { scope, error_type, body: Vec::new() });
                self.plan(id, MS, Happening::Done(key));
            }
            Happening::Done(key) => self.done(id, key),
            Happening::RuntimeExit(key) => {
                self.exit(id, key);
                let delay = self.ms(0, 1500);
                self.plan(id, delay, Happening::Down);
            }
            Happening::ExtensionCrash(key) => {
                self.say(
                    id,
                    GuestEvent::ExtensionExited(ExtensionEnd {
                        name: String::from("watcher"),
                        fault: ExtensionFault::Crash,
                        status: Some(ExitStatus::Code(1)),
                        id: key.map(id_of),
                    }),
                );
                self.exit(id, key);
                let delay = self.ms(0, 1500);
                self.plan(id, delay, Happening::Down);
            }
            Happening::Down => self.down(id),
            Happening::Lie => self.lie(id),
            Happening::VmmAnswer
            | Happening::PoweredOff
            | Happening::Killed
            | Happening::Deadline => {}
        }
    }

    fn say(&mut self, id: EnvironmentId, event: GuestEvent) {
        self.event(id, Event::Guest(event));
    }

    fn is_working_on(&self, id: EnvironmentId, key: InvocationKey) -> bool {
        let working = self.places.get(&id).and_then(|place| place.guest.working);
        working == Some(id_of(key))
    }

    fn respond(&mut self, id: EnvironmentId, key: InvocationKey) {
        if !self.is_working_on(id, key) {
            return;
        }
        let (mode, content_type) = (ResponseMode::Buffered, String::new());
        let (outcome, error_type) = (ResponseOutcome::Complete, String::new());
        self.say(id, GuestEvent::ResponseStart { id: id_of(key), mode, content_type });
        self.say(id, GuestEvent::ResponsePayload(vec![1; 8]));
        self.say(
            id,
            GuestEvent::ResponseEnd { id: id_of(key), outcome, error_type, error_body: Vec::new() },
        );
        let delay = self.ms(0, 100);
        self.plan(id, delay, Happening::Done(key));
    }

    fn done(&mut self, id: EnvironmentId, key: InvocationKey) {
        if !self.is_working_on(id, key) {
            return;
        }
        if let Some(place) = self.places.get_mut(&id) {
            place.guest.working = None;
        }
        self.say(
            id,
            GuestEvent::Done(Done {
                id: id_of(key),
                duration_ns: 1,
                runtime_ns: 1,
                extensions_ns: 0,
                memory_peak_bytes: 1,
            }),
        );
    }

    fn exit(&mut self, id: EnvironmentId, key: Option<InvocationKey>) {
        let Some(place) = self.places.get_mut(&id) else { return };
        // It says what it worked on, which may have changed since this was planned.
        let invocation = place.guest.working.take().filter(|it| key == Some(self::key(*it)));
        let (status, out_of_memory) = (ExitStatus::Signal(9), false);
        let memory_peak_bytes = 1;
        let exited = RuntimeExited { status, out_of_memory, memory_peak_bytes, id: invocation };
        self.say(id, GuestEvent::RuntimeExited(exited));
    }

    /// Nothing runs any more. An invocation that came meanwhile starts the runtime again.
    fn down(&mut self, id: EnvironmentId) {
        self.say(id, GuestEvent::Down);
        let working = self.places.get(&id).and_then(|place| place.guest.working.map(key));
        if let Some(key) = working {
            self.restart_for(id, key);
        }
    }

    fn restart_for(&mut self, id: EnvironmentId, key: InvocationKey) {
        let delay = self.ms(10, 500);
        self.plan(id, delay, Happening::Ready);
        self.plan(id, delay + MS, Happening::Respond(key));
    }

    /// A guest that its tenant has taken over.
    fn lie(&mut self, id: EnvironmentId) {
        if let Some(place) = self.places.get_mut(&id) {
            place.guest.lying = true;
        }
        let wrong = InvocationId(
            self.random.number().to_be_bytes().repeat(2).try_into().unwrap_or([0; 16]),
        );
        let event = match self.random.below(4) {
            0 => GuestEvent::Hello(Hello { version: VERSION, started_ns: 1 }),
            1 => GuestEvent::ResponseEnd {
                id: wrong,
                outcome: ResponseOutcome::Complete,
                error_type: String::new(),
                error_body: Vec::new(),
            },
            2 => GuestEvent::ResponsePayload(vec![1; 100]),
            _ => GuestEvent::Down,
        };
        self.say(id, event);
    }
}
