//! The control channel of a votive worker: its messages, its TLS, who may speak on it, its keys, and a client.

#![forbid(unsafe_code)]

pub mod v1;
