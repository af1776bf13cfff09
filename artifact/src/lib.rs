//! Turns what a customer uploads into read-only images.
//!
//! A ZIP is hostile input. `archive` reads it with the limits of `limits` applied to what really comes out of it, `tree` holds
//! the files it names, each checked, `folder` lays them out below a folder that no entry can leave, `erofs` packs the
//! folder into an image whose bytes depend on the content alone, and `optimise` does all of it in order, in a `workplace` that is
//! removed also when its process is killed, by the next one.

pub mod archive;
pub mod erofs;
mod folder;
pub mod fuzz;
pub mod limits;
mod optimise;
mod tree;
mod workplace;

pub use limits::Limits;
pub use optimise::{OptimiseError, Summary, optimise_zip, optimise_zip_unnamed, optimise_zips};
pub use workplace::Workplace;
