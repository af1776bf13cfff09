//! The control channel of a votive worker: its messages, its TLS, who may speak on it, its keys, and a client.
//!
//! [`v1`] is generated from `protocol/proto`. [`tls`] allows TLS 1.3 with one cipher suite and asks both sides for a
//! certificate; [`identity`] reads from it whose it is. [`keys`] makes such certificates for one machine. [`client`] calls a
//! worker at an [`address`]; what a worker refuses comes back as a [`refusal::Refusal`].
//!
//! **Boundary:** the server's side, which knows the worker, is in `votive-agent`.

#![forbid(unsafe_code)]

pub mod address;
pub mod client;
pub mod cork;
pub mod fuzz;
pub mod identity;
pub mod keys;
pub mod limits;
pub mod refusal;
pub mod tls;
pub mod v1;
