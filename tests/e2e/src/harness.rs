//! A microVM in three lines of test code: [`Function`], [`Function::invoke`], and an assertion about what [`Ran`].

pub mod console;
mod function;
mod home;
mod leftovers;
mod process;
mod spinner;
mod vmm;

pub use function::{Function, Ran, Running};
pub use home::{Home, images, require_guests};
pub use leftovers::Leftovers;
pub use process::{Ended, bounded};
pub use spinner::{Round, Spinner, SpinnerConsole};
pub use vmm::Vmm;
