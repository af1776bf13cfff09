//! A life of the environment, from the start of its first process to the end of its last, as the APIs see it.

use votive_protocol::InvocationId;

use super::record::Init;
use super::{Facts, Failure, Server};
use crate::extensions::Extensions;
use crate::runtime::State;

impl Server<'_> {
    /// A life begins: extensions and the runtime are about to be started.
    pub fn begin_life(&mut self, facts: &dyn Facts) {
        self.state = State::Started;
        self.extensions = Extensions::new();
        self.telemetry.clear();
        self.init = Init {
            started_ns: facts.now_ns(),
            inside_invocation: self.event.id().is_some(),
            ..Init::default()
        };
        self.init_over = false;
        self.ending = false;
        self.shutdown = None;
        self.told_shutdown = 0;
        self.record_init_start(facts);
    }

    /// The life is about to end: what comes from now on is answered, and changes nothing.
    pub fn stop(&mut self) {
        self.ending = true;
        self.flush_until_ns = None;
    }

    /// The life fails, and with it the invocation that is under way, which it names. Telemetry is told how.
    pub fn fail(&mut self, failure: Failure<'_>, facts: &dyn Facts) -> Option<InvocationId> {
        self.tell_failure(failure, facts);
        self.abandon()
    }

    /// Tells telemetry that the life fails.
    pub fn tell_failure(&mut self, failure: Failure<'_>, facts: &dyn Facts) {
        if !self.init.told {
            let error_type =
                if failure.error_type.is_empty() { "Runtime.Unknown" } else { failure.error_type };
            self.record_init_end("error", error_type, facts);
        }
        self.flush_until_ns = None;
        if self.event.is_waiting() {
            self.record_start(facts);
        }
        self.record_fault(failure, facts);
        if !self.event.is_runtime_done() {
            self.record_runtime_done(failure.status, failure.error_type, facts);
        }
        self.record_report(failure.status, failure.error_type, facts);
    }

    /// Every process is gone, and what they were told with them.
    pub fn end_life(&mut self) {
        self.extensions = Extensions::new();
        self.telemetry.clear();
        self.telemetry.close();
        self.shutdown = None;
        self.init_over = false;
    }
}
