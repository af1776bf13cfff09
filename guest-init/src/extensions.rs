//! Extensions as the Extensions API sees them: who they are, where each stands, and what it registered for.
//!
//! ```text
//!              register            next                 event
//!  Started ---------------> Registered ---> Ready ---------------> Running
//!     |                       |    |        ^  |                    |   |
//!     | no process            |    |        |  +---- exit/error ----+   |
//!     v             init/error|    |exit/error  v                       |
//!  LaunchError                v    +-----> ExitError                    |
//!                         InitError         ^---------------------------+   next: back to Ready
//! ```
//! States, names and transitions are those of AWS's runtime interface emulator.

pub mod answer;
mod registration;
#[cfg(test)]
mod tests;

use votive_protocol::ExtensionEvents;
use votive_protocol::limits::{EXTENSION_ERROR_MAX, EXTENSION_NAME_MAX};

use crate::limits::EXTENSIONS_MAX;
pub use registration::{FormatError, InvalidEvent, Registration};

/// The 16 bytes of an extension's identifier, a UUID.
pub type ExtensionId = [u8; 16];

/// Where an extension stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionState {
    /// Its process was started.
    Started,
    /// It registered.
    Registered,
    /// It waits for an event.
    Ready,
    /// It has an event.
    Running,
    /// It reported that its init phase failed.
    InitError,
    /// It reported that it cannot go on.
    ExitError,
    /// Its process could not be started.
    LaunchError,
    /// Its process has ended; no extension is ever found here, but it is what `exit/error` names as its aim.
    Exited,
}

impl ExtensionState {
    /// The name that error messages and `platform.extension` use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InitError => "InitError",
            Self::ExitError => "ExitError",
            Self::LaunchError => "LaunchError",
            Self::Exited => "Exited",
        }
    }
}

/// A transition that is not in the picture above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The state.
    pub from: ExtensionState,
    /// The state that was asked for.
    pub to: ExtensionState,
}

/// Why a registration is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The runtime has asked for its first invocation.
    Closed,
    /// An internal extension of that name has registered.
    Taken,
    /// There are [`EXTENSIONS_MAX`] already.
    TooMany,
    /// The external extension of that name is not in a state to register.
    State(Refused),
    /// It names an event that it cannot have.
    Event(InvalidEvent),
}

/// A short text of an extension's own.
#[derive(Clone, Copy, Debug)]
struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// The longest beginning of `text` that fits.
    fn new(text: &str) -> Self {
        let mut short = Self::EMPTY;
        let end = text.floor_char_boundary(N);
        if let (Some(place), Some(text)) = (short.bytes.get_mut(..end), text.as_bytes().get(..end))
        {
            place.copy_from_slice(text);
            short.len = end;
        }
        short
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.bytes.get(..self.len).unwrap_or(&[])).unwrap_or("")
    }
}

/// One extension.
#[derive(Clone, Copy, Debug)]
pub struct Extension {
    name: Short<EXTENSION_NAME_MAX>,
    error_type: Short<EXTENSION_ERROR_MAX>,
    id: ExtensionId,
    state: ExtensionState,
    external: bool,
    events: ExtensionEvents,
    /// An event is its due that it has not been given: nobody waited for it when it came.
    pub(crate) owed: bool,
}

impl Extension {
    /// Its full name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What it reported, or why it could not be started; empty without either.
    #[must_use]
    pub fn error_type(&self) -> &str {
        self.error_type.as_str()
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ExtensionState {
        self.state
    }

    /// What it registered for.
    #[must_use]
    pub fn events(&self) -> ExtensionEvents {
        self.events
    }

    /// Whether it has a process of its own.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.external
    }

    /// What it is known by.
    #[must_use]
    pub fn id(&self) -> ExtensionId {
        self.id
    }
}

/// All extensions of one life of the environment.
#[derive(Debug)]
pub struct Extensions {
    slots: [Option<Extension>; EXTENSIONS_MAX],
    open: bool,
}

