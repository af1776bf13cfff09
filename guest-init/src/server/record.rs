//! What telemetry is told of a life: the records of the platform events (CONTRACT 4.3), in the order of AWS's emulator.

use votive_protocol::{Extension as ExtensionFrame, GuestFrame, InitializationType, InvocationId};

use super::event::Course;
use super::{Facts, Server};
use crate::http::Writer;
use crate::telemetry::Times;
use crate::telemetry::events::{push_member, push_ms, push_text, push_time};
use crate::telemetry::journal::Tag;

/// How a life, or an invocation of it, ends before it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// `timeout`, `error` or `failure`
    pub status: &'static str,
    /// The error's type; empty for a time-out.
    pub error_type: &'a str,
    /// What a person reads; empty for none.
    pub message: &'a str,
}

/// The init phase of a life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Init {
    pub(super) started_ns: u64,
    /// Whether an invocation waits for it.
    pub(super) inside_invocation: bool,
    /// How long it took, once it is over; told with the first invocation if that did not wait for it.
    pub(super) duration_ns: u64,
    /// It has been told how it ended.
    pub(super) told: bool,
}

impl Init {
    fn phase(self) -> &'static str {
        if self.inside_invocation { "invoke" } else { "init" }
    }
}

pub(super) fn times(facts: &dyn Facts) -> Times {
    Times { now_ns: facts.now_ns(), realtime_ns: facts.realtime_ns() }
}

fn initialization(of: InitializationType) -> &'static str {
    match of {
        InitializationType::OnDemand => "on-demand",
        InitializationType::ProvisionedConcurrency => "provisioned-concurrency",
        InitializationType::SnapStart => "snap-start",
    }
}

fn push_error_type(writer: &mut Writer<'_>, error_type: &str) {
    if !error_type.is_empty() {
        push_member(writer, ",\"errorType\":", error_type);
    }
}

fn push_tracing(writer: &mut Writer<'_>, trace: &str) {
    if !trace.is_empty() {
        push_member(writer, ",\"tracing\":{\"type\":\"X-Amzn-Trace-Id\",\"value\":", trace);
        writer.push(b"}");
    }
}

/// A span that began at `from_ns` and took up to `to_ns`; `at` tells what time of day that was.
fn push_span(writer: &mut Writer<'_>, name: &str, from_ns: u64, to_ns: u64, at: Times) {
    push_member(writer, "{\"name\":", name);
    writer.push(b",\"start\":\"");
    push_time(writer, at.realtime_ns.saturating_sub(at.now_ns.saturating_sub(from_ns)));
    writer.push(b"\",\"durationMs\":");
    push_ms(writer, to_ns.saturating_sub(from_ns));
    writer.push(b"}");
}

