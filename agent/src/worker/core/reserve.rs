//! Reservations: an environment is claimed for one invocation, and the claim is spent once.

use std::fmt::Write;
use std::time::Duration;

use sha2::{Digest, Sha256};
use votive_protocol::InvocationId;

use crate::clock::BootTime;
use crate::limits::{RESERVATION_REMEMBERED, RESERVATIONS_MAX, RETRY_AFTER};
use crate::worker::api::{
    CreateReason, EndReason, EnvironmentId, FunctionVersionId, Initialization, InvokeError,
    ThrottleReason, WorkerState,
};
use crate::worker::core::entry::{Claim, Entry, Stage, cost};
use crate::worker::core::{Core, Effect, Timer};

/// The secret that spends a reservation: 32 random bytes, which the caller of [`Core::reserve`] draws.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub [u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Its text: 64 hexadecimal digits.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// What it is found by.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.to_text())
    }
}

/// SHA-256 of a token's text. Reservations are kept under it, so that how long a look-up takes tells nothing of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// That of a text, which may be anything.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// A reservation as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The environment.
    pub environment: EnvironmentId,
    /// Whether the invocation will wait for its start.
    pub cold: bool,
    /// How long the invocation may take.
    pub function_timeout: Duration,
    /// How long the reservation is good.
    pub expires_in: Duration,
}

#[derive(Debug)]
pub(super) struct Reserved {
    version: FunctionVersionId,
    invocation: InvocationId,
    environment: EnvironmentId,
    timeout: Duration,
    status: Status,
    /// The end of what `status` stands for.
    timer: BootTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Open,
    Spent,
    Expired,
}

impl Core {
    /// Claims an environment for an invocation.
    ///
    /// # Errors
    /// [`InvokeError`]; nothing is claimed then.
    pub fn reserve(
        &mut self,
        version: FunctionVersionId,
        invocation: InvocationId,
        token: &Token,
        now: BootTime,
    ) -> Result<Grant, InvokeError> {
        self.check_active(now)?;
        let known = self.registry.get(version).ok_or(InvokeError::ResourceNotFound)?;
        let timeout = known.function.timeout();
        if self.live.contains_key(&invocation) {
            return Err(InvokeError::AlreadyInvocating);
        }
        if self.reserved.contains_key(&invocation) {
            return Err(InvokeError::AlreadyReserved);
        }
        if self.reservations.len() >= RESERVATIONS_MAX {
            return Err(throttled(ThrottleReason::CallerRateLimitExceeded));
        }
        let lifetime = self.config.reservation_lifetime;
        let environment = self.acquire(version, timeout + lifetime, now)?;
        let hash = token.hash();
        let timer = now + lifetime;
        let status = Status::Open;
        let reserved = Reserved { version, invocation, environment, timeout, status, timer };
        self.reservations.insert(hash, reserved);
        self.timers.insert((timer, Timer::Reservation(hash)));
        self.reserved.insert(invocation, hash);
        self.claim(environment, Claim::Reserved(invocation));
        self.settle(now);
        let idle = |entry: &Entry| matches!(entry.stage, Stage::Idle { .. });
        let cold = !self.environments.get(&environment).is_some_and(idle);
        Ok(Grant { environment, cold, function_timeout: timeout, expires_in: lifetime })
    }

    /// Spends a reservation: the invocation begins, or waits for its environment's start.
    ///
    /// # Errors
    /// [`InvokeError`]; the reservation is as good as before then, unless the error says otherwise.
    pub fn spend(
        &mut self,
        token: &str,
        invocation: InvocationId,
        version: FunctionVersionId,
        now: BootTime,
    ) -> Result<EnvironmentId, InvokeError> {
        let hash = TokenHash::of(token);
        let reserved = self.reservations.get(&hash).ok_or(InvokeError::InvalidReservationToken)?;
        if reserved.version != version {
            return Err(InvokeError::InvalidFunctionVersion);
        }
        if reserved.invocation != invocation {
            return Err(InvokeError::InvalidInvokeId);
        }
        match reserved.status {
            Status::Open if now >= reserved.timer => return Err(InvokeError::ReservationExpired),
            Status::Open => {}
            Status::Expired => return Err(InvokeError::ReservationExpired),
            Status::Spent if self.live.contains_key(&invocation) => {
                return Err(InvokeError::AlreadyInvocating);
            }
            Status::Spent => return Err(InvokeError::InvalidReservationToken),
        }
        let (environment, timeout) = (reserved.environment, reserved.timeout);
        let environment = self.still_claimed(environment, invocation, version, timeout, now)?;
        self.set_status(hash, Status::Spent, now);
        self.reserved.remove(&invocation);
        self.live.insert(invocation, environment);
        self.claim(environment, Claim::Invoked(invocation));
        if let Some(entry) = self.environments.get_mut(&environment) {
            entry.invocations += 1;
            let (launched, idle) = (entry.is_launched(), entry.is_initialised());
            if launched {
                self.effects.push(Effect::Invoke { environment, invocation });
            }
            if idle {
                self.set_stage(environment, Stage::Busy, now);
            }
        }
        self.settle(now);
        Ok(environment)
    }

