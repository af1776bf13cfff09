//! Callers and an orchestrator, played: they ask for what they may and for what they may not.

use std::time::Duration;

use votive_agent::worker::api::{InvokeError, LeaseError, WorkerState};
use votive_agent::worker::core::Token;
use votive_agent::worker::lease_file::{Clocks, LeaseRecord};
use votive_protocol::InvocationId;

use crate::world::{Held, World};

impl World {
    /// Somebody asks something of the worker.
    pub(crate) fn ask(&mut self) {
        match self.random.below(100) {
            0..2 => self.grant(),
            2..6 => self.register(),
            6 if self.random.chance(300) => self.remove(),
            7..46 => self.reserve(),
            46..86 => self.spend(),
            86..92 => self.provision(),
            92..95 => self.destroy(),
            95 => {
                if self.random.chance(50) {
                    self.core.drain(self.boot_time());
                }
            }
            _ => self.core.on_tick(self.boot_time()),
        }
    }

    pub(crate) fn clocks(&self) -> Clocks {
        Clocks {
            boot_id: format!("boot {}", self.boot),
            boot_time: self.boot_time(),
            wall: Duration::from_nanos(self.now.saturating_add(self.wall_offset)),
        }
    }

    pub(crate) fn grant(&mut self) {
        let duration = match self.random.below(4) {
            0 => Duration::from_secs(self.random.between(1, 60)),
            1 => Duration::from_secs(self.random.between(60, 2000)),
            2 => Duration::from_secs(self.random.between(2000, 14 * 3600 + 100)),
            _ => Duration::from_secs(14 * 3600),
        };
        let longest = Duration::from_secs(self.random.between(1, 920));
        self.grant_this(duration, longest);
    }

    pub(crate) fn grant_this(&mut self, duration: Duration, longest: Duration) {
        let now = self.boot_time();
        let term = match self.core.plan_lease(duration, longest, now) {
            Ok(term) => term,
            Err(LeaseError::Draining | LeaseError::Shorter) => return,
            Err(_) => {
                self.counts.refused += 1;
                return;
            }
        };
        let issued = self.clocks();
        let first = self.record.as_ref().map_or(&issued, |record| &record.first).clone();
        let record =
            LeaseRecord { first, issued, duration, longest_invocation: longest, draining: false };
        self.record = Some(record);
        let expires = term.expires.nanoseconds();
        let life_ends = *self.life_ends.get_or_insert(self.now + 14 * 3600 * 1_000_000_000);
        if expires > life_ends {
            self.break_rule(String::from("a lease goes beyond 14 h"));
        }
        self.expires = Some(expires);
        self.core.apply_lease(term, false, now);
    }

    pub(crate) fn register(&mut self) {
        let which = self.random.below(self.versions.len() as u64);
        let Some(version) = usize::try_from(which).ok().and_then(|it| self.versions.get(it)) else {
            return;
        };
        let version = version.clone();
        match self.core.register(version, self.boot_time()) {
            Ok(registered) => {
                self.known.insert(registered.id);
                if let Some(retired) = registered.retired {
                    self.known.remove(&retired);
                }
            }
            Err(_) => self.counts.refused += 1,
        }
    }

    fn some_version(&mut self) -> Option<votive_agent::worker::api::FunctionVersionId> {
        let which = self.random.below(self.known.len() as u64);
        self.known.iter().nth(usize::try_from(which).unwrap_or(0)).copied()
    }

    fn remove(&mut self) {
        if let Some(version) = self.some_version() {
            self.known.remove(&version);
            if self.core.remove(version, self.boot_time()).is_err() {
                self.break_rule(String::from("a version that is known cannot be removed"));
            }
        }
    }

    fn reserve(&mut self) {
        let Some(version) = self.some_version() else { return };
        self.next_invocation += 1;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.next_invocation.to_be_bytes());
        let mut invocation = InvocationId(id);
        if self.random.chance(50)
            && let Some(held) = self.held.last()
        {
            // One that has a reservation.
            invocation = held.invocation;
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.random.number().to_be_bytes());
        let token = Token(bytes);
        let was_taken = self.taken.contains_key(&invocation);
        let now = self.boot_time();
        match self.core.reserve(version, invocation, &token, now) {
            Ok(_) => {
                if self.core.lease().state() != WorkerState::Active {
                    self.break_rule(String::from("a reservation without a lease"));
                }
                if was_taken && self.taken.get(&invocation) == Some(&false) {
                    self.break_rule(format!("{invocation} was reserved while it was under way"));
                }
                if !was_taken {
                    self.held.push(Held { token: token.to_text(), invocation, version });
                }
            }
            Err(_) => self.counts.refused += 1,
        }
    }

    fn spend(&mut self) {
        if self.held.is_empty() {
            return;
        }
        // Mostly the latest, at once; sometimes one that was spent long ago.
        let back =
            if self.random.chance(700) { 0 } else { self.random.below(self.held.len() as u64) };
        let which = self.held.len() - 1 - usize::try_from(back).unwrap_or(0);
        let Some(held) = self.held.get(which).cloned() else { return };
        let now = self.boot_time();
        // A guess, another invocation's token, another version's.
        let wrong = match self.random.below(20) {
            0 => Some((String::from("00"), held.invocation, held.version)),
            1 => Some((held.token.clone(), InvocationId([9; 16]), held.version)),
            2 => self
                .known
                .iter()
                .find(|it| **it != held.version)
                .map(|other| (held.token.clone(), held.invocation, *other)),
            _ => None,
        };
        if let Some((token, invocation, version)) = wrong {
            if self.core.spend(&token, invocation, version, now).is_ok() {
                self.break_rule(String::from("a reservation was spent by what is not its own"));
            }
            self.counts.refused += 1;
            return;
        }
        let twice = self.taken.contains_key(&held.invocation);
        match self.core.spend(&held.token, held.invocation, held.version, now) {
            Ok(_) if twice => {
                self.break_rule(format!("{} was begun twice", held.invocation));
            }
            Ok(_) => {
                self.taken.insert(held.invocation, false);
                self.counts.invocations += 1;
            }
            Err(error) => {
                self.counts.refused += 1;
                if error == InvokeError::ReservationExpired {
                    self.held.swap_remove(which);
                }
            }
        }
    }

    fn provision(&mut self) {
        if let Some(version) = self.some_version() {
            let count = u32::try_from(self.random.below(4)).unwrap_or(0);
            if self.core.set_provisioned(version, count, self.boot_time()).is_err() {
                self.counts.refused += 1;
            }
        }
    }

    fn destroy(&mut self) {
        let which = self.random.below(self.places.len() as u64);
        let id = self.places.keys().nth(usize::try_from(which).unwrap_or(0)).copied();
        if let Some(id) = id {
            let _ = self.core.destroy(id, self.boot_time());
        }
    }
}
