//! End-to-end tests: what a newcomer's command does in real microVMs, and what is left when things go wrong.
//!
//! A microVM in three lines:
//!
//! ```no_run
//! # use votive_e2e::harness::Function;
//! # use serde_json::json;
//! # fn main() -> anyhow::Result<()> {
//! let function = Function::python("def handler(event, context): return event['a'] + 1");
//! let ran = function.invoke(&json!({ "a": 1 }))?;
//! assert_eq!(ran.response, json!(2));
//! # Ok(())
//! # }
//! ```
//! A worker in three lines:
//!
//! ```no_run
//! # use votive_e2e::harness::{Version, Worker};
//! # use serde_json::json;
//! # fn main() -> anyhow::Result<()> {
//! let worker = Worker::start()?;
//! let version = worker.register(&Version::tell()?)?;
//! assert_eq!(worker.invoke(&version, &json!({ "echo": 7 }))?.response["echo"], json!(7));
//! # Ok(())
//! # }
//! ```
//! Whatever a test does, [`harness`] checks after each invocation that no process and no file was left.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod cases;
pub mod harness;
