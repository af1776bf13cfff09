//! The states of a runtime as the Runtime API sees them, and the names of its errors.
//!
//! ```text
//!  Started --init/error--> InitError
//!     | next
//!     v          event handed out              response            body over
//!   Ready ------------------------> Running ------------> InvocationResponse -----+
//!     ^                               | error                                     v
//!     |                               +-----------> InvocationErrorResponse --> ResponseSent
//!     |  next                                                                     |
//!     +---------------------------------------------------------------------------+
//! ```
//! States, names and transitions are those of AWS's runtime interface emulator; `next` while `Running` hands out the same
//! event again.

#[cfg(test)]
mod tests;

/// Where a runtime stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The process runs its init phase.
    Started,
    /// It reported that its init phase failed.
    InitError,
    /// It waits for an invocation.
    Ready,
    /// It has an invocation.
    Running,
    /// It is sending an answer.
    InvocationResponse,
    /// It is sending an error.
    InvocationErrorResponse,
    /// It has answered and has not asked for more yet.
    ResponseSent,
}

/// The transition is not in the picture above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// The state.
    pub from: State,
    /// The state that was asked for.
    pub to: State,
}

/// What `next` means in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The init phase is over.
    InitDone,
    /// The invocation is over.
    InvocationDone,
    /// It waits already; one more connection does.
    Again,
    /// It has an invocation and wants to read it again.
    SameEvent,
}

impl State {
    /// The name that error messages use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::InitError => "InitError",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InvocationResponse => "InvocationResponse",
            Self::InvocationErrorResponse => "InvocationErrorResponse",
            Self::ResponseSent => "RuntimeResponseSentState",
        }
    }

    /// `GET /runtime/invocation/next`
    ///
    /// # Errors
    /// [`NotAllowed`] after a failed init phase and while an answer is being sent.
    pub fn ask_next(&mut self) -> Result<Next, NotAllowed> {
        let next = match self {
            Self::Started => Next::InitDone,
            Self::ResponseSent => Next::InvocationDone,
            Self::Ready => Next::Again,
            Self::Running => return Ok(Next::SameEvent),
            Self::InitError | Self::InvocationResponse | Self::InvocationErrorResponse => {
                return Err(NotAllowed { from: *self, to: Self::Ready });
            }
        };
        *self = Self::Ready;
        Ok(next)
    }

    /// `POST /runtime/init/error`
    ///
    /// # Errors
    /// [`NotAllowed`] once the init phase is over.
    pub fn init_error(&mut self) -> Result<(), NotAllowed> {
        self.step(Self::Started, Self::InitError)
    }

    /// The event was handed out.
    ///
    /// # Errors
    /// [`NotAllowed`] if the runtime did not ask for one.
    pub fn handed_out(&mut self) -> Result<(), NotAllowed> {
        self.step(Self::Ready, Self::Running)
    }

    /// `POST /runtime/invocation/{id}/response`
    ///
    /// # Errors
    /// [`NotAllowed`] unless an invocation is to be answered.
    pub fn response(&mut self) -> Result<(), NotAllowed> {
        self.step(Self::Running, Self::InvocationResponse)
    }

    /// `POST /runtime/invocation/{id}/error`
    ///
    /// # Errors
    /// [`NotAllowed`] unless an invocation is to be answered.
    pub fn invocation_error(&mut self) -> Result<(), NotAllowed> {
        self.step(Self::Running, Self::InvocationErrorResponse)
    }

    /// The answer or the error is over.
    ///
    /// # Errors
    /// [`NotAllowed`] unless one was begun.
    pub fn response_sent(&mut self) -> Result<(), NotAllowed> {
        match self {
            Self::InvocationResponse | Self::InvocationErrorResponse => {
                *self = Self::ResponseSent;
                Ok(())
            }
            _ => Err(NotAllowed { from: *self, to: Self::ResponseSent }),
        }
    }

    fn step(&mut self, from: Self, to: Self) -> Result<(), NotAllowed> {
        if *self != from {
            return Err(NotAllowed { from: *self, to });
        }
        *self = to;
        Ok(())
    }
}

/// What an error's type becomes: itself if it holds `(Runtime|Function)\.[A-Z][a-zA-Z]+` anywhere, as AWS's emulator has it,
/// and is text of at most `max` bytes; `Function.Unknown` if it begins with `Function.`; otherwise `Runtime.Unknown`.
#[must_use]
pub fn valid_error_type(error_type: &[u8], max: usize) -> &str {
    if error_type.len() <= max
        && holds_error_name(error_type)
        && let Ok(text) = core::str::from_utf8(error_type)
    {
        return text;
    }
    if error_type.starts_with(b"Function.") { "Function.Unknown" } else { "Runtime.Unknown" }
}

fn holds_error_name(text: &[u8]) -> bool {
    ["Runtime.", "Function."].iter().any(|scope| {
        text.windows(scope.len() + 2).any(|window| {
            let (head, tail) = window.split_at(scope.len());
            head == scope.as_bytes()
                && matches!(tail, [first, second]
                    if first.is_ascii_uppercase() && second.is_ascii_alphabetic())
        })
    })
}
