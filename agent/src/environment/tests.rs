//! The environment through its life, case by case, and through random lives under simulated time.

use std::time::Duration;

use proptest::prelude::*;
use votive_protocol::{
    Done, ExitStatus, ExtensionFault, FaultCode, Hello, LogStream, Phase, PhaseName, ResponseMode,
    ResponseOutcome, RuntimeErrorScope, RuntimeExited, VERSION,
};

use super::*;
use crate::event::{ExtensionEnd, GuestEvent};
use crate::invocation::{Answered, Condition, FunctionError, Outcome};
use crate::limits::{LOST_LINK_GRACE, PROBE_PERIOD};
use crate::microvm::MicrovmEnd;
use crate::report::Status;

const INIT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(3);
const HANG: Duration = Duration::from_millis(500);

fn id(number: u8) -> InvocationId {
    InvocationId([number; 16])
}

fn spec(number: u8) -> InvocationSpec {
    InvocationSpec { id: id(number), timeout: TIMEOUT, memory_mb: 128 }
}

fn hello() -> GuestEvent {
    GuestEvent::Hello(Hello { version: VERSION, started_ns: 1 })
}

fn phase(name: PhaseName) -> Phase {
    Phase { name, at_ns: 1 }
}

fn ready() -> GuestEvent {
    GuestEvent::Ready(phase(PhaseName::InitOver))
}

fn exited(id: Option<InvocationId>) -> GuestEvent {
    let status = ExitStatus::Code(1);
    GuestEvent::RuntimeExited(RuntimeExited {
        status,
        out_of_memory: false,
        memory_peak_bytes: 0,
        id,
    })
}

fn answer(number: u8) -> [GuestEvent; 3] {
    let id = id(number);
    let (mode, content_type) = (ResponseMode::Buffered, String::new());
    let (outcome, error_type) = (ResponseOutcome::Complete, String::new());
    [
        GuestEvent::ResponseStart { id, mode, content_type },
        GuestEvent::ResponseEnd { id, outcome, error_type, error_body: Vec::new() },
        GuestEvent::Done(Done {
            id,
            duration_ns: 1,
            runtime_ns: 1,
            extensions_ns: 0,
            memory_peak_bytes: 1,
        }),
    ]
}

fn init_error() -> GuestEvent {
    GuestEvent::RuntimeError {
        scope: RuntimeErrorScope::Init,
        error_type: String::from("Function.Broken"),
        body: b"{\"errorMessage\":\"broken\"}".to_vec(),
    }
}

fn end(code: i32) -> MicrovmEnd {
    MicrovmEnd { code: Some(code), signal: None, reason: String::new(), marks: Vec::new() }
}

/// An environment with its clock and everything that it wanted so far.
struct World {
    environment: Environment,
    now: Moment,
    actions: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(hang_timeout: Option<Duration>) -> Self {
        let now = Moment::from_nanoseconds(5_000_000_000);
        let spec = EnvironmentSpec {
            init_timeout: INIT_TIMEOUT,
            initialization: Initialization::OnDemand,
            hang_timeout,
        };
        Self { environment: Environment::new(spec, now), now, actions: Vec::new() }
    }

    fn idle() -> Self {
        let mut world = Self::new();
        world.guest(hello());
        world.guest(ready());
        world.taken();
        world
    }

    fn busy(number: u8) -> Self {
        let mut world = Self::idle();
        world.invoke(number);
        world.taken();
        world
    }

    fn on(&mut self, event: Event) {
        self.actions.extend(self.environment.on(event, self.now));
    }

    fn guest(&mut self, event: GuestEvent) {
        self.on(Event::Guest(event));
    }

    fn invoke(&mut self, number: u8) {
        let actions = self.environment.invoke(spec(number), self.now);
        self.actions.extend(actions.unwrap());
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
        self.on(Event::Tick);
    }

