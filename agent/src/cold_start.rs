//! Where the time of a cold start went.
//!
//! All times are the host's: the VMM's marks and the frames' arrivals. What the guest says of its own clock is not used.

use std::time::Duration;

use votive_protocol::PhaseName;

use crate::clock::Moment;
use crate::microvm::Mark;

#[cfg(test)]
mod tests;

/// When things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The command began.
    pub command: Option<Moment>,
    /// The VMM's process was started.
    pub spawned: Option<Moment>,
    /// The VMM's marks.
    pub marks: Vec<Mark>,
    /// PID 1 said that it started the runtime.
    pub runtime_started: Option<Moment>,
    /// PID 1 said that the runtime asked for its first invocation.
    pub runtime_ready: Option<Moment>,
    /// The invocation was sent.
    pub invoked: Option<Moment>,
    /// The invocation was over.
    pub finished: Option<Moment>,
}

/// One phase of a cold start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// What happened in it.
    pub what: &'static str,
    /// How long it took; `None` if its beginning or its end was not seen.
    pub duration: Option<Duration>,
}

impl Timeline {
    /// Notes a phase that PID 1 told of.
    pub fn note_phase(&mut self, name: PhaseName, now: Moment) {
        match name {
            PhaseName::Configured | PhaseName::ExtensionsStarted | PhaseName::RuntimeReady => {}
            PhaseName::RuntimeStarted => {
                self.runtime_started.get_or_insert(now);
            }
            PhaseName::InitOver => {
                self.runtime_ready.get_or_insert(now);
            }
        }
    }

    /// The phases in their order.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        let spans = [
            ("images", "the function's code, its disks", self.command, self.spawned),
            ("process start", "fork, exec, arguments", self.spawned, self.mark("start")),
            ("KVM set-up", "memory, vCPUs, devices", self.mark("start"), self.mark("run")),
            ("kernel", "to PID 1", self.mark("run"), self.mark("guest-0x01")),
            ("PID 1", "link, mounts, cgroup", self.mark("guest-0x01"), self.runtime_started),
            ("runtime init", "to its first /next", self.runtime_started, self.runtime_ready),
            ("handler", "request to the next /next", self.invoked, self.finished),
        ];
        let phase = |(name, what, from, to): (_, _, Option<Moment>, Option<Moment>)| Phase {
            name,
            what,
            duration: from.zip(to).map(|(from, to)| to.since(from)),
        };
        spans.into_iter().map(phase).collect()
    }

    /// From the process's start to the end of the invocation.
    #[must_use]
    pub fn total(&self) -> Option<Duration> {
        self.spawned.zip(self.finished).map(|(from, to)| to.since(from))
    }

    /// The table as text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![String::from("Where the time of this cold start went:")];
        for phase in self.phases() {
            lines.push(row(phase.name, phase.duration, phase.what));
        }
        lines.push(row("total", self.total(), "process start to the handler's end"));
        lines.join("\n")
    }

    /// The table as JSON: milliseconds by phase, in order.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let milliseconds = |duration: Option<Duration>| duration.map(|d| d.as_secs_f64() * 1e3);
        let phases: Vec<_> = self
            .phases()
            .into_iter()
            .map(|phase| serde_json::json!({ "phase": phase.name, "ms": milliseconds(phase.duration) }))
            .collect();
        serde_json::json!({ "phases": phases, "totalMs": milliseconds(self.total()) })
    }

    fn mark(&self, name: &str) -> Option<Moment> {
        self.marks.iter().find(|mark| mark.name == name).map(|mark| mark.at)
    }
}

fn row(name: &str, duration: Option<Duration>, what: &str) -> String {
    let figure =
        duration.map_or_else(|| String::from("-"), |d| format!("{:.2}", d.as_secs_f64() * 1e3));
    format!("  {name:<14}{figure:>10} ms   {what}")
}