    /// The environment of a reservation, or another one if it was lost meanwhile.
    fn still_claimed(
        &mut self,
        environment: EnvironmentId,
        invocation: InvocationId,
        version: FunctionVersionId,
        timeout: Duration,
        now: BootTime,
    ) -> Result<EnvironmentId, InvokeError> {
        let claimed = Claim::Reserved(invocation);
        if let Some(entry) = self.environments.get(&environment)
            && entry.claim == claimed
        {
            if now + timeout <= entry.schedule.terminate_at {
                return Ok(environment);
            }
            return Err(InvokeError::ResourceNotReady { why: "its lease comes to its end" });
        }
        self.check_active(now)?;
        self.acquire(version, timeout, now)
    }

    fn check_active(&self, now: BootTime) -> Result<(), InvokeError> {
        let why = match self.lease.state() {
            WorkerState::Active => match self.current_schedule() {
                Some(schedule) if now < schedule.drain_at => return Ok(()),
                // The tick that begins the drain is on its way.
                _ => "it is draining",
            },
            WorkerState::Unleased => "it has no lease",
            WorkerState::Draining => "it is draining",
            WorkerState::Terminating | WorkerState::Terminated => "it ends",
        };
        Err(InvokeError::ResourceNotReady { why })
    }

    /// An environment without a claim that can serve for `needed` from now on: idle, starting without anyone waiting, or new.
    fn acquire(
        &mut self,
        version: FunctionVersionId,
        needed: Duration,
        now: BootTime,
    ) -> Result<EnvironmentId, InvokeError> {
        let ends = now + needed;
        if let Some(id) = self.find_idle(version, ends) {
            return Ok(id);
        }
        if let Some(id) = self.find_starting(version, ends) {
            return Ok(id);
        }
        let function = &self.registry.get(version).ok_or(InvokeError::ResourceNotFound)?.function;
        let cost = cost(function);
        if self.current_schedule().is_none_or(|schedule| ends > schedule.terminate_at) {
            return Err(InvokeError::ResourceNotReady { why: "its lease comes to its end" });
        }
        let admitted = self.versions.get(&version).map_or(0, |pool| pool.admitted);
        if admitted >= self.version_limit(version) && !self.evict_own(version, now) {
            let reason = ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded;
            return Err(throttled(reason));
        }
        if !self.make_room(cost, now) {
            return Err(throttled(ThrottleReason::ConcurrentInvocationLimitExceeded));
        }
        self.plan(version, Initialization::OnDemand, CreateReason::ColdStart, now)
            .ok_or(InvokeError::ServiceException { what: "no environment can be planned" })
    }

    /// The most recently used idle environment, provisioned ones before others: they are there for this.
    fn find_idle(&self, version: FunctionVersionId, ends: BootTime) -> Option<EnvironmentId> {
        let pool = self.versions.get(&version)?;
        let of = |wanted: Initialization| {
            pool.idle.iter().rev().copied().find(|id| {
                self.environments.get(id).is_some_and(|entry| {
                    entry.initialization == wanted
                        && entry.retiring.is_none()
                        && ends <= entry.schedule.terminate_at
                })
            })
        };
        of(Initialization::Provisioned).or_else(|| of(Initialization::OnDemand))
    }

