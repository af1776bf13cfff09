//! An invocation by `votive invoke`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::PATIENCE;
use crate::harness::process::Captured;

/// An invocation under way.
#[derive(Debug)]
pub struct Invocation(Captured);

/// What came of one.
#[derive(Debug)]
pub struct Invoked {
    /// The exit code of `votive invoke`.
    pub code: i32,
    /// The response.
    pub response: Value,
    /// The type of the function's error; none if it answered.
    pub error_type: Option<String>,
    /// The environment that it was in.
    pub environment: String,
    /// `REUSED`, `RESET`, `DESTROYED`.
    pub outcome: String,
    /// The end of the log.
    pub log_tail: String,
    /// The whole object that `--json` prints.
    pub object: Value,
    /// How long `votive invoke` ran.
    pub took: Duration,
}

impl Invocation {
    pub(super) fn begin(command: &mut Command) -> Result<Self> {
        Ok(Self(Captured::spawn(command)?))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// There was no answer: the worker refused, or `votive` failed.
    pub fn answer(self) -> Result<Invoked> {
        let ended = self.0.wait(PATIENCE)?;
        let code = ended.status.code().context("votive invoke was killed")?;
        ensure!(
            !ended.stdout.is_empty(),
            "votive invoke ended with exit code {code}: {}",
            ended.stderr
        );
        let object: Value = serde_json::from_slice(&ended.stdout)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Invoked {
            code,
            response: object["response"].clone(),
            error_type: object["errorType"].as_str().map(str::to_owned),
            environment: text(&object["release"]["environmentId"]),
            outcome: text(&object["release"]["outcome"]),
            log_tail: text(&object["release"]["logTail"]),
            object,
            took: ended.took,
        })
    }

    /// Waits for its end, which must be a refusal; gives the exit code and what `votive` said.
    ///
    /// # Errors
    /// It was answered.
    pub fn refusal(self) -> Result<(i32, String)> {
        let ended = self.0.wait(PATIENCE)?;
        ensure!(ended.stdout.is_empty(), "{}", String::from_utf8_lossy(&ended.stdout));
        Ok((ended.status.code().context("votive invoke was killed")?, ended.stderr))
    }
}

impl Invoked {
    /// The log's line that begins with `word`.
    ///
    /// # Errors
    /// There is none.
    pub fn line(&self, word: &str) -> Result<&str> {
        let mut lines = self.log_tail.lines();
        lines
            .find(|line| line.starts_with(word))
            .with_context(|| format!("no {word} line in {:?}", self.log_tail))
    }
}