    /// Everything that it wanted since the last time.
    fn all_taken(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// What it wanted since the last time, its share of the CPU and answers on their way left out.
    fn taken(&mut self) -> Vec<Action> {
        let mut actions = self.all_taken();
        actions.retain(|action| {
            !matches!(action, Action::Throttle | Action::Unthrottle | Action::Answered(_))
        });
        actions
    }

    /// The outcome among what it wanted.
    fn outcome(&mut self) -> Outcome {
        let actions = self.taken();
        let outcomes = actions.into_iter().filter_map(|action| match action {
            Action::Finished(outcome) => Some(*outcome),
            _ => None,
        });
        let outcomes: Vec<_> = outcomes.collect();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        outcomes.into_iter().next().unwrap()
    }

    fn error_type(&mut self) -> String {
        match self.outcome().answer {
            Answered::Error(error) => error.error_type,
            Answered::Response { .. } => String::from("none"),
        }
    }
}

#[test]
fn one_environment_serves_one_invocation_after_the_other() {
    let mut world = World::new();
    world.guest(hello());
    assert_eq!(world.taken(), [Action::Configure]);
    world.guest(GuestEvent::Phase(phase(PhaseName::RuntimeStarted)));
    world.wait(Duration::from_millis(200));
    world.guest(ready());
    assert_eq!(world.taken(), [Action::Idle]);
    for number in 1..=3 {
        world.invoke(number);
        assert_eq!(world.taken(), [Action::Invoke(id(number))]);
        assert_eq!(world.environment.invoke(spec(9), world.now), Err(Unavailable));
        world.now = world.now + Duration::from_millis(50);
        for frame in answer(number) {
            world.guest(frame);
        }
        let outcome = world.outcome();
        assert_eq!(outcome.condition, Condition::Clean);
        // Only the first one waited for the init phase.
        let init = (number == 1).then_some(Duration::from_millis(200));
        assert_eq!(outcome.report.init, init);
        assert_eq!(outcome.report.duration, Duration::from_millis(50));
    }
    let now = world.now;
    let spindown = ShutdownReason::Spindown;
    assert_eq!(world.environment.shutdown(spindown, now), [Action::Shutdown(spindown)]);
    world.on(Event::LinkClosed(None));
    world.on(Event::MicrovmEnded(end(0)));
    assert_eq!(world.taken(), [Action::Gone(GoneReason::Shutdown)]);
}

#[test]
fn a_time_out_resets_the_runtime_and_keeps_the_environment() {
    let mut world = World::busy(1);
    world.wait(TIMEOUT - Duration::from_nanos(1));
    assert!(world.taken().is_empty());
    world.wait(Duration::from_nanos(1));
    assert_eq!(world.taken(), [Action::Reset(ResetReason::Timeout)]);
    // The answer that crosses the reset comes too late.
    for frame in answer(1) {
        world.guest(frame);
    }
    assert!(world.taken().is_empty());
    world.guest(exited(Some(id(1))));
    let outcome = world.outcome();
    assert_eq!((outcome.condition, outcome.report.status), (Condition::Suspect, Status::Timeout));
    assert!(!world.environment.is_idle());
    world.guest(GuestEvent::Down);
    assert!(world.environment.is_idle());
    // The next one starts the runtime again, inside itself.
    world.invoke(2);
    world.guest(GuestEvent::Phase(phase(PhaseName::RuntimeStarted)));
    world.guest(ready());
    for frame in answer(2) {
        world.guest(frame);
    }
    assert_eq!(world.error_type(), "none");
}

#[test]
fn an_init_phase_that_takes_too_long_is_run_again_inside_the_invocation() {
    let mut world = World::new();
    world.guest(hello());
    world.wait(INIT_TIMEOUT);
    let actions = world.taken();
    assert!(matches!(&actions[1], Action::InitFailed(report) if report.timed_out), "{actions:?}");
    assert_eq!(actions[2], Action::Reset(ResetReason::Timeout));
    world.guest(ready());
    assert!(!world.environment.is_idle());
    world.guest(exited(None));
    assert!(!world.environment.is_idle());
    world.guest(GuestEvent::Down);
    assert_eq!(world.taken(), [Action::Idle]);
    world.invoke(1);
    world.taken();
    // Still no sign of the runtime: the invocation's own limit counts.
    world.wait(TIMEOUT);
    let actions = world.taken();
    assert!(matches!(&actions[0], Action::InitFailed(report) if report.inside_invocation));
    world.guest(exited(Some(id(1))));
    assert_eq!(world.error_type(), "Sandbox.Timedout");
}

#[test]
fn an_init_error_is_told_twice_and_then_the_answer() {
    let mut world = World::new();
    world.guest(hello());
    world.guest(init_error());
    let actions = world.taken();
    assert_eq!(actions[2], Action::Reset(ResetReason::Failure), "{actions:?}");
    world.guest(exited(None));
    world.guest(GuestEvent::Down);
    world.invoke(1);
    world.taken();
    world.guest(init_error());
    world.guest(exited(Some(id(1))));
    let outcome = world.outcome();
    let Answered::Error(error) = outcome.answer else { panic!("no error") };
    assert_eq!(error.error_type, "Function.Broken");
    assert_eq!(error.payload, b"{\"errorMessage\":\"broken\"}");
}

#[test]
fn a_runtime_that_ends_as_the_invocation_is_sent_is_replaced() {
    let mut world = World::busy(1);
    world.guest(exited(None));
    assert!(world.taken().is_empty());
    world.guest(GuestEvent::Phase(phase(PhaseName::RuntimeStarted)));
    world.guest(ready());
    for frame in answer(1) {
        world.guest(frame);
    }
    assert_eq!(world.error_type(), "none");
}

#[test]
fn a_runtime_that_ends_between_invocations_costs_nothing() {
    let mut world = World::idle();
    world.guest(exited(None));
    assert!(world.taken().is_empty() && world.environment.is_idle());
    world.invoke(1);
    world.guest(ready());
    for frame in answer(1) {
        world.guest(frame);
    }
    assert_eq!(world.error_type(), "none");
}

#[test]
fn the_best_reason_of_an_end_is_told() {
    // The link ends first, then the process, which says why.
    let mut world = World::busy(1);
    world.on(Event::LinkClosed(None));
    assert!(world.taken().is_empty());
    world.on(Event::MicrovmEnded(end(4)));
    let actions = world.taken();
    assert!(matches!(&actions[0], Action::Finished(_)), "{actions:?}");
    assert_eq!(actions[1], Action::Gone(GoneReason::MicrovmEnded(end(4))));
    // A fault says more than the power-off that follows.
    let mut world = World::new();
    world.guest(hello());
    let code = FaultCode::Mount;
    world.guest(GuestEvent::Fault { code, errno: 5, detail: String::from("/\n") });
    world.on(Event::LinkClosed(None));
    world.on(Event::MicrovmEnded(end(0)));
    let actions = world.taken();
    let Some(Action::Gone(reason)) = actions.last() else { panic!("{actions:?}") };
    assert_eq!(
        reason.to_string(),
        "PID 1 failed: a file system could not be mounted (/): Input/output error (os error 5)"
    );
    // A link that ends while the process lives on ends the process.
    let mut world = World::idle();
    world.on(Event::LinkClosed(None));
    world.wait(LOST_LINK_GRACE);
    assert_eq!(world.taken(), [Action::Kill]);
}

#[test]
fn each_state_refuses_what_does_not_belong_there() {
    let [response_start, _, done] = answer(1);
    for (world, frame) in [
        (World::new(), ready()),
        (World::new(), GuestEvent::Hello(Hello { version: VERSION + 1, started_ns: 0 })),
        (World::idle(), hello()),
        (World::idle(), ready()),
        (World::idle(), done.clone()),
        (World::idle(), response_start.clone()),
        (World::busy(2), response_start),
        (World::busy(2), done),
        (World::busy(2), ready()),
        (World::busy(2), init_error()),
        (World::busy(2), exited(Some(id(1)))),
    ] {
        let mut world = world;
        world.guest(frame.clone());
        assert_eq!(world.taken(), [Action::Kill], "{frame:?}");
        world.on(Event::MicrovmEnded(end(0)));
        let actions = world.taken();
        let last = actions.last();
        assert!(matches!(last, Some(Action::Gone(GoneReason::Violation(_)))), "{actions:?}");
    }
}

#[test]
fn a_process_that_survives_sigkill_is_given_up() {
    let mut world = World::busy(1);
    let now = world.now;
    assert_eq!(world.environment.kill(GoneReason::Stuck, now), [Action::Kill]);
    assert_eq!(world.environment.kill(GoneReason::Stuck, now), []);
    world.wait(KILL_TIMEOUT);
    assert_eq!(world.error_type(), "Sandbox.Failure");
    assert!(world.environment.is_gone());
    assert_eq!(world.environment.deadline(), None);
}

#[test]
fn a_guest_is_paused_between_invocations_and_held_to_its_share_within() {
    let mut world = World::with(Some(HANG));
    world.guest(hello());
    world.guest(ready());
    assert_eq!(
        world.all_taken(),
        [Action::Configure, Action::Throttle, Action::Pause, Action::Idle]
    );
    world.on(Event::VmmAnswered);
    // Nothing is asked of a VMM whose guest is paused.
    assert_eq!(world.environment.deadline(), None);
    world.invoke(1);
    assert_eq!(world.all_taken(), [Action::Resume, Action::Invoke(id(1))]);
    world.on(Event::VmmAnswered);
    let [start, response_end, done] = answer(1);
    world.guest(start);
    world.guest(response_end);
    // The caller has its answer while extensions go on.
    assert!(matches!(&world.all_taken()[..], [Action::Answered(Answered::Response { .. })]));
    world.guest(done);
    let actions = world.all_taken();
    assert!(matches!(&actions[..], [Action::Finished(_), Action::Pause, Action::Idle]));
    // A runtime that starts inside an invocation has the whole CPU until it is ready.
    let mut world = World::idle();
    world.guest(exited(None));
    world.guest(GuestEvent::Down);
    world.invoke(1);
    assert_eq!(world.all_taken(), [Action::Unthrottle, Action::Invoke(id(1))]);
    world.guest(ready());
    assert_eq!(world.all_taken(), [Action::Throttle]);
    // What is to end has to run.
    let mut world = World::with(Some(HANG));
    world.guest(hello());
    world.guest(ready());
    world.all_taken();
    let spindown = ShutdownReason::Spindown;
    let actions = world.environment.shutdown(spindown, world.now);
    assert_eq!(actions, [Action::Resume, Action::Shutdown(spindown)]);
}

#[test]
fn an_invocation_that_comes_early_waits_and_begins_without_a_pause() {
    let mut world = World::with(Some(HANG));
    world.invoke(1);
    assert_eq!(world.environment.invoke(spec(2), world.now), Err(Unavailable));
    world.guest(hello());
    world.wait(Duration::from_millis(300));
    world.on(Event::VmmAnswered);
    world.guest(ready());
    assert_eq!(world.all_taken(), [Action::Configure, Action::Throttle, Action::Invoke(id(1))]);
    // Its time began with it, not with its wait.
    world.now = world.now + Duration::from_millis(10);
    for frame in answer(1) {
        world.guest(frame);
    }
    let report = world.outcome().report;
    assert_eq!(report.duration, Duration::from_millis(10));
    assert_eq!(report.init, Some(Duration::from_millis(300)));
    // One that waits for an environment that never comes is answered too.
    let mut world = World::new();
    world.invoke(1);
    world.on(Event::MicrovmEnded(end(1)));
    assert_eq!(world.error_type(), "Sandbox.Failure");
}

#[test]
fn a_vmm_that_does_not_answer_is_known_within_a_second() {
    let mut world = World::with(Some(HANG));
    world.guest(hello());
    world.guest(ready());
    world.on(Event::VmmAnswered);
    world.invoke(1);
    world.on(Event::VmmAnswered);
    world.all_taken();
    let begun = world.now;
    // It answers for a while.
    for _ in 0..3 {
        world.wait(PROBE_PERIOD);
        assert_eq!(world.all_taken(), [Action::Resume]);
        world.on(Event::VmmAnswered);
    }
    let hung = world.now;
    while world.all_taken() != [Action::Kill] {
        world.now = world.environment.deadline().unwrap();
        world.on(Event::Tick);
        assert!(world.now.since(hung) <= Duration::from_secs(1));
    }
    assert!(world.now.since(begun) > PROBE_PERIOD * 3);
    world.on(Event::MicrovmEnded(end(0)));
    assert_eq!(world.error_type(), "Sandbox.Failure");
}

#[test]
fn an_extension_that_fails_takes_its_invocation_with_it() {
    let failure = |number| {
        GuestEvent::ExtensionExited(ExtensionEnd {
            name: String::from("watcher"),
            fault: ExtensionFault::Crash,
            status: Some(ExitStatus::Code(3)),
            id: number,
        })
    };
    let mut world = World::busy(1);
    world.guest(failure(Some(id(1))));
    let outcome = world.outcome();
    let Answered::Error(FunctionError { error_type, payload }) = outcome.answer else {
        panic!("an answer from nowhere")
    };
    assert_eq!(error_type, "Extension.Crash");
    assert!(String::from_utf8(payload).unwrap().contains("Error: exit status 3\""));
    // PID 1 ends the rest by itself, and says when that is done.
    world.guest(exited(Some(id(1))));
    assert!(world.taken().is_empty());
    world.guest(GuestEvent::Down);
    assert_eq!(world.taken(), [Action::Idle]);
    // In the init phase it is a failed init.
    let mut world = World::new();
    world.guest(hello());
    world.guest(failure(None));
    let actions = world.taken();
    assert!(matches!(&actions[1], Action::InitFailed(it) if it.error_type == "Extension.Crash"));
    world.guest(GuestEvent::Down);
    assert_eq!(world.taken(), [Action::Idle]);
}

#[test]
fn a_time_out_is_told_at_once() {
    let mut world = World::busy(1);
    world.wait(TIMEOUT);
    let actions = world.all_taken();
    let Action::Answered(Answered::Error(error)) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!(error.error_type, "Sandbox.Timedout");
    assert_eq!(actions[1], Action::Reset(ResetReason::Timeout));
    // With nothing left to end, its end alone is told.
    world.guest(GuestEvent::Down);
    let actions = world.all_taken();
    assert!(matches!(&actions[..], [Action::Finished(_), Action::Idle]), "{actions:?}");
}

#[test]
fn last_words_are_heard() {
    let mut world = World::idle();
    let now = world.now;
    world.environment.kill(GoneReason::Shutdown, now);
    world.guest(GuestEvent::Log(LogStream::Init, b"kernel BUG".to_vec()));
    assert_eq!(world.taken(), [Action::Log(LogStream::Init, b"kernel BUG".to_vec())]);
}

/// One thing that can happen in a random life.
#[derive(Clone, Debug)]
enum Step {
    Frame(u8),
    Invoke,
    Wait(u64),
    ToDeadline,
    LinkClosed,
    VmmAnswers,
    Ended,
    Kill,
    Shutdown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..15_u8).prop_map(Step::Frame),
        4 => Just(Step::Invoke),
        2 => (0..20_000_u64).prop_map(Step::Wait),
        1 => Just(Step::ToDeadline),
        1 => Just(Step::LinkClosed),
        4 => Just(Step::VmmAnswers),
        1 => Just(Step::Ended),
        1 => Just(Step::Kill),
        1 => Just(Step::Shutdown),
    ];
    // Most lives begin well, or few would get as far as an invocation.
    let begin = prop_oneof![3 => Just(vec![Step::Frame(0), Step::Frame(2)]), 1 => Just(Vec::new())];
    (begin, prop::collection::vec(step, 0..40)).prop_map(|(mut all, rest)| {
        all.extend(rest);
        all
    })
}

