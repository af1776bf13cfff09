//! The body of a subscription: `PUT /2022-07-01/telemetry` and `PUT /2020-08-15/logs`.

use votive_protocol::TelemetryTypes;

use crate::json::{JsonError, Reader, Text, Token, integer};
use crate::limits::DESTINATION_MAX;

/// The API that a subscription came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/2022-07-01/telemetry`
    Telemetry,
    /// `/2020-08-15/logs`
    Logs,
}

/// How events are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// The most events of a batch.
    pub max_items: u64,
    /// The most bytes of a batch's events.
    pub max_bytes: u64,
    /// How long an event may wait, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for Buffering {
    fn default() -> Self {
        Self { max_items: 10_000, max_bytes: 262_144, timeout_ms: 1_000 }
    }
}

/// Where batches go: a port of the loopback device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is no heap to put the path on")]
pub enum Destination {
    /// A `POST` (or `PUT`, which the Logs API allows) of a JSON array to this path.
    Http {
        /// The port.
        port: u16,
        /// The path and the query.
        path: Path,
        /// `PUT` instead of `POST`
        put: bool,
    },
    /// One JSON object a line.
    Tcp {
        /// The port.
        port: u16,
    },
}

/// The path of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    bytes: [u8; DESTINATION_MAX],
    len: usize,
}

impl Path {
    /// The text, which begins with a slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or(&[])).unwrap_or("/")
    }
}

/// What an extension wants to be told, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The streams.
    pub types: TelemetryTypes,
    /// How events are put together.
    pub buffering: Buffering,
    /// Where they go.
    pub destination: Destination,
}

/// What a subscription's body can lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

impl From<JsonError> for Invalid {
    fn from(error: JsonError) -> Self {
        Self(match error {
            JsonError::End => "failed to parse JSON: unexpected end of JSON input",
            JsonError::Malformed => "failed to parse JSON",
        })
    }
}

/// Members as they were read.
#[derive(Default)]
struct Members {
    version: bool,
    types: Option<TelemetryTypes>,
    buffering: Buffering,
    destination: Option<Destination>,
}

