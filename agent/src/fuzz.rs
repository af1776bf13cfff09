//! What a fuzzer does with the agent: any bytes at all, in the place of a guest.
//!
//! The bodies of the fuzz targets are here, so that ordinary tests replay what a fuzzer found.

use std::time::Duration;

use crate::clock::Moment;
use crate::environment::{Environment, EnvironmentSpec};
use crate::event::{Action, Event};
use crate::invocation::InvocationSpec;
use crate::link::FrameReader;
use crate::worker::api::Initialization;

#[cfg(test)]
mod tests;

/// Reads `data` as a guest's link, through the frames and through an environment that gives the guest one invocation
/// after the other. The invocations' ids are all zeros, so that a fuzzer can name them.
///
/// # Panics
/// When the environment breaks one of its own rules: that is what the fuzzer looks for.
pub fn agent_link(data: &[u8]) {
    let Some((pace, frames)) = data.split_first() else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        let mut life = Life::begin(Duration::from_millis(u64::from(*pace) * 10));
        let mut reader = FrameReader::new(frames);
        loop {
            let (event, last) = match reader.next().await {
                Ok(Some(frame)) => (Event::Guest(frame), false),
                Ok(None) => (Event::LinkClosed(None), true),
                Err(error) => (Event::LinkClosed(Some(error)), true),
            };
            life.on(event);
            if last {
                break;
            }
        }
        life.end();
    });
}

/// An environment and its clock.
struct Life {
    environment: Environment,
    now: Moment,
    pace: Duration,
    begun: u64,
    finished: u64,
}

impl Life {
    fn begin(pace: Duration) -> Self {
        let now = Moment::from_nanoseconds(1);
        let spec = EnvironmentSpec {
            init_timeout: Duration::from_secs(10),
            initialization: Initialization::OnDemand,
            hang_timeout: None,
        };
        let environment = Environment::new(spec, now);
        Self { environment, now, pace, begun: 0, finished: 0 }
    }

    fn on(&mut self, event: Event) {
        self.now = self.now + self.pace;
        let actions = self.environment.on(event, self.now);
        self.take(actions);
        let actions = self.environment.on(Event::Tick, self.now);
        self.take(actions);
    }

    fn take(&mut self, actions: Vec<Action>) {
        // Nothing that a guest sends makes more than a handful of things to do.
        assert!(actions.len() <= 4, "{} actions of one event", actions.len());
        for action in actions {
            match action {
                Action::Finished(_) => self.finished += 1,
                Action::Idle => self.invoke(),
                _ => {}
            }
        }
        let open = self.begun.checked_sub(self.finished);
        assert!(matches!(open, Some(0 | 1)), "an invocation was answered twice");
    }

    fn invoke(&mut self) {
        let id = votive_protocol::InvocationId([0; 16]);
        let spec = InvocationSpec { id, timeout: Duration::from_secs(3), memory_mb: 128 };
        if self.environment.invoke(spec, self.now).is_ok() {
            self.begun += 1;
        }
    }

    /// Whatever the guest did: with its link gone, time alone brings the end.
    fn end(mut self) {
        for _ in 0..4 {
            if let Some(deadline) = self.environment.deadline() {
                self.now = self.now.max(deadline);
                let actions = self.environment.on(Event::Tick, self.now);
                self.take(actions);
            }
        }
        assert!(self.environment.is_gone(), "an environment without a guest lives on");
        assert_eq!(self.begun, self.finished, "an invocation without an answer");
    }
}
