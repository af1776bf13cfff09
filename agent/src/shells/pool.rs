//! Which shells there should be: no input, no output, no clock.
//!
//! So many are kept ready of each of the sizes that were asked for last. A size whose shells end by themselves, or cannot be made,
//! is left alone for a while, longer each time, until one of them is taken.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Size;

/// The most sizes of which shells are kept: those asked for last.
pub const SIZES_MAX: usize = 4;
/// The most shells that are made at once: environments need the processors as well.
pub(super) const MAKING_MAX: usize = 2;
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
    /// Since one was taken.
    failures: u32,
    rests_until: Option<Instant>,
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
    pub(super) fn take(&mut self, size: Size) -> Option<ShellId> {
        let line = match self.lines.iter().position(|line| line.size == size) {
            Some(index) => self.lines.remove(index),
            None => Line { size, ready: VecDeque::new(), failures: 0, rests_until: None },
        };
        self.lines.insert(0, line);
        for line in self.lines.drain(SIZES_MAX.min(self.lines.len())..) {
            self.given_up.extend(line.ready);
        }
        let line = self.lines.first_mut()?;
        let taken = line.ready.pop_front()?;
        line.failures = 0;
        line.rests_until = None;
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
        let rests = |line: &Line| line.rests_until.is_some_and(|until| until > now);
        let size = self.lines.iter().find(|line| self.lacks(line) && !rests(line))?.size;
        self.making.push(size);
        Some(size)
    }

    /// When to ask for the next one again, if nothing happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let lacking = self.lines.iter().filter(|line| self.lacks(line));
        lacking.filter_map(|line| line.rests_until.filter(|until| *until > now)).min()
    }

    /// One was made; it has no number when nobody needs it any more.
    pub(super) fn made(&mut self, size: Size) -> Option<ShellId> {
        self.no_longer_made(size);
        let (ahead, id) = (self.ahead, ShellId(self.next));
        let line = self.line(size).filter(|line| line.ready.len() < ahead)?;
        line.ready.push_back(id);
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

    fn lacks(&self, line: &Line) -> bool {
        let making = self.making.iter().filter(|size| **size == line.size).count();
        line.ready.len() + making < self.ahead
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
    fn rest(&mut self, now: Instant) {
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.rests_until = Some(now + REST_MIN.saturating_mul(doubled).min(REST_MAX));
        self.failures = self.failures.saturating_add(1);
    }
}
