//! Every call of the channel with the role that it needs and the longest that it may take. A call that is not here does not
//! exist; that nothing is missing, a test finds out from the `.proto` file.

use std::time::Duration;

use votive_control::identity::Role;

#[cfg(test)]
mod tests;

/// What every call's path begins with.
const SERVICE: &str = "/votive.worker.v1.Worker/";

/// The worker knows the answer.
const QUICK: Duration = Duration::from_secs(15);
/// Code is read, checked and packed.
const REGISTRATION: Duration = Duration::from_secs(180);
/// An invocation of 900 s with its start before and its extensions after it.
const INVOCATION: Duration = Duration::from_secs(1200);
/// As long as the worker lives.
const WATCH: Duration = Duration::from_secs(14 * 3600);

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name in the `.proto` file.
    pub name: &'static str,
    /// The role that its caller must have.
    pub role: Role,
    /// The longest until its answer begins. Answers that are streams have limits of their own.
    pub limit: Duration,
}

const fn call(name: &'static str, role: Role, limit: Duration) -> Call {
    Call { name, role, limit }
}

/// All calls; those that are made most come first.
pub const CALLS: [Call; 15] = [
    call("Invoke", Role::Orchestrator, INVOCATION),
    call("Reserve", Role::Orchestrator, QUICK),
    call("AwaitRelease", Role::Orchestrator, INVOCATION),
    call("GetStatus", Role::Observer, QUICK),
    call("GrantLease", Role::Orchestrator, QUICK),
    call("Drain", Role::Orchestrator, QUICK),
    call("RegisterFunctionVersion", Role::Orchestrator, REGISTRATION),
    call("RemoveFunctionVersion", Role::Orchestrator, QUICK),
    call("ListFunctionVersions", Role::Observer, QUICK),
    call("SetProvisionedConcurrency", Role::Orchestrator, QUICK),
    call("GetProvisionedConcurrency", Role::Observer, QUICK),
    call("ListEnvironments", Role::Observer, QUICK),
    call("GetEnvironment", Role::Observer, QUICK),
    call("DestroyEnvironment", Role::Operator, QUICK),
    call("WatchEvents", Role::Observer, WATCH),
];

/// The call at an HTTP path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Call> {
    let name = path.strip_prefix(SERVICE)?;
    CALLS.iter().find(|call| call.name == name)
}
