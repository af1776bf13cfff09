//! What every world is held to.

use std::time::Duration;

use votive_agent::worker::api::{
    Capacity, EnvironmentState, FunctionVersionId, Initialization, ProvisionedStatus, WorkerState,
};

use crate::world::{Failure, World};

const SECOND: u64 = 1_000_000_000;

impl World {
    /// After every step.
    pub(crate) fn check(&mut self, seed: u64) -> Result<(), Failure> {
        self.check_caps();
        self.check_lease();
        match self.broken.take() {
            Some(what) => Err(Failure { seed, step: self.counts.steps, what }),
            None => Ok(()),
        }
    }

    fn check_caps(&mut self) {
        let limit = self.config.limits.capacity;
        let mut used = Capacity::default();
        for place in self.places.values() {
            used.environments += place.cost.environments;
            used.memory_mb += place.cost.memory_mb;
            used.vcpus += place.cost.vcpus;
        }
        if used.environments > limit.environments
            || used.memory_mb > limit.memory_mb
            || used.vcpus > limit.vcpus
        {
            self.break_rule(format!("{used:?} of {limit:?} are used"));
        }
        if used != self.core.used() {
            self.break_rule(format!("{used:?} are used and {:?} are told", self.core.used()));
        }
        let versions: Vec<_> = self.places.values().map(|place| place.version).collect();
        for version in &versions {
            let count = versions.iter().filter(|it| *it == version).count();
            let own = self.core.registry().get(*version).map_or(0, |it| it.concurrency_limit);
            let general = self.config.limits.per_function_version;
            let max = if own == 0 { general } else { own.min(general) };
            if u32::try_from(count).unwrap_or(u32::MAX) > max {
                self.break_rule(format!("{count} environments of {version}, {max} are allowed"));
            }
        }
    }

    fn check_lease(&mut self) {
        let Some(expires) = self.expires else {
            if !self.places.is_empty() {
                self.break_rule(String::from("an environment without a lease"));
            }
            return;
        };
        let late: Vec<_> = self.places.iter().filter(|(_, it)| it.deadline >= expires).collect();
        if let Some((id, _)) = late.first() {
            let what = format!("{id} would outlive the lease");
            return self.break_rule(what);
        }
        // A VMM that nobody ends does so itself.
        let (now, places) = (self.now, self.places.values());
        let alive = places.filter(|it| it.guest.alive && now < it.deadline).count();
        if now >= expires && alive > 0 {
            self.break_rule(String::from("something is alive after the lease"));
        }
    }

    /// The end of a world: nothing goes wrong any more, and everything comes to rest.
    pub(crate) fn conclude(&mut self, seed: u64) -> Result<(), Failure> {
        self.faulty = false;
        if !self.terminated {
            self.go_to(self.now);
            self.check(seed)?;
            self.check_provisioned(seed)?;
            self.core.drain(self.boot_time());
            self.carry_out();
        }
        // The longest invocation, a reset, a shutdown, and what was planned before.
        let end = self.now + 1200 * SECOND;
        while !self.terminated && self.now < end {
            self.counts.steps += 1;
            if !self.go_on() {
                break;
            }
            self.check(seed)?;
        }
        let fail = |what| Err(Failure { seed, step: self.counts.steps, what });
        if !self.terminated {
            return fail(format!("the worker is {:?} for ever", self.core.lease().state()));
        }
        if !self.places.is_empty() {
            return fail(format!("{} environments are left", self.places.len()));
        }
        match self.taken.iter().find(|(_, answered)| !**answered) {
            Some((invocation, _)) => fail(format!("{invocation} has no answer")),
            None => Ok(()),
        }
    }

    /// Provisioned environments are there again once nothing goes wrong any more.
    fn check_provisioned(&mut self, seed: u64) -> Result<(), Failure> {
        let known: Vec<_> = self.known.iter().copied().collect();
        let wanted = known.iter().any(|id| {
            self.core.provisioned(*id).is_ok_and(|provisioned| provisioned.requested > 0)
        });
        if !wanted || self.core.lease().state() != WorkerState::Active {
            return Ok(());
        }
        // Hung ones are found by their time-outs: boot 60 s, then a kill, a wait of a minute at most, a boot and an init.
        let mut end = self.now + 240 * SECOND;
        while self.now < end && !self.terminated {
            self.counts.steps += 1;
            let blocked = known.iter().any(|id| self.is_blocked(*id));
            match self.core.lease().schedule() {
                Some(schedule) if schedule.drain_at.nanoseconds() > end => {}
                // The lease ends first.
                _ => return Ok(()),
            }
            if self.next().is_none_or(|next| next > end) || !self.go_on() {
                break;
            }
            if blocked {
                // Whatever takes the room may take it for the longest invocation; the wait begins when it is free.
                end = self.now + 240 * SECOND;
            }
            self.check(seed)?;
        }
        for id in known {
            let Ok(provisioned) = self.core.provisioned(id) else { continue };
            if provisioned.available < provisioned.requested
                && !self.is_blocked(id)
                && !self.is_starting(id)
            {
                let what = format!("provisioned concurrency is not restored: {provisioned:?}");
                return Err(Failure { seed, step: self.counts.steps, what });
            }
            self.counts.restored += u64::from(provisioned.available);
        }
        Ok(())
    }

    /// Whether one of the version's provisioned environments has just been begun: the one before ended with its own lease.
    fn is_starting(&self, id: FunctionVersionId) -> bool {
        self.core.environments(Some(id), self.boot_time()).iter().any(|environment| {
            matches!(environment.state, EnvironmentState::Creating | EnvironmentState::Initialising)
                && environment.initialization == Initialization::Provisioned
                && environment.age < Duration::from_secs(100)
        })
    }

    /// Whether there is no room for all of the version's provisioned environments.
    fn is_blocked(&self, id: FunctionVersionId) -> bool {
        self.core.provisioned(id).is_ok_and(|provisioned| {
            provisioned.status == ProvisionedStatus::Failed
                && provisioned.status_reason.contains("no room")
        })
    }
}
