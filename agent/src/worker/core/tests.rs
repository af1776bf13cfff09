//! The core case by case; `tests/simulation` holds it to its rules in all the others.

use std::sync::Arc;

use super::*;
use crate::function::FunctionSpec;
use crate::report::LogFormat;
use crate::worker::api::InvokeError;
use crate::worker::registry::VersionImages;

fn at(seconds: u64) -> BootTime {
    BootTime::from_nanoseconds(seconds * 1_000_000_000)
}

fn core(environments: u32) -> Core {
    let capacity = Capacity { environments, memory_mb: 100_000, vcpus: 100 };
    let mut core = Core::new(CoreConfig {
        limits: WorkerLimits { capacity, per_function_version: 100 },
        idle_timeout: Duration::from_secs(60),
        reservation_lifetime: Duration::from_secs(5),
        run: 1,
    });
    let (hours, longest) = (Duration::from_secs(14 * 3600), Duration::from_secs(900));
    let term = core.plan_lease(hours, longest, at(1)).unwrap();
    core.apply_lease(term, false, at(1));
    core
}

fn register(core: &mut Core, name: &str, concurrency_limit: u32) -> FunctionVersionId {
    let mut spec = FunctionSpec::new("provided", "h");
    spec.name = name.to_owned();
    spec.version = String::from("1");
    let version = Version {
        function: Arc::new(spec.validate().unwrap()),
        code_sha256: [1; 32],
        log_format: LogFormat::Text,
        concurrency_limit,
        images: Arc::new(VersionImages::default()),
    };
    core.register(version, at(1)).unwrap().id
}

fn reserve(core: &mut Core, version: FunctionVersionId, number: u8) -> Result<Grant, InvokeError> {
    let (invocation, token) = (InvocationId([number; 16]), Token([number; 32]));
    core.reserve(version, invocation, &token, at(2))
}

fn created(core: &mut Core) -> Vec<EnvironmentId> {
    let effects = core.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Create(creation) => Some(creation.environment),
            _ => None,
        })
        .collect()
}

/// Makes an environment that is idle.
fn idle(core: &mut Core, version: FunctionVersionId, number: u8) -> EnvironmentId {
    let grant = reserve(core, version, number).unwrap();
    core.idle(grant.environment, at(3));
    core.on_tick(at(8));
    core.take_effects();
    grant.environment
}

#[test]
fn each_reservation_has_an_environment_of_its_own_and_caps_throttle() {
    let mut core = core(3);
    let (one, two) = (register(&mut core, "one", 2), register(&mut core, "two", 0));
    for number in 1..=2 {
        assert!(reserve(&mut core, one, number).unwrap().cold);
    }
    assert_eq!(created(&mut core).len(), 2);
    let reason = |result: Result<Grant, InvokeError>| result.unwrap_err().reason().unwrap().name();
    let own = "ReservedFunctionConcurrentInvocationLimitExceeded";
    assert_eq!(reason(reserve(&mut core, one, 3)), own);
    assert!(reserve(&mut core, two, 4).is_ok());
    assert_eq!(reason(reserve(&mut core, two, 5)), "ConcurrentInvocationLimitExceeded");
}

#[test]
fn an_idle_environment_of_another_version_makes_room_once_it_is_gone() {
    let mut core = core(1);
    let (one, two) = (register(&mut core, "one", 0), register(&mut core, "two", 0));
    let first = idle(&mut core, one, 1);
    let grant = reserve(&mut core, two, 2).unwrap();
    let effects = core.take_effects();
    assert!(effects.contains(&Effect::Shutdown(first, EndReason::Evicted)));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Create(_))));
    // Its reservation can be spent before there is room.
    let (invocation, token) = (InvocationId([2; 16]), Token([2; 32]).to_text());
    core.spend(&token, invocation, two, at(3)).unwrap();
    core.gone(first, EndReason::GuestEnded, at(4));
    let environment = grant.environment;
    let effects = core.take_effects();
    assert!(effects.contains(&Effect::Invoke { environment, invocation }));
}

#[test]
fn the_most_recently_used_is_used_next_and_the_others_end() {
    let mut core = core(9);
    let version = register(&mut core, "one", 0);
    let (first, second) =
        (reserve(&mut core, version, 1).unwrap(), reserve(&mut core, version, 2).unwrap());
    core.idle(first.environment, at(3));
    core.idle(second.environment, at(3));
    core.on_tick(at(8));
    let grant = reserve(&mut core, version, 3).unwrap();
    assert_eq!((grant.environment, grant.cold), (second.environment, false));
    core.take_effects();
    core.on_tick(at(63));
    let ended = Effect::Shutdown(first.environment, EndReason::IdleTimeout);
    assert!(core.take_effects().contains(&ended));
}

#[test]
fn a_reservation_whose_environment_was_lost_finds_another() {
    let mut core = core(9);
    let version = register(&mut core, "one", 0);
    let lost = reserve(&mut core, version, 1).unwrap().environment;
    core.gone(lost, EndReason::VmmLost, at(3));
    let invocation = InvocationId([1; 16]);
    let token = Token([1; 32]).to_text();
    let found = core.spend(&token, invocation, version, at(3)).unwrap();
    assert_ne!(found, lost);
    assert_eq!(core.invocations(), 1);
}
