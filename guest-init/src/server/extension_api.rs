//! The Extensions API, and the subscriptions of the Telemetry API and the Logs API.

use votive_protocol::limits::EXTENSION_NAME_MAX;
use votive_protocol::{GuestFrame, ShutdownReason, Subscription};

use super::connection::{Form, Output, Phase, Purpose, Then};
use super::record::times;
use super::{Facts, Server};
use crate::extensions::answer::{Answer, Context, id_text};
use crate::extensions::{ExtensionId, RegisterError, Registration, new_id, parse_id};
use crate::http::{Head, Reply, Writer};
use crate::limits::{DRAIN_MAX, FLUSH_NS};
use crate::telemetry::SubscribeError;
use crate::telemetry::events::push_text;
use crate::telemetry::journal::Tag;
use crate::telemetry::request::{Api, Request};

/// The feature that an extension asks for to be told the account's id.
const ACCOUNT_FEATURE: &[u8] = b"accountId";

/// What is read of a request, and what comes of it.
type Plan = (Purpose, Then);

fn answer(answer: Answer) -> Plan {
    (Purpose::Discard { left: DRAIN_MAX }, Then::Reply(Reply::Extension(answer)))
}

impl Server<'_> {
    fn input(&self, index: usize) -> &[u8] {
        self.connections.get(index).map_or(&[][..], |one| &*one.input)
    }

    /// The extension that a request names, or how it is answered; `unknown` makes the answer to one that nobody knows.
    fn identify(
        &self,
        index: usize,
        head: &Head,
        unknown: impl Fn(ExtensionId) -> Answer,
    ) -> Result<usize, Answer> {
        let text = head.extension_id.get(self.input(index));
        if text.is_empty() {
            return Err(Answer::NoId);
        }
        let id = parse_id(text).ok_or(Answer::InvalidId)?;
        self.extensions.find(id).ok_or_else(|| unknown(id))
    }

    /// The head of a registration.
    pub(super) fn plan_register(&self, index: usize, head: &Head) -> Plan {
        let name = head.extension_name;
        let features = head.accept_feature.get(self.input(index));
        let mut features = features.split(|byte| *byte == b',');
        let account = features.any(|feature| feature.trim_ascii() == ACCOUNT_FEATURE);
        if name.is_empty() {
            return answer(Answer::EmptyName);
        }
        if name.len() > EXTENSION_NAME_MAX
            || core::str::from_utf8(name.get(self.input(index))).is_err()
        {
            return answer(Answer::LongName);
        }
        let form = Form::Register { name, account };
        (Purpose::Form { form, overflowed: false }, Then::Reply(Reply::Accepted))
    }

    /// The head of `event/next`.
    pub(super) fn plan_next(&self, index: usize, head: &Head) -> Plan {
        match self.identify(index, head, Answer::Unknown) {
            Ok(slot) => (Purpose::Discard { left: DRAIN_MAX }, Then::ExtensionNext(slot)),
            Err(refused) => answer(refused),
        }
    }

    /// The head of a subscription.
    pub(super) fn plan_subscribe(&self, index: usize, head: &Head, api: Api) -> Plan {
        match self.identify(index, head, Answer::Unknown) {
            Ok(slot) => {
                let form = Form::Subscribe { slot, api };
                (Purpose::Form { form, overflowed: false }, Then::Reply(Reply::Accepted))
            }
            Err(refused) => answer(refused),
        }
    }

    /// An extension reports an error, in the head alone.
    pub(super) fn report_extension_error(&mut self, index: usize, head: &Head, init: bool) -> Plan {
        match self.try_report_extension_error(index, head, init) {
            Ok(()) => (Purpose::Discard { left: DRAIN_MAX }, Then::Reply(Reply::Accepted)),
            Err(refused) => answer(refused),
        }
    }

    fn try_report_extension_error(
        &mut self,
        index: usize,
        head: &Head,
        init: bool,
    ) -> Result<(), Answer> {
        let slot = match self.identify(index, head, |_| Answer::UnknownReporter) {
            Err(Answer::UnknownReporter) if head.extension_error.is_empty() => {
                return Err(Answer::NoErrorType);
            }
            identified => identified?,
        };
        let Self { connections, extensions, .. } = self;
        let input = connections.get(index).map_or(&[][..], |one| &*one.input);
        let error_type = core::str::from_utf8(head.extension_error.get(input)).unwrap_or("");
        if error_type.is_empty() {
            return Err(Answer::NoErrorType);
        }
        let reported = if init {
            extensions.init_error(slot, error_type)
        } else {
            extensions.exit_error(slot, error_type)
        };
        reported.map_err(|refused| {
            Answer::State(extensions.get(slot).map_or([0; 16], |one| one.id()), refused)
        })
    }

    /// A body that was kept is whole.
    pub(super) fn finish_form(
        &mut self,
        index: usize,
        form: Form,
        overflowed: bool,
        facts: &dyn Facts,
    ) -> Reply {
        let result = match form {
            _ if overflowed => match form {
                Form::Register { .. } => Err(Answer::LongBody),
                Form::Subscribe { .. } => Err(Answer::InvalidSubscription("the body is too long")),
            },
            Form::Register { name, account } => {
                let id = new_id(facts.random());
                let Self { connections, extensions, .. } = self;
                connections.get(index).map_or(Err(Answer::Internal), |connection| {
                    let name = core::str::from_utf8(name.get(&*connection.input)).unwrap_or("");
                    register(extensions, name, connection.kept_body(), id)
                        .map(|slot| Answer::Registered { slot, account })
                })
            }
            Form::Subscribe { slot, api } => self.subscribe(index, slot, api, facts),
        };
        Reply::Extension(result.unwrap_or_else(|refused| refused))
    }

    fn subscribe(
        &mut self,
        index: usize,
        slot: usize,
        api: Api,
        facts: &dyn Facts,
    ) -> Result<Answer, Answer> {
        let at = times(facts);
        let Self { connections, extensions, telemetry, outbox, .. } = self;
        let extension = extensions.get(slot).ok_or(Answer::Internal)?;
        let body = connections.get(index).map_or(&[][..], |one| one.kept_body());
        let request =
            Request::parse(body, api).map_err(|wrong| Answer::InvalidSubscription(wrong.0))?;
        telemetry.subscribe(slot, request, api, at.now_ns).map_err(|error| match error {
            SubscribeError::Closed => Answer::SubscriptionClosed(api),
            SubscribeError::Taken => Answer::Internal,
        })?;
        let types = request.types;
        let (tag, kind) = match api {
            Api::Telemetry => (Tag::PlatformNew, "platform.telemetrySubscription"),
            Api::Logs => (Tag::PlatformOld, "platform.logsSubscription"),
        };
        telemetry.platform(tag, at, kind, |writer| {
            writer.push(b"{\"name\":");
            push_text(writer, extension.name().as_bytes());
            writer.push(b",\"state\":\"Subscribed\",\"types\":[");
            let named = [
                (types.platform, "\"platform\""),
                (types.function, "\"function\""),
                (types.extension, "\"extension\""),
            ];
            let mut separator = "";
            for (_, name) in named.into_iter().filter(|(wanted, _)| *wanted) {
                writer.push(separator.as_bytes());
                writer.push(name.as_bytes());
                separator = ",";
            }
            writer.push(b"]}");
        });
        let (name, legacy) = (extension.name(), api == Api::Logs);
        outbox.push(&GuestFrame::Subscription(Subscription { name, legacy, types }));
        Ok(Answer::Subscribed)
    }

    /// `GET /extension/event/next`
    pub(super) fn extension_next(&mut self, index: usize, slot: usize, facts: &dyn Facts) {
        // Nobody waits for it any more if that client has hung up.
        let waits = self.connections.iter().any(|one| one.phase == Phase::ExtensionNext(slot));
        if let Err(refused) = self.extensions.ready(slot, !waits) {
            let id = self.extensions.get(slot).map_or([0; 16], |extension| extension.id());
            self.reply(index, Reply::Extension(Answer::State(id, refused)));
            return;
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.phase = Phase::ExtensionNext(slot);
        }
        if self.shutdown.is_some() {
            self.give_shutdown(slot, facts);
        } else if self.extensions.get(slot).is_some_and(|extension| extension.owed) {
            self.give_invoke(slot, facts);
        } else {
            self.advance_init(facts);
            self.check_done(facts);
        }
    }

    /// Gives the invocation to the extensions that registered for it.
    pub(super) fn give_invokes(&mut self, facts: &dyn Facts) {
        for slot in 0..crate::limits::EXTENSIONS_MAX {
            if let Some(extension) = self.extensions.get_mut(slot)
                && extension.events().invoke
            {
                extension.owed = true;
                self.give_invoke(slot, facts);
            }
        }
    }

    fn give_invoke(&mut self, slot: usize, facts: &dyn Facts) {
        let body_len = self.event.invoke_event().len();
        let waiting = self.connections.iter_mut().enumerate();
        let mut waiting = waiting.filter(|(_, one)| one.phase == Phase::ExtensionNext(slot));
        let Some((index, connection)) = waiting.next() else { return };
        let close = !connection.keep_alive;
        let len = write_event_head(body_len, facts.random(), close, connection.reply).unwrap_or(0);
        connection.phase = Phase::Head;
        connection.output = Output::Invoke { at: 0, len, sent: 0 };
        self.stirred |= 1 << index;
        self.extensions.running(slot);
    }

    /// Extensions are told from now on that the environment ends, and that they have until `deadline_ms` since the Unix
    /// epoch.
    pub fn begin_shutdown(&mut self, reason: ShutdownReason, deadline_ms: u64, facts: &dyn Facts) {
        self.shutdown = Some((reason, deadline_ms));
        for slot in 0..crate::limits::EXTENSIONS_MAX {
            self.give_shutdown(slot, facts);
        }
    }

    fn give_shutdown(&mut self, slot: usize, facts: &dyn Facts) {
        let Some((reason, deadline_ms)) = self.shutdown else { return };
        let told = |extension: &crate::extensions::Extension| extension.events().shutdown;
        if !self.extensions.get(slot).is_some_and(told) || self.told_shutdown & (1 << slot) != 0 {
            return;
        }
        let waiting = self.connections.iter_mut().enumerate();
        let mut waiting = waiting.filter(|(_, one)| one.phase == Phase::ExtensionNext(slot));
        let Some((index, connection)) = waiting.next() else { return };
        let mut body = [0; 128];
        let mut writer = Writer::new(&mut body);
        writer.push(b"{\"eventType\":\"SHUTDOWN\",\"deadlineMs\":");
        writer.push_decimal(deadline_ms);
        writer.push(b",\"shutdownReason\":\"");
        writer.push(reason.as_str().as_bytes());
        writer.push(b"\"}");
        let body = writer.finish().and_then(|len| body.get(..len)).unwrap_or(&[]);
        let close = !connection.keep_alive;
        let random = facts.random();
        let head = write_event_head(body.len(), random, close, connection.reply).unwrap_or(0);
        let len = head + body.len();
        if let Some(place) = connection.reply.get_mut(head..len) {
            place.copy_from_slice(body);
        }
        connection.phase = Phase::Head;
        connection.output = Output::Reply { at: 0, len };
        self.stirred |= 1 << index;
        self.told_shutdown |= 1 << slot;
        self.extensions.running(slot);
    }

    /// Whether runtime and extensions are through with the invocation; ends it then, once telemetry has had its time.
    pub(super) fn check_done(&mut self, facts: &dyn Facts) {
        let through = self.extensions.all_ready(|extension| extension.events().invoke);
        let held = self.ending || self.flush_until_ns.is_some();
        if !self.event.is_runtime_done() || held || !through {
            return;
        }
        self.over_ns = facts.now_ns();
        self.record_report("success", "", facts);
        if self.telemetry.has_subscribers() {
            self.telemetry.flush();
            self.flush_until_ns = Some(self.over_ns.saturating_add(FLUSH_NS));
        } else {
            self.finish_invocation(facts);
        }
    }

    /// Ends an invocation that only telemetry still holds up, once that is delivered or has had its time.
    pub fn check_flushed(&mut self, facts: &dyn Facts) {
        let Some(until_ns) = self.flush_until_ns else { return };
        let now_ns = facts.now_ns();
        if now_ns >= until_ns || self.telemetry.is_flushed(now_ns) {
            self.finish_invocation(facts);
        }
    }

    fn finish_invocation(&mut self, facts: &dyn Facts) {
        self.flush_until_ns = None;
        self.telemetry.end_flush();
        if let Some(mut done) = self.event.done(self.over_ns, facts.memory_peak_bytes()) {
            if self.extensions.is_empty() {
                done.extensions_ns = 0;
            }
            self.outbox.push(&GuestFrame::Done(done));
        }
        self.drop_event_readers();
    }

    /// Ends the init phase if runtime and extensions are through with it.
    pub(super) fn advance_init(&mut self, facts: &dyn Facts) {
        let ready = self.state == crate::runtime::State::Ready;
        if self.init_over || self.ending || !ready || !self.extensions.all_ready(|_| true) {
            return;
        }
        self.init_over = true;
        self.record_init_end("success", "", facts);
        self.telemetry.close();
        let name = votive_protocol::PhaseName::InitOver;
        let at_ns = facts.now_ns();
        self.outbox.push(&GuestFrame::Ready(votive_protocol::Phase { name, at_ns }));
        self.hand_out(facts);
    }

    /// What answers quote.
    pub(super) fn context<'a>(
        extensions: &'a crate::extensions::Extensions,
        configure: &'a [u8],
        configure_len: usize,
    ) -> Context<'a> {
        Context { extensions, configure: super::decode(configure, configure_len) }
    }
}

