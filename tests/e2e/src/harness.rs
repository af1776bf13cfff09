//! A microVM in three lines of test code: [`Function`], [`Function::invoke`], and an assertion about what [`Ran`]. A worker in
//! three lines: [`Worker::start`], [`Worker::register`], [`Worker::invoke`].

mod artifacts;
pub mod console;
mod function;
mod guest;
mod home;
mod internet;
mod leftovers;
mod memory;
mod process;
mod spinner;
mod version;
mod vmm;
pub mod worker;

pub use artifacts::{ArtifactStore, write_layout};
pub use function::{Function, Ran, Running};
pub use guest::{Guest, Run, Started};
pub use home::{Home, images, require_guests};
pub use internet::{Internet, SERVER_PORT, counters, in_namespace};
pub(crate) use internet::{ip, reachable};
pub use leftovers::Leftovers;
pub use memory::VmmMemory;
pub use process::{Ended, bounded, vcpu_ticks};
pub use spinner::{Round, Spinner, SpinnerConsole};
pub use version::{Version, extension_client, probe_program, write_zip};
pub use vmm::Vmm;
pub use worker::{Environment, Invocation, Invoked, Watch, Worker};
