//! Turns what a customer uploads into read-only images.
//!
//! A ZIP is hostile input. `archive` reads it with the limits of `limits` applied to what really comes out of it, `tree` holds
//! the files it names, each checked, `layers` lays several ZIPs one over the other, `erofs` writes an image whose bytes depend on
//! the content alone, and `optimise` does all of it in order. Contents go straight from the archive into the image; one
//! that is to have a name is written in a `workplace` that is removed also when its process is killed, by the next one.
//!
//! `chunk` cuts an image into pieces, `seal` encrypts them and their keys, and `manifest` lists them by the `digest`s that are
//! their names. `store` keeps them at the origin, below roots that `gc` retires; `keys` wraps what they are encrypted with. On a
//! worker, `fetch` loads them through a `gate` that asks for a `grant`, and by a `cache` of ciphertext.

pub mod archive;
pub mod cache;
pub mod chunk;
pub mod digest;
pub mod erofs;
pub mod fetch;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod flips;
pub mod fuzz;
pub mod gate;
pub mod gc;
pub mod grant;
pub mod keys;
mod layers;
pub mod limits;
pub mod manifest;
pub mod oci;
mod optimise;
pub mod seal;
pub mod store;
mod tree;
mod workplace;

pub use limits::Limits;
pub use optimise::{
    OptimiseError, Summary, optimise_zip, optimise_zip_unnamed, optimise_zips,
    optimise_zips_unnamed,
};
pub use workplace::Workplace;
