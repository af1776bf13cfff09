//! What `votive environments` prints.

use anyhow::{Context as _, Result};
use rustix::process::Pid;
use serde_json::Value;

/// An environment.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its id.
    pub id: String,
    /// `IDLE`, `BUSY`, ...
    pub state: String,
    /// The process of its VMM.
    pub process: Option<Pid>,
    /// Invocations so far.
    pub invocations: u64,
    /// The whole object.
    pub object: Value,
}

impl Environment {
    pub(super) fn read(object: &Value) -> Result<Self> {
        let process = object["processId"].as_i64().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            id: object["id"].as_str().context("no id")?.to_owned(),
            state: object["state"].as_str().context("no state")?.to_owned(),
            process: process.and_then(Pid::from_raw),
            invocations: object["invocations"].as_u64().context("no invocations")?,
            object: object.clone(),
        })
    }

    /// Whether it waits for an invocation.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == "IDLE"
    }
}