fn register(
    extensions: &mut crate::extensions::Extensions,
    name: &str,
    body: &[u8],
    id: ExtensionId,
) -> Result<usize, Answer> {
    let registration = Registration::parse(body).map_err(Answer::Format)?;
    extensions.register(name, &registration, id).map_err(|error| match error {
        RegisterError::Closed => Answer::Closed,
        RegisterError::Taken => Answer::Taken,
        RegisterError::TooMany => Answer::TooMany,
        RegisterError::Event(event) => Answer::Event(event),
        RegisterError::State(refused) => {
            let slot = extensions.iter().find(|(_, one)| one.name() == name);
            Answer::CannotRegister(slot.map_or(0, |(slot, _)| slot), refused)
        }
    })
}

/// The head of an event for an extension.
fn write_event_head(
    body_len: usize,
    random: [u8; 16],
    close: bool,
    buffer: &mut [u8],
) -> Option<usize> {
    let mut writer = Writer::new(buffer);
    writer.push(b"HTTP/1.1 200 OK\r\nContent-Type: application/json");
    writer.push(b"\r\nLambda-Extension-Event-Identifier: ");
    writer.push(&id_text(new_id(random)));
    writer.push(b"\r\nContent-Length: ");
    writer.push_decimal(body_len as u64);
    if close {
        writer.push(b"\r\nConnection: close");
    }
    writer.push(b"\r\n\r\n");
    writer.finish()
}
