//! The body of `POST /extension/register`.

use votive_protocol::ExtensionEvents;

use crate::json::{JsonError, Reader, Token};

/// How much of an event's name an error message quotes.
const EVENT_MAX: usize = 64;

/// Why a body is no registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// It ends too early.
    End,
    /// It is no JSON, or not of the right shape.
    Malformed,
    /// It names `configurationKeys`, which are no more.
    ConfigurationKeys,
}

impl FormatError {
    /// The message that the extension is told.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::End => "unexpected end of JSON input",
            Self::Malformed => "the body is no registration",
            Self::ConfigurationKeys => {
                "configurationKeys are deprecated; use environment variables instead"
            }
        }
    }
}

impl From<JsonError> for FormatError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::End => Self::End,
            JsonError::Malformed => Self::Malformed,
        }
    }
}

/// An event that an extension cannot register for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEvent {
    name: [u8; EVENT_MAX],
    len: usize,
    /// Whether it exists for external extensions.
    for_others: bool,
}

impl InvalidEvent {
    /// Its name, or the beginning of it.
    #[must_use]
    pub fn name(&self) -> &str {
        core::str::from_utf8(self.name.get(..self.len).unwrap_or(&[])).unwrap_or("")
    }

    /// What is wrong with it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.for_others {
            "ShutdownEventNotSupportedForInternalExtension"
        } else {
            "ErrorInvalidEventType"
        }
    }
}

/// What an extension registers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    events: ExtensionEvents,
    /// The first event that does not exist, and whether `SHUTDOWN` stood before it.
    invalid: Option<InvalidEvent>,
    shutdown_first: bool,
}

impl Registration {
    /// Reads a body, `{"events": ["INVOKE", "SHUTDOWN"]}`: other members are passed over, of two of the same name the last
    /// one counts.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(body);
        let mut registration = Self::default();
        let mut keys = false;
        match reader.require()? {
            Token::ObjectStart => loop {
                match reader.require()? {
                    Token::ObjectEnd => break,
                    Token::Key(name) if name.is_named("events") => {
                        registration = Self::default();
                        registration.take_events(&mut reader)?;
                    }
                    Token::Key(name) if name.is_named("configurationKeys") => {
                        keys = any_text(&mut reader)?;
                    }
                    Token::Key(_) => {
                        let value = reader.require()?;
                        reader.skip(value)?;
                    }
                    _ => return Err(FormatError::Malformed),
                }
            },
            Token::Null => {}
            _ => return Err(FormatError::Malformed),
        }
        if reader.next_token()?.is_some() {
            return Err(FormatError::Malformed);
        }
        if keys { Err(FormatError::ConfigurationKeys) } else { Ok(registration) }
    }

    fn take_events(&mut self, reader: &mut Reader<'_>) -> Result<(), FormatError> {
        match reader.require()? {
            Token::Null => return Ok(()),
            Token::ArrayStart => {}
            _ => return Err(FormatError::Malformed),
        }
        loop {
            let event = match reader.require()? {
                Token::ArrayEnd => return Ok(()),
                Token::String(event) => event,
                _ => return Err(FormatError::Malformed),
            };
            if event.is("INVOKE") {
                self.events.invoke = true;
            } else if event.is("SHUTDOWN") {
                self.events.shutdown = true;
                self.shutdown_first |= self.invalid.is_none();
            } else if self.invalid.is_none() {
                let mut invalid = InvalidEvent { name: [0; EVENT_MAX], len: 0, for_others: false };
                for char in event.chars() {
                    let end = invalid.len + char.len_utf8();
                    let Some(place) = invalid.name.get_mut(invalid.len..end) else { break };
                    char.encode_utf8(place);
                    invalid.len = end;
                }
                self.invalid = Some(invalid);
            }
        }
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> ExtensionEvents {
        self.events
    }

    /// Whether an extension of this kind may register so.
    ///
    /// # Errors
    /// The first event that it may not have.
    pub fn check(&self, external: bool) -> Result<(), InvalidEvent> {
        if !external && self.shutdown_first {
            let mut name = [0; EVENT_MAX];
            let shutdown = b"SHUTDOWN";
            name[..shutdown.len()].copy_from_slice(shutdown);
            return Err(InvalidEvent { name, len: shutdown.len(), for_others: true });
        }
        self.invalid.map_or(Ok(()), Err)
    }
}

/// Whether a list of texts holds any.
fn any_text(reader: &mut Reader<'_>) -> Result<bool, FormatError> {
    match reader.require()? {
        Token::Null => return Ok(false),
        Token::ArrayStart => {}
        _ => return Err(FormatError::Malformed),
    }
    let mut any = false;
    loop {
        match reader.require()? {
            Token::ArrayEnd => return Ok(any),
            Token::String(_) | Token::Null => any = true,
            _ => return Err(FormatError::Malformed),
        }
    }
}
