//! What starts microVMs, so that everything else can be tested without one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::Notify;
use votive_protocol::Mount;
use votive_protocol::limits::MOUNTS_MAX;

use crate::clock::{BootTime, Moment};
use crate::function::{Container, Function};
use crate::microvm::{MicrovmControl, MicrovmEnd};
use crate::worker::api::{EnvironmentId, FunctionVersionSpec, Initialization, RegisterError};
use crate::worker::registry::{Version, VersionImages};

/// Makes function versions ready, and starts microVMs for them.
pub trait Launcher: Send + Sync + 'static {
    /// Checks a function version and makes its images.
    fn prepare(
        &self,
        spec: FunctionVersionSpec,
    ) -> impl Future<Output = Result<Version, RegisterError>> + Send;

    /// Starts a microVM. Nothing is left running if this is dropped before its end.
    fn launch(
        &self,
        order: LaunchOrder,
    ) -> impl Future<Output = Result<Launched, LaunchError>> + Send;

    /// Nothing needs these images any more.
    fn forget(&self, images: &VersionImages);
}

/// What to start.
#[derive(Clone, Debug)]
pub struct LaunchOrder {
    /// The environment that it is for.
    pub environment: EnvironmentId,
    /// Why it is started: a caller waits for it, or nobody does yet.
    pub initialization: Initialization,
    /// The function.
    pub function: Arc<Function>,
    /// Its images.
    pub images: Arc<VersionImages>,
    /// When the microVM ends itself.
    pub deadline: Option<BootTime>,
}

/// A microVM that was started.
pub struct Launched {
    /// The host's end of the guest link.
    pub link: UnixStream,
    /// What pauses it; without it, it is never paused.
    pub control: Option<MicrovmControl>,
    /// Its process's id.
    pub process_id: Option<u32>,
    /// The end of its process.
    pub end: Pin<Box<dyn Future<Output = MicrovmEnd> + Send>>,
    /// What kills it.
    pub kill: Arc<Notify>,
    /// What holds it to its share of the CPU.
    pub share: Option<Box<dyn CpuShare>>,
    /// When its process was started.
    pub at: Moment,
    /// Its disks, as its guest mounts them.
    pub mounts: [Option<Mount>; MOUNTS_MAX],
    /// What its guest sets its network device up with, if it has one.
    pub network: Option<votive_protocol::Network>,
    /// Its process, if it is a container image's.
    pub container: Option<Arc<Container>>,
    /// What is to be done when the first invocation is over after which it can go on.
    pub first_release: Option<FirstRelease>,
}

/// What is done once an environment has had an invocation; it takes no time.
pub type FirstRelease = Box<dyn FnOnce() + Send + Sync>;

impl std::fmt::Debug for Launched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launched").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// What a microVM may have of the host's CPUs.
pub trait CpuShare: Send + Sync {
    /// What its function's memory buys.
    fn throttle(&mut self);
    /// What there is.
    fn unthrottle(&mut self);
}

/// Why a microVM was not started.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct LaunchError {
    /// What its caller may know of it: the name of an exception of Lambda's API, if there is one.
    pub code: Option<&'static str>,
    /// What the operator may know of it.
    pub text: String,
}

impl LaunchError {
    /// A failure of the host's.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { code: None, text }
    }
}
