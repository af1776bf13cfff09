//! What extensions are answered, word for word as AWS's runtime interface emulator does.

use votive_protocol::{Configure, InvocationId};

use super::{ExtensionId, Extensions, FormatError, InvalidEvent, Refused};
use crate::http::Writer;
use crate::json;
use crate::telemetry::events::{push_member, push_text};
use crate::telemetry::request::Api;

/// An answer of the Extensions API, the Telemetry API or the Logs API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 200: the extension in this place has registered; it asked for the account's id or not.
    Registered {
        /// Its place.
        slot: usize,
        /// Whether it is told the account's id.
        account: bool,
    },
    /// 200: it has subscribed.
    Subscribed,
    /// 403: it has no name.
    EmptyName,
    /// 403: no file has so long a name.
    LongName,
    /// 403: the body is no registration.
    Format(FormatError),
    /// 403: the body is longer than any registration.
    LongBody,
    /// 403: an event that it cannot have.
    Event(InvalidEvent),
    /// 403: too late to register.
    Closed,
    /// 403: the name is taken.
    Taken,
    /// 403: too many extensions.
    TooMany,
    /// 403: the external extension in this place cannot register now.
    CannotRegister(usize, Refused),
    /// 403: not in this state.
    State(ExtensionId, Refused),
    /// 403: it does not say who it is.
    NoId,
    /// 403: what it says is no UUID.
    InvalidId,
    /// 403: nobody is known by that.
    Unknown(ExtensionId),
    /// 403: nobody is known by that; errors are answered without it.
    UnknownReporter,
    /// 403: an error without a type.
    NoErrorType,
    /// 403: too late to subscribe.
    SubscriptionClosed(Api),
    /// 400: the body is no subscription.
    InvalidSubscription(&'static str),
    /// 500
    Internal,
}

/// What answers quote.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The extensions.
    pub extensions: &'a Extensions,
    /// What the microVM is for; nothing before the agent has said so.
    pub configure: Option<Configure<'a>>,
}

/// The text of an identifier.
#[must_use]
pub fn id_text(id: ExtensionId) -> [u8; InvocationId::TEXT_LEN] {
    InvocationId(id).to_text()
}

impl Answer {
    /// The status line's code and reason.
    #[must_use]
    pub fn status(self) -> &'static str {
        match self {
            Self::Registered { .. } | Self::Subscribed => "200 OK",
            Self::InvalidSubscription(_) => "400 Bad Request",
            Self::Internal => "500 Internal Server Error",
            _ => "403 Forbidden",
        }
    }

    /// The extension that a header of the answer names.
    #[must_use]
    pub fn identifier(self, context: Context<'_>) -> Option<ExtensionId> {
        match self {
            Self::Registered { slot, .. } => Some(context.extensions.get(slot)?.id()),
            _ => None,
        }
    }

    /// The body.
    pub fn write_body(self, context: Context<'_>, writer: &mut Writer<'_>) {
        match self {
            Self::Registered { account, .. } => write_function(account, context, writer),
            Self::Subscribed => writer.push(b"\"OK\""),
            _ => {
                writer.push(b"{\"errorMessage\":\"");
                self.write_message(context, writer);
                push_member(writer, "\",\"errorType\":", self.error_type());
                writer.push(b"}\n");
            }
        }
    }

    fn error_type(self) -> &'static str {
        match self {
            Self::Registered { .. } | Self::Subscribed => "",
            Self::EmptyName | Self::LongName => "Extension.InvalidExtensionName",
            Self::Format(_) | Self::LongBody => "InvalidRequestFormat",
            Self::Event(_) => "Extension.InvalidEventType",
            Self::Closed => "Extension.RegistrationClosed",
            Self::Taken | Self::CannotRegister(..) | Self::State(..) => {
                "Extension.InvalidExtensionState"
            }
            Self::TooMany => "Extension.TooManyExtensions",
            Self::NoId => "Extension.MissingExtensionIdentifier",
            Self::InvalidId => "Extension.InvalidExtensionIdentifier",
            Self::Unknown(_) | Self::UnknownReporter => "Extension.UnknownExtensionIdentifier",
            Self::NoErrorType => "Extension.MissingHeader",
            Self::SubscriptionClosed(Api::Telemetry) => "Telemetry.SubscriptionClosed",
            Self::SubscriptionClosed(Api::Logs) => "Logs.SubscriptionClosed",
            Self::InvalidSubscription(_) => "ValidationError",
            Self::Internal => "InternalServerError",
        }
    }

    /// The message, with the escapes of the text that it stands in.
    fn write_message(self, context: Context<'_>, writer: &mut Writer<'_>) {
        let text = match self {
            Self::Registered { .. } | Self::Subscribed => "",
            Self::EmptyName => "Empty extension name",
            Self::LongName => "Extension name too long",
            Self::Format(error) => error.message(),
            Self::LongBody => "the body is too long",
            Self::Event(event) => {
                json::escape(writer, event.name().as_bytes());
                writer.push(b": ");
                event.reason()
            }
            Self::Closed => "Extension registration closed already",
            Self::Taken => "Extension with this name already registered",
            Self::TooMany => "Extension limit (10) reached",
            Self::CannotRegister(slot, refused) => {
                let name = context.extensions.get(slot).map_or("", |extension| extension.name());
                return write_transition(refused, name.as_bytes(), writer);
            }
            Self::State(id, refused) => return write_transition(refused, &id_text(id), writer),
            Self::NoId => "Missing Lambda-Extension-Identifier header",
            Self::InvalidId => "Invalid Lambda-Extension-Identifier",
            Self::Unknown(id) => {
                writer.push(b"Unknown extension ");
                writer.push(&id_text(id));
                ""
            }
            Self::UnknownReporter => "Unknown Lambda-Extension-Identifier",
            Self::NoErrorType => "Lambda-Extension-Function-Error-Type not found",
            Self::SubscriptionClosed(Api::Telemetry) => "Telemetry API subscription is closed",
            Self::SubscriptionClosed(Api::Logs) => "Logs API subscription is closed",
            Self::InvalidSubscription(message) => message,
            Self::Internal => "Internal Server Error",
        };
        json::escape(writer, text.as_bytes());
    }
}

fn write_transition(refused: Refused, who: &[u8], writer: &mut Writer<'_>) {
    for part in [
        "State transition from ",
        refused.from.name(),
        " to ",
        refused.to.name(),
        " failed for extension ",
    ] {
        writer.push(part.as_bytes());
    }
    json::escape(writer, who);
    writer.push(b". Error: State transition is not allowed");
}

fn write_function(account: bool, context: Context<'_>, writer: &mut Writer<'_>) {
    let Some(configure) = context.configure else { return writer.push(b"{}\n") };
    writer.push(b"{");
    if account && !configure.account_id.is_empty() {
        push_member(writer, "\"accountId\":", configure.account_id);
        writer.push(b",");
    }
    writer.push(b"\"functionName\":");
    push_text(writer, configure.function_name.as_bytes());
    push_member(writer, ",\"functionVersion\":", configure.function_version);
    push_member(writer, ",\"handler\":", configure.handler);
    writer.push(b"}\n");
}