impl Default for Extensions {
    fn default() -> Self {
        Self::new()
    }
}

impl Extensions {
    /// None, and registration is open.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: [None; EXTENSIONS_MAX], open: true }
    }

    /// The extensions that there are, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Extension)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, extension)| Some((slot, extension.as_ref()?)))
    }

    /// The extension in a place.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Extension> {
        self.slots.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Extension> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether one has a process of its own.
    #[must_use]
    pub fn has_external(&self) -> bool {
        self.iter().any(|(_, extension)| extension.external)
    }

    /// Nobody can register any more.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// An external extension is about to be started; gives its place, or nothing if there is none left.
    pub fn add_external(&mut self, name: &str, id: ExtensionId) -> Option<usize> {
        let slot = self.slots.iter().position(Option::is_none)?;
        self.put(slot, name, id, true);
        Some(slot)
    }

    fn put(&mut self, slot: usize, name: &str, id: ExtensionId, external: bool) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(Extension {
                name: Short::new(name),
                error_type: Short::EMPTY,
                id,
                state: ExtensionState::Started,
                external,
                events: ExtensionEvents::default(),
                owed: false,
            });
        }
    }

    /// `POST /extension/register`; `id` is what an internal extension will be known by. Gives the place.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing has changed then.
    pub fn register(
        &mut self,
        name: &str,
        registration: &Registration,
        id: ExtensionId,
    ) -> Result<usize, RegisterError> {
        let external = self.iter().find(|(_, one)| one.external && one.name() == name);
        let slot = match external.map(|(slot, extension)| (slot, extension.state)) {
            Some((slot, state)) => {
                registration.check(true).map_err(RegisterError::Event)?;
                if state != ExtensionState::Started {
                    let to = ExtensionState::Registered;
                    return Err(RegisterError::State(Refused { from: state, to }));
                }
                slot
            }
            None => {
                registration.check(false).map_err(RegisterError::Event)?;
                if !self.open {
                    return Err(RegisterError::Closed);
                }
                let Some(slot) = self.slots.iter().position(Option::is_none) else {
                    return Err(RegisterError::TooMany);
                };
                if self.iter().any(|(_, one)| one.name() == name) {
                    return Err(RegisterError::Taken);
                }
                self.put(slot, name, id, false);
                slot
            }
        };
        if let Some(extension) = self.get_mut(slot) {
            extension.state = ExtensionState::Registered;
            extension.events = registration.events();
        }
        Ok(slot)
    }

    /// The place of the extension that is known by `id`.
    #[must_use]
    pub fn find(&self, id: ExtensionId) -> Option<usize> {
        let known = |extension: &Extension| {
            extension.id == id && extension.state != ExtensionState::LaunchError
        };
        self.iter().find(|(_, extension)| known(extension)).map(|(slot, _)| slot)
    }

    /// `GET /extension/event/next`. `again` says that nobody waits for its event any more, so that it may ask once more.
    ///
    /// # Errors
    /// [`Refused`] if it waits already, or cannot go on.
    pub fn ready(&mut self, slot: usize, again: bool) -> Result<(), Refused> {
        let to = ExtensionState::Ready;
        self.step(slot, to, |state| match state {
            ExtensionState::Registered | ExtensionState::Running => true,
            ExtensionState::Ready => again,
            _ => false,
        })
    }

    /// Its event was handed out.
    pub fn running(&mut self, slot: usize) {
        if let Some(extension) = self.get_mut(slot) {
            extension.state = ExtensionState::Running;
            extension.owed = false;
        }
    }

    /// `POST /extension/init/error`
    ///
    /// # Errors
    /// [`Refused`] unless it has registered and not asked for an event.
    pub fn init_error(&mut self, slot: usize, error_type: &str) -> Result<(), Refused> {
        let to = ExtensionState::InitError;
        self.fail(slot, to, error_type, |state| state == ExtensionState::Registered)
    }

    /// `POST /extension/exit/error`
    ///
    /// # Errors
    /// [`Refused`] unless it is at work.
    pub fn exit_error(&mut self, slot: usize, error_type: &str) -> Result<(), Refused> {
        let to = ExtensionState::ExitError;
        let at_work = |state| {
            use ExtensionState::{Ready, Registered, Running};
            matches!(state, Registered | Ready | Running)
        };
        self.fail(slot, to, error_type, at_work)
            .map_err(|refused| Refused { to: ExtensionState::Exited, ..refused })
    }

    /// Its process could not be started.
    pub fn launch_error(&mut self, slot: usize, error_type: &str) {
        if let Some(extension) = self.get_mut(slot) {
            extension.state = ExtensionState::LaunchError;
            extension.error_type = Short::new(error_type);
        }
    }

    /// Only the first report counts.
    fn fail(
        &mut self,
        slot: usize,
        to: ExtensionState,
        error_type: &str,
        allowed: impl Fn(ExtensionState) -> bool,
    ) -> Result<(), Refused> {
        if self.get(slot).is_some_and(|extension| extension.state == to) {
            return Ok(());
        }
        self.step(slot, to, allowed)?;
        if let Some(extension) = self.get_mut(slot) {
            extension.error_type = Short::new(error_type);
        }
        Ok(())
    }

    fn step(
        &mut self,
        slot: usize,
        to: ExtensionState,
        allowed: impl Fn(ExtensionState) -> bool,
    ) -> Result<(), Refused> {
        let from = self.get(slot).map_or(ExtensionState::Exited, |extension| extension.state);
        if !allowed(from) {
            return Err(Refused { from, to });
        }
        if let Some(extension) = self.get_mut(slot) {
            extension.state = to;
        }
        Ok(())
    }

    /// Whether every external extension has registered: the runtime can be started.
    #[must_use]
    pub fn all_registered(&self) -> bool {
        self.iter().all(|(_, extension)| extension.state != ExtensionState::Started)
    }

    /// Whether every extension that `concerns` holds for waits for its next event and is owed none.
    #[must_use]
    pub fn all_ready(&self, concerns: impl Fn(&Extension) -> bool) -> bool {
        let is_ready = |one: &Extension| one.state == ExtensionState::Ready && !one.owed;
        self.iter().all(|(_, extension)| !concerns(extension) || is_ready(extension))
    }
}