fn frame(choice: u8, current: u8) -> GuestEvent {
    let [start, response_end, done] = answer(current);
    match choice {
        0 => hello(),
        1 => GuestEvent::Phase(phase(PhaseName::RuntimeStarted)),
        2 => ready(),
        3 | 4 => start,
        5 => GuestEvent::ResponsePayload(vec![1; 10]),
        6 | 7 => response_end,
        8 | 9 => done,
        10 => init_error(),
        11 => exited(None),
        12 => exited(Some(id(current))),
        13 => GuestEvent::Down,
        _ => GuestEvent::Log(LogStream::Stdout, vec![b'x']),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn every_life_ends_and_every_invocation_is_answered_once(steps in steps(), asked in any::<bool>()) {
        let mut world = World::with(asked.then_some(HANG));
        let (mut begun, mut finished, mut gone) = (0_u8, 0_u8, 0);
        let mut killed = false;
        // After the random part, time alone must bring every life to its end.
        let ending = std::iter::repeat_n(Step::ToDeadline, 6);
        let shutdown = std::iter::once(Step::Shutdown);
        for step in steps.into_iter().chain(shutdown).chain(ending) {
            let was_gone = world.environment.is_gone();
            match step {
                Step::Frame(choice) => world.guest(frame(choice, begun)),
                Step::Invoke => {
                    let actions = world.environment.invoke(spec(begun + 1), world.now);
                    prop_assert!(actions.is_err() || begun == finished, "two at once");
                    begun += u8::from(actions.is_ok());
                    world.actions.extend(actions.unwrap_or_default());
                }
                Step::Wait(ms) => world.wait(Duration::from_millis(ms)),
                Step::ToDeadline => {
                    if let Some(deadline) = world.environment.deadline() {
                        world.now = world.now.max(deadline);
                        world.on(Event::Tick);
                        // No deadline survives its own tick, or the loop would spin.
                        prop_assert!(world.environment.deadline().is_none_or(|next| next > world.now));
                    }
                }
                Step::LinkClosed => world.on(Event::LinkClosed(None)),
                Step::VmmAnswers => world.on(Event::VmmAnswered),
                Step::Ended => world.on(Event::MicrovmEnded(end(0))),
                Step::Kill => {
                    let actions = world.environment.kill(GoneReason::Shutdown, world.now);
                    world.actions.extend(actions);
                }
                Step::Shutdown => {
                    let actions = world.environment.shutdown(ShutdownReason::Spindown, world.now);
                    world.actions.extend(actions);
                }
            }
            for action in world.taken() {
                match action {
                    Action::Finished(outcome) => {
                        finished += 1;
                        prop_assert_eq!(outcome.id, id(begun), "another invocation's outcome");
                    }
                    Action::Gone(_) => gone += 1,
                    Action::Kill => {
                        prop_assert!(!killed, "killed twice");
                        killed = true;
                    }
                    Action::Log(..) => {}
                    _ => prop_assert!(!was_gone, "a ghost wants something"),
                }
            }
            // At most one invocation is open, and none once nothing is left.
            prop_assert!(begun - finished <= 1);
            prop_assert!(!world.environment.is_gone() || begun == finished);
        }
        prop_assert!(world.environment.is_gone());
        prop_assert_eq!(gone, 1);
        prop_assert_eq!(begun, finished);
    }
}