impl Server<'_> {
    /// `platform.initStart`
    pub(super) fn record_init_start(&mut self, facts: &dyn Facts) {
        let init = self.init;
        let Self { telemetry, configure, configure_len, .. } = self;
        let Some(configure) = super::decode(configure, *configure_len) else { return };
        telemetry.platform(Tag::PlatformNew, times(facts), "platform.initStart", |writer| {
            let kind = initialization(configure.initialization);
            push_member(writer, "{\"initializationType\":", kind);
            push_member(writer, ",\"runtimeVersion\":", configure.runtime);
            push_member(writer, ",\"runtimeVersionArn\":", "");
            push_member(writer, ",\"functionName\":", configure.function_name);
            push_member(writer, ",\"functionVersion\":", configure.function_version);
            push_member(writer, ",\"instanceId\":", configure.log_stream);
            writer.push(b",\"instanceMaxMemory\":");
            writer.push_decimal(configure.memory_bytes);
            push_member(writer, ",\"phase\":", init.phase());
            writer.push(b"}");
        });
    }

    /// How the init phase ended: `platform.initRuntimeDone`, a `platform.extension` for each, `platform.initReport`.
    pub(super) fn record_init_end(&mut self, status: &str, error_type: &str, facts: &dyn Facts) {
        let at = times(facts);
        self.init.told = true;
        self.init.duration_ns = at.now_ns.saturating_sub(self.init.started_ns);
        let init = self.init;
        for (_, extension) in self.extensions.iter() {
            self.outbox.push(&GuestFrame::Extension(ExtensionFrame {
                name: extension.name(),
                state: extension.state().name(),
                events: extension.events(),
                error_type: extension.error_type(),
            }));
        }
        let Self { telemetry, extensions, configure, configure_len, .. } = self;
        if !telemetry.is_active() {
            return;
        }
        let Some(configure) = super::decode(configure, *configure_len) else { return };
        let kind = initialization(configure.initialization);
        telemetry.platform(Tag::PlatformNew, at, "platform.initRuntimeDone", |writer| {
            push_member(writer, "{\"initializationType\":", kind);
            push_member(writer, ",\"status\":", status);
            push_member(writer, ",\"phase\":", init.phase());
            push_error_type(writer, error_type);
            writer.push(b"}");
        });
        for (_, extension) in extensions.iter() {
            telemetry.platform(Tag::Platform, at, "platform.extension", |writer| {
                push_member(writer, "{\"name\":", extension.name());
                push_member(writer, ",\"state\":", extension.state().name());
                let events = extension.events();
                writer.push(match (events.invoke, events.shutdown) {
                    (true, true) => b",\"events\":[\"INVOKE\",\"SHUTDOWN\"]",
                    (true, false) => b",\"events\":[\"INVOKE\"]",
                    (false, true) => b",\"events\":[\"SHUTDOWN\"]",
                    (false, false) => b",\"events\":[]",
                });
                push_error_type(writer, extension.error_type());
                writer.push(b"}");
            });
        }
        telemetry.platform(Tag::PlatformNew, at, "platform.initReport", |writer| {
            push_member(writer, "{\"initializationType\":", kind);
            writer.push(b",\"metrics\":{\"durationMs\":");
            push_ms(writer, init.duration_ns);
            push_member(writer, "},\"phase\":", init.phase());
            push_member(writer, ",\"status\":", status);
            push_error_type(writer, error_type);
            writer.push(b"}");
        });
    }

    /// `platform.start`
    pub(super) fn record_start(&mut self, facts: &dyn Facts) {
        let Some(id) = self.event.id() else { return };
        let Self { telemetry, event, configure, configure_len, .. } = self;
        if !telemetry.has_subscribers() {
            return;
        }
        let Some(configure) = super::decode(configure, *configure_len) else { return };
        telemetry.platform(Tag::Platform, times(facts), "platform.start", |writer| {
            push_id(writer, id);
            push_member(writer, ",\"version\":", configure.function_version);
            push_tracing(writer, event.trace());
            writer.push(b"}");
        });
    }

    /// `platform.runtimeDone`
    pub(super) fn record_runtime_done(
        &mut self,
        status: &str,
        error_type: &str,
        facts: &dyn Facts,
    ) {
        let Some(id) = self.event.id() else { return };
        let at = times(facts);
        let course = self.event.course();
        let Self { telemetry, event, .. } = self;
        if !telemetry.has_subscribers() {
            return;
        }
        telemetry.platform(Tag::Platform, at, "platform.runtimeDone", |writer| {
            push_id(writer, id);
            push_member(writer, ",\"status\":", status);
            writer.push(b",\"metrics\":{\"producedBytes\":");
            writer.push_decimal(course.produced);
            writer.push(b",\"durationMs\":");
            push_ms(writer, worked_ns(course, at.now_ns));
            writer.push(b"}");
            push_tracing(writer, event.trace());
            if let Some((from_ns, to_ns)) = course.response_ns {
                writer.push(b",\"spans\":[");
                push_span(writer, "responseLatency", course.handed_out_ns, from_ns, at);
                writer.push(b",");
                push_span(writer, "responseDuration", from_ns, to_ns, at);
                if course.runtime_done_ns > 0 {
                    writer.push(b",");
                    push_span(writer, "runtimeOverhead", to_ns, course.runtime_done_ns, at);
                }
                writer.push(b"]");
            }
            push_error_type(writer, error_type);
            writer.push(b"}");
        });
    }

    /// `platform.report`, and `platform.end` for the Logs API.
    pub(super) fn record_report(&mut self, status: &str, error_type: &str, facts: &dyn Facts) {
        let Some(id) = self.event.id() else { return };
        if !self.telemetry.has_subscribers() {
            return;
        }
        let at = times(facts);
        let course = self.event.course();
        let init_ns = core::mem::take(&mut self.init.duration_ns);
        let init_ns = if self.init.inside_invocation { 0 } else { init_ns };
        let has_extensions = !self.extensions.is_empty();
        let Self { telemetry, event, configure, configure_len, .. } = self;
        let Some(configure) = super::decode(configure, *configure_len) else { return };
        telemetry.platform(Tag::PlatformOld, at, "platform.end", |writer| {
            push_id(writer, id);
            writer.push(b"}");
        });
        telemetry.platform(Tag::Platform, at, "platform.report", |writer| {
            let duration_ns = worked_ns(course, at.now_ns);
            push_id(writer, id);
            push_member(writer, ",\"status\":", status);
            writer.push(b",\"metrics\":{\"durationMs\":");
            push_ms(writer, duration_ns);
            writer.push(b",\"billedDurationMs\":");
            writer.push_decimal(duration_ns.div_ceil(1_000_000));
            writer.push(b",\"memorySizeMB\":");
            writer.push_decimal(configure.memory_bytes >> 20);
            writer.push(b",\"maxMemoryUsedMB\":");
            writer.push_decimal(facts.memory_peak_bytes().div_ceil(1 << 20));
            if init_ns > 0 {
                writer.push(b",\"initDurationMs\":");
                push_ms(writer, init_ns);
            }
            writer.push(b"}");
            push_tracing(writer, event.trace());
            if has_extensions && course.runtime_done_ns > 0 {
                writer.push(b",\"spans\":[");
                push_span(writer, "extensionOverhead", course.runtime_done_ns, at.now_ns, at);
                writer.push(b"]");
            }
            push_error_type(writer, error_type);
            writer.push(b"}");
        });
    }

    /// `platform.fault`
    pub(super) fn record_fault(&mut self, failure: Failure<'_>, facts: &dyn Facts) {
        let Some(id) = self.event.id() else { return };
        if failure.message.is_empty() || !self.telemetry.has_subscribers() {
            return;
        }
        self.telemetry.platform(Tag::Platform, times(facts), "platform.fault", |writer| {
            writer.push(b"\"RequestId: ");
            writer.push(&id.to_text());
            writer.push(b" Error: ");
            crate::json::escape(writer, failure.message.as_bytes());
            writer.push(b"\\n");
            crate::json::escape(writer, failure.error_type.as_bytes());
            writer.push(b"\\n\"");
        });
    }
}

/// How long an invocation has taken by `now_ns`; nothing if it was never handed out.
fn worked_ns(course: Course, now_ns: u64) -> u64 {
    if course.handed_out_ns == 0 { 0 } else { now_ns.saturating_sub(course.handed_out_ns) }
}

fn push_id(writer: &mut Writer<'_>, id: InvocationId) {
    writer.push(b"{\"requestId\":");
    push_text(writer, &id.to_text());
}