/// Reads a UUID as AWS's emulator does: with hyphens, without, in braces, as a URN.
#[must_use]
pub fn parse_id(text: &[u8]) -> Option<ExtensionId> {
    let text = match text.len() {
        45 => text.split_at_checked(9).filter(|(urn, _)| urn.eq_ignore_ascii_case(b"urn:uuid:"))?.1,
        38 => text.strip_prefix(b"{")?.strip_suffix(b"}")?,
        32 | 36 => text,
        _ => return None,
    };
    let hyphens = text.len() == 36;
    let mut id = [0; 16];
    let mut digits =
        text.iter().enumerate().filter(|(at, _)| !hyphens || !matches!(at, 8 | 13 | 18 | 23));
    if hyphens && [8, 13, 18, 23].iter().any(|at| text.get(*at) != Some(&b'-')) {
        return None;
    }
    for byte in &mut id {
        for shift in [4, 0] {
            let (_, digit) = digits.next()?;
            *byte |= u8::try_from(char::from(*digit).to_digit(16)?).ok()? << shift;
        }
    }
    Some(id)
}

/// Makes random bytes a UUID (RFC 9562 section 5.4).
#[must_use]
pub fn new_id(mut random: [u8; 16]) -> ExtensionId {
    random[6] = (random[6] & 0x0f) | 0x40;
    random[8] = (random[8] & 0x3f) | 0x80;
    random
}
