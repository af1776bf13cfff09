//! Which shells there should be: no input, no output, no clock.
//!
//! So many are kept ready of each of the sizes that were asked for last. One that was taken is replaced a little later: the
//! environment that took it starts meanwhile. A size whose shells end by themselves, or cannot be made, is left alone for a while,
//! longer each time, until one of them is taken.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Size;

/// The most sizes of which shells are kept: those asked for last.
pub const SIZES_MAX: usize = 4;
/// The most shells that are made at once: environments need the processors as well.
pub(super) const MAKING_MAX: usize = 2;
/// How long after one was asked for the next is made, as long as most environments take to start.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// How long a size is left alone after the first failure, and at most; doubled with each.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(60);

/// The number of a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShellId(u64);

/// The shells of one size.
#[derive(Debug)]
struct Line {
    size: Size,
    ready: VecDeque<ShellId>,
    /// From when on each that is neither ready nor being made may be made.
    missing: Vec<Instant>,
    /// Since one was taken.
    failures: u32,
}

/// All shells.
#[derive(Debug)]
pub(super) struct Pool {
    ahead: usize,
    /// The size asked for last comes first.
    lines: Vec<Line>,
    making: Vec<Size>,
    given_up: Vec<ShellId>,
    next: u64,
}

impl Pool {
    /// `ahead` are kept of each size.
    pub(super) fn new(ahead: usize) -> Self {
        Self { ahead, lines: Vec::new(), making: Vec::new(), given_up: Vec::new(), next: 0 }
    }

    /// Somebody needs a shell: which one it is, if there is one.
    pub(super) fn take(&mut self, size: Size, now: Instant) -> Option<ShellId> {
        let line = match self.lines.iter().position(|line| line.size == size) {
            Some(index) => self.lines.remove(index),
            None => {
                let missing = vec![now + PAUSE; self.ahead.saturating_sub(self.making(size))];
                Line { size, ready: VecDeque::new(), missing, failures: 0 }
            }
        };
        self.lines.insert(0, line);
        for line in self.lines.drain(SIZES_MAX.min(self.lines.len())..) {
            self.given_up.extend(line.ready);
        }
        let line = self.lines.first_mut()?;
        let taken = line.ready.pop_front()?;
        line.failures = 0;
        line.missing.push(now + PAUSE);
        Some(taken)
    }

    /// The shells that are to be ended, each once.
    pub(super) fn given_up(&mut self) -> Vec<ShellId> {
        std::mem::take(&mut self.given_up)
    }

    /// The next shell to begin to make now.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Size> {
        if self.making.len() >= MAKING_MAX {
            return None;
        }
        let is_due = |from: &Instant| *from <= now;
        let line = self.lines.iter_mut().find(|line| line.missing.iter().any(is_due))?;
        let index = line.missing.iter().position(is_due)?;
        line.missing.swap_remove(index);
        self.making.push(line.size);
        Some(line.size)
    }

    /// When to ask for the next one again, if nothing happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let missing = self.lines.iter().flat_map(|line| &line.missing);
        missing.copied().filter(|from| *from > now).min()
    }

    /// One was made; it has no number when nobody needs it any more.
    pub(super) fn made(&mut self, size: Size) -> Option<ShellId> {
        self.no_longer_made(size);
        let id = ShellId(self.next);
        self.line(size)?.ready.push_back(id);
        self.next += 1;
        Some(id)
    }

    /// One could not be made.
    pub(super) fn failed(&mut self, size: Size, now: Instant) {
        self.no_longer_made(size);
        if let Some(line) = self.line(size) {
            line.rest(now);
        }
    }

    /// One has ended by itself.
    pub(super) fn lost(&mut self, id: ShellId, now: Instant) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.ready.contains(&id)) {
            line.ready.retain(|ready| *ready != id);
            line.rest(now);
        }
    }

    /// How many are ready.
    pub(super) fn ready(&self) -> usize {
        self.lines.iter().map(|line| line.ready.len()).sum()
    }

    fn making(&self, size: Size) -> usize {
        self.making.iter().filter(|making| **making == size).count()
    }

    fn line(&mut self, size: Size) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.size == size)
    }

    fn no_longer_made(&mut self, size: Size) {
        if let Some(index) = self.making.iter().position(|making| *making == size) {
            self.making.swap_remove(index);
        }
    }
}

impl Line {
    /// One more is missing, and none is made for a while.
    fn rest(&mut self, now: Instant) {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let until = now + REST_MIN.saturating_mul(doubled).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.missing.push(until);
        for from in &mut self.missing {
            *from = until.max(*from);
        }
    }
}
