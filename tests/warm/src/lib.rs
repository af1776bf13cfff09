//! Warm invocations, counted: from a client through a control socket to a handler in a microVM and back.
//!
//! One path is votive's, the others are what a platform engineer builds around a VMM: a host agent, the VMM's vsock, and an
//! HTTP server in the guest with the handler in its process. `docs/warm-invocation.md` tells what is in each.

pub mod client;
pub mod exits;
pub mod freezer;
pub mod handler;
pub mod host_agent;
pub mod measure;
pub mod peer;
pub mod trace;
pub mod upstream;
pub mod votive;

/// The guest's port that the peers' HTTP servers listen on.
pub const GUEST_PORT: u32 = 8080;
/// The guest's context id.
pub const GUEST_CID: u32 = 3;
/// Guest memory of the peers in MiB; votive's guests have what its function asks for.
pub const MEMORY_MIB: u32 = 256;
/// On the peers' kernel command line: what their guest serves.
pub const FUNCTION_OPTION: &str = "warm.function";

/// Which function, and so which server beside it, is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pair {
    /// awslambdaric, against Debian's `http.server`.
    Python,
    /// The crate `lambda_runtime`, against hyper.
    Rust,
}

impl Pair {
    /// Its name in reports and on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Rust => "rust",
        }
    }
}
