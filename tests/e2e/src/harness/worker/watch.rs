//! What `votive watch` prints while things happen.

use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::{LOOK, PATIENCE};
use crate::harness::process::Captured;

/// A watcher under way. It is ended when it is dropped.
#[derive(Debug)]
pub struct Watch(Captured);

impl Watch {
    /// Starts one; what happens from its return on is seen.
    pub(super) fn begin(command: &mut Command) -> Result<Self> {
        let mut watcher = Captured::spawn(command)?;
        let started = Instant::now();
        while !watcher.has_said("watching") {
            let ended = watcher.child.try_wait()?;
            ensure!(ended.is_none(), "votive watch ended: {}", watcher.said());
            ensure!(started.elapsed() < PATIENCE, "votive watch does not connect");
            std::thread::sleep(LOOK);
        }
        Ok(Self(watcher))
    }

    /// Every event so far.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let text = self.0.printed();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event that `is` true of, one of those before included.
    ///
    /// # Errors
    /// None comes.
    pub fn await_event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let events = self.events();
            if let Some(event) = events.iter().find(|event| is(event)) {
                return Ok(event.clone());
            }
            ensure!(started.elapsed() < PATIENCE, "no event {what} in {events:#?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for a line of a function's log that holds `words`, and gives it.
    ///
    /// # Errors
    /// None comes.
    pub fn await_log(&self, words: &str) -> Result<String> {
        let line = |event: &Value| event["log"]["line"].as_str().map(str::to_owned);
        let event =
            self.await_event(words, |event| line(event).is_some_and(|line| line.contains(words)))?;
        Ok(line(&event).unwrap_or_default())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It has ended with its worker, or is of no use any more.
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}

/// The seconds of the day of a time such as `2026-11-21T09:31:02.123Z`, to compare it with others of the same test.
///
/// # Errors
/// It is no time.
pub fn seconds_of(time: &Value) -> Result<f64> {
    let text = time.as_str().unwrap_or_default();
    let clock = text.split_once('T').map_or("", |(_, clock)| clock.trim_end_matches('Z'));
    let parts: Vec<f64> = clock.split(':').filter_map(|part| part.parse().ok()).collect();
    let [hours, minutes, seconds] = parts.as_slice() else { bail!("{time} is no time") };
    Ok(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// The seconds of the day by the clock that workers write times with.
#[must_use]
pub fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs_f64().rem_euclid(86_400.0)
}
