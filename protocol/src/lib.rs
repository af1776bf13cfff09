//! The guest link: what the agent and PID 1 (`votive-init`) say to each other over one vsock stream.
//!
//! The guest connects to [`AGENT_CID`], port [`AGENT_PORT`], and says [`GuestFrame::Hello`]; the agent answers with one
//! [`HostFrame::Configure`]. From then on both sides send frames when they have something to say:
//!
//! ```text
//! agent                                          PID 1
//!   | <----------------------------- Hello         |   boot
//!   | Configure ----------------------------->     |
//!   | <----------------------------- Phase*        |   mounts, start of the runtime
//!   | <----------------------------- Ready         |   the runtime's first /next: init is over
//!   | Invoke, Payload* ---------------------->     |
//!   | <----------------------------- ResponseStart, ResponsePayload*, ResponseEnd
//!   |                             or RuntimeError  |
//!   | <----------------------------- Done          |   runtime and extensions asked for their next event
//!   | Reset --------------------------------->     |   time-out: the runtime is ended, then the extensions
//!   | <----------------------------- RuntimeExited |
//!   | <----------------------------- Down          |   nothing runs any more; the next Invoke starts it again
//!   | Shutdown ------------------------------>     |   SIGTERM, SHUTDOWN events, SIGKILL, power-off
//! ```
//!
//! [`GuestFrame::Log`] may stand between any two frames of the guest. A frame is an eight-byte [`Header`] and a body of at
//! most [`BODY_MAX`] bytes: raw bytes for payloads and logs, postcard for the rest. Nothing is allocated, and no length that
//! the other side names is trusted before it is checked against its limit here.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod frame;
pub mod fuzz;
mod guest;
mod host;
mod id;
pub mod limits;
mod list;
#[cfg(test)]
mod tests;

pub use frame::{BODY_MAX, FrameError, HEADER_LEN, Header, Kind};
pub use guest::{
    Done, Down, ExitStatus, Extension, ExtensionEvents, ExtensionExited, ExtensionFault, Fault,
    FaultCode, GuestFrame, Hello, LogStream, Phase, PhaseName, ResponseEnd, ResponseMode,
    ResponseOutcome, ResponseStart, RuntimeError, RuntimeErrorScope, RuntimeExited, Subscription,
    TelemetryTypes,
};
pub use host::{
    Configure, FileSystem, HostFrame, InitializationType, Invoke, Mount, MountTarget, Network,
    ResetReason, Shutdown, ShutdownReason,
};
pub use id::InvocationId;
pub use list::{ByteList, ByteListIter};

/// The context id of the host, as every vsock guest knows it (`VMADDR_CID_HOST`, virtio 1.2 section 5.10.4).
pub const AGENT_CID: u32 = 2;
/// The vsock port on which the agent waits for PID 1.
pub const AGENT_PORT: u32 = 1024;
/// The version of this protocol. Agent and PID 1 ship together; a mismatch is a [`FaultCode::ProtocolVersion`].
pub const VERSION: u16 = 3;