impl Request {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Invalid`]: what is wrong with it.
    pub fn parse(body: &[u8], api: Api) -> Result<Self, Invalid> {
        let mut reader = Reader::new(body);
        let mut members = Members { version: api == Api::Logs, ..Members::default() };
        if reader.require()? != Token::ObjectStart {
            return Err(Invalid("the body is no JSON object"));
        }
        while let Token::Key(name) = reader.require()? {
            let value = reader.require()?;
            members.take(name, value, &mut reader, api)?;
        }
        if reader.next_token()?.is_some() {
            return Err(Invalid("failed to parse JSON"));
        }
        if !members.version {
            return Err(Invalid("schemaVersion is missing"));
        }
        Ok(Self {
            types: members.types.ok_or(Invalid("types is missing"))?,
            buffering: members.buffering,
            destination: members.destination.ok_or(Invalid("destination is missing"))?,
        })
    }
}

impl Members {
    fn take<'a>(
        &mut self,
        name: Text<'a>,
        value: Token<'a>,
        reader: &mut Reader<'a>,
        api: Api,
    ) -> Result<(), Invalid> {
        if name.is("schemaVersion") {
            let Token::String(version) = value else {
                return Err(Invalid("schemaVersion is no string"));
            };
            let known: &[&str] = match api {
                Api::Telemetry => &["2025-01-29", "2022-12-13", "2022-07-01"],
                Api::Logs => &["2020-08-15", "2021-03-18"],
            };
            self.version = known.iter().any(|one| version.is(one));
            if !self.version {
                return Err(Invalid("schemaVersion is unknown"));
            }
        } else if name.is("types") {
            self.types = Some(types(value, reader)?);
        } else if name.is("buffering") {
            self.buffering = buffering(value, reader)?;
        } else if name.is("destination") {
            self.destination = Some(destination(value, reader)?);
        } else {
            reader.skip(value)?;
        }
        Ok(())
    }
}

fn types<'a>(value: Token<'a>, reader: &mut Reader<'a>) -> Result<TelemetryTypes, Invalid> {
    const WRONG: Invalid = Invalid("types must be a list of platform, function and extension");
    let mut types = TelemetryTypes::default();
    if value != Token::ArrayStart {
        return Err(WRONG);
    }
    loop {
        match reader.require()? {
            Token::ArrayEnd if types == TelemetryTypes::default() => return Err(WRONG),
            Token::ArrayEnd => return Ok(types),
            Token::String(name) if name.is("platform") => types.platform = true,
            Token::String(name) if name.is("function") => types.function = true,
            Token::String(name) if name.is("extension") => types.extension = true,
            _ => return Err(WRONG),
        }
    }
}

fn buffering<'a>(value: Token<'a>, reader: &mut Reader<'a>) -> Result<Buffering, Invalid> {
    let mut buffering = Buffering::default();
    if value != Token::ObjectStart {
        return Err(Invalid("buffering is no JSON object"));
    }
    loop {
        let Token::Key(name) = reader.require()? else { return Ok(buffering) };
        let value = reader.require()?;
        if name.is("maxItems") {
            buffering.max_items = integer(value, 1_000..=10_000)
                .ok_or(Invalid("buffering.maxItems must be from 1000 to 10000"))?;
        } else if name.is("maxBytes") {
            buffering.max_bytes = integer(value, 262_144..=1_048_576)
                .ok_or(Invalid("buffering.maxBytes must be from 262144 to 1048576"))?;
        } else if name.is("timeoutMs") {
            buffering.timeout_ms = integer(value, 25..=30_000)
                .ok_or(Invalid("buffering.timeoutMs must be from 25 to 30000"))?;
        } else {
            reader.skip(value)?;
        }
    }
}

fn destination<'a>(value: Token<'a>, reader: &mut Reader<'a>) -> Result<Destination, Invalid> {
    if value != Token::ObjectStart {
        return Err(Invalid("destination is no JSON object"));
    }
    let mut http = None;
    let mut uri = None;
    let mut port = None;
    let mut put = false;
    while let Token::Key(name) = reader.require()? {
        let value = reader.require()?;
        if name.is("protocol") {
            http = match value {
                Token::String(protocol) if protocol.is("HTTP") => Some(true),
                Token::String(protocol) if protocol.is("TCP") => Some(false),
                _ => return Err(Invalid("destination.protocol must be HTTP or TCP")),
            };
        } else if name.is("URI") {
            let Token::String(text) = value else {
                return Err(Invalid("destination.URI is no string"));
            };
            uri = Some(parse_uri(text));
        } else if name.is("port") {
            port = Some(integer(value, 1..=65_535));
        } else if name.is("method") {
            put = match value {
                Token::String(method) if method.is("POST") => false,
                Token::String(method) if method.is("PUT") => true,
                _ => return Err(Invalid("destination.method must be POST or PUT")),
            };
        } else if name.is("encoding") {
            if !matches!(value, Token::String(encoding) if encoding.is("JSON")) {
                return Err(Invalid("destination.encoding must be JSON"));
            }
        } else {
            reader.skip(value)?;
        }
    }
    match http.ok_or(Invalid("destination.protocol is missing"))? {
        true => {
            let (port, path) = uri.ok_or(Invalid("destination.URI is missing"))??;
            Ok(Destination::Http { port, path, put })
        }
        false => {
            let port = port.ok_or(Invalid("destination.port is missing"))?;
            let port = port.and_then(|port| u16::try_from(port).ok());
            Ok(Destination::Tcp {
                port: port.ok_or(Invalid("destination.port must be from 1 to 65535"))?,
            })
        }
    }
}

/// `http://sandbox.localdomain:PORT/PATH`; the port is 80 if none is named.
fn parse_uri(text: Text<'_>) -> Result<(u16, Path), Invalid> {
    const WRONG: Invalid =
        Invalid("destination.URI must be http://sandbox.localdomain, with a port and a path");
    let mut buffer = [0; DESTINATION_MAX];
    let uri = text.put(&mut buffer).ok_or(Invalid("destination.URI is too long"))?;
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("HTTP://")).ok_or(WRONG)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| WRONG)?),
        None => (authority, 80),
    };
    let local = ["sandbox.localdomain", "sandbox"];
    if port == 0 || !local.iter().any(|name| host.eq_ignore_ascii_case(name)) {
        return Err(WRONG);
    }
    let path = path.split('#').next().unwrap_or("");
    // It becomes part of a request line.
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WRONG);
    }
    let mut kept = Path { bytes: [0; DESTINATION_MAX], len: 0 };
    for byte in [b'/'].into_iter().filter(|_| !path.starts_with('/')).chain(path.bytes()) {
        *kept.bytes.get_mut(kept.len).ok_or(WRONG)? = byte;
        kept.len += 1;
    }
    Ok((port, kept))
}