    /// An environment on demand that starts although nobody waits for it any more.
    fn find_starting(&self, version: FunctionVersionId, ends: BootTime) -> Option<EnvironmentId> {
        let pool = self.versions.get(&version)?;
        if usize::try_from(pool.admitted).is_ok_and(|admitted| admitted == pool.idle.len()) {
            return None;
        }
        let starting = |entry: &Entry| {
            entry.version == version
                && matches!(entry.stage, Stage::Planned | Stage::Creating | Stage::Initialising)
                && entry.initialization == Initialization::OnDemand
                && entry.claim == Claim::None
                && entry.retiring.is_none()
                && ends <= entry.schedule.terminate_at
        };
        self.environments.iter().find(|(_, entry)| starting(entry)).map(|(id, _)| *id)
    }

    /// Makes room for an environment: ends idle ones on demand, the least recently used first, if that helps.
    pub(super) fn make_room(&mut self, cost: crate::worker::api::Capacity, now: BootTime) -> bool {
        let limit = self.config.limits.capacity;
        if self.admitted.allows(cost, limit) {
            return true;
        }
        let mut idle: Vec<_> = self
            .environments
            .iter()
            .filter_map(|(id, entry)| match entry.stage {
                Stage::Idle { since }
                    if entry.claim == Claim::None
                        && entry.initialization == Initialization::OnDemand =>
                {
                    Some((since, *id, entry.cost))
                }
                _ => None,
            })
            .collect();
        idle.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        let mut left = self.admitted;
        let mut victims = Vec::new();
        for (_, id, freed) in idle {
            left = left.minus(freed);
            victims.push(id);
            if left.allows(cost, limit) {
                for victim in victims {
                    self.end(victim, EndReason::Evicted, false, now);
                }
                return true;
            }
        }
        false
    }

    /// Ends an idle environment on demand of the version, if there is one: what is asked for cannot be served by it.
    pub(super) fn evict_own(&mut self, version: FunctionVersionId, now: BootTime) -> bool {
        let Some(pool) = self.versions.get(&version) else { return false };
        let on_demand = |id: &&EnvironmentId| {
            let entry = self.environments.get(id);
            entry.is_some_and(|entry| entry.initialization == Initialization::OnDemand)
        };
        let Some(id) = pool.idle.iter().find(on_demand).copied() else { return false };
        self.end(id, EndReason::Evicted, false, now);
        true
    }

    fn claim(&mut self, id: EnvironmentId, claim: Claim) {
        let Some(entry) = self.environments.get_mut(&id) else { return };
        entry.claim = claim;
        if let Some(pool) = self.versions.get_mut(&entry.version) {
            pool.idle.retain(|idle| *idle != id);
        }
        self.set_timer(id);
    }

    fn set_status(&mut self, hash: TokenHash, status: Status, now: BootTime) {
        let Some(reserved) = self.reservations.get_mut(&hash) else { return };
        self.timers.remove(&(reserved.timer, Timer::Reservation(hash)));
        reserved.status = status;
        reserved.timer = now + RESERVATION_REMEMBERED;
        self.timers.insert((reserved.timer, Timer::Reservation(hash)));
    }

    pub(super) fn on_reservation_timer(&mut self, hash: TokenHash, now: BootTime) {
        let Some(reserved) = self.reservations.get(&hash) else { return };
        let (invocation, environment) = (reserved.invocation, reserved.environment);
        if reserved.status != Status::Open {
            self.reservations.remove(&hash);
            return;
        }
        self.set_status(hash, Status::Expired, now);
        self.reserved.remove(&invocation);
        let Some(entry) = self.environments.get_mut(&environment) else { return };
        if entry.claim != Claim::Reserved(invocation) {
            return;
        }
        entry.claim = Claim::None;
        let retiring = entry.retiring;
        match entry.stage {
            // Nobody wants it any more, and nothing was started for it.
            Stage::Planned => self.end(environment, EndReason::IdleTimeout, false, now),
            Stage::Idle { .. } => self.free(environment, now),
            Stage::Creating | Stage::Initialising if self.lease.state() != WorkerState::Active => {
                self.end(environment, EndReason::WorkerDraining, false, now);
            }
            Stage::Creating | Stage::Initialising => {
                if let Some(reason) = retiring {
                    self.end(environment, reason, false, now);
                }
            }
            Stage::Busy | Stage::Ending { .. } => {}
        }
    }
}

fn throttled(reason: ThrottleReason) -> InvokeError {
    InvokeError::TooManyRequests { reason, retry_after: RETRY_AFTER }
}
