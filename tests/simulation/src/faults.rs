//! What goes wrong with hosts, agents and VMMs.

use votive_agent::worker::core::Core;
use votive_agent::worker::lease_file::Restored;

use crate::guests::Happening;
use crate::world::World;

const SECOND: u64 = 1_000_000_000;

impl World {
    /// Something breaks.
    pub(crate) fn fail(&mut self) {
        match self.random.below(100) {
            0..45 => self.kill_a_vmm(),
            45..75 => self.hang_a_vmm(),
            75..83 => self.restart(),
            // The agent stands still: what happens meanwhile it hears of later.
            83..99 => {
                let seconds = self.random.between(1, 120);
                self.now += seconds * SECOND;
            }
            _ => {
                let seconds = self.random.between(1, 15 * 3600);
                self.now += seconds * SECOND;
            }
        }
    }

    fn some_place(&mut self) -> Option<votive_agent::worker::api::EnvironmentId> {
        let which = self.random.below(self.places.len() as u64);
        self.places.keys().nth(usize::try_from(which).unwrap_or(0)).copied()
    }

    fn kill_a_vmm(&mut self) {
        if let Some(id) = self.some_place() {
            self.counts.faults += 1;
            self.happen(id, Happening::Killed);
        }
    }

    fn hang_a_vmm(&mut self) {
        if let Some(id) = self.some_place() {
            self.counts.faults += 1;
            self.hang(id);
        }
    }

    /// The agent is killed and started again: its microVMs end with it, its callers are cut off.
    fn restart(&mut self) {
        self.counts.restarts += 1;
        self.places.clear();
        self.agenda.clear();
        self.held.clear();
        self.known.clear();
        for answered in self.taken.values_mut() {
            *answered = true;
        }
        self.now += self.random.between(0, 60) * SECOND;
        if self.random.chance(200) {
            // The time of day is set.
            let step = self.random.between(0, 7200) * SECOND;
            self.wall_offset = match self.random.chance(500) {
                true => self.wall_offset + step,
                false => self.wall_offset - step,
            };
        }
        self.config.run += 1;
        self.core = Core::new(self.config);
        let clocks = self.clocks();
        let Some(record) = &mut self.record else { return };
        if self.random.chance(300) {
            // The worker leases itself: a drain ends with its process.
            record.draining = false;
        }
        match record.restore(&clocks) {
            Ok(Restored::Running { term, draining }) => {
                if self.expires.is_some_and(|it| term.expires.nanoseconds() > it) {
                    self.break_rule(String::from("a restart made the lease longer"));
                }
                self.core.apply_lease(term, draining, self.boot_time());
                for _ in 0..self.random.between(0, 8) {
                    self.register();
                }
            }
            // Its process does not serve.
            Ok(Restored::Over) | Err(_) => self.terminated = true,
        }
    }
}
