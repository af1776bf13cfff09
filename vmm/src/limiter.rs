//! Token buckets: how much a queue may move per second, in bytes and in operations.
//!
//! A bucket holds at most its burst and gains its rate. What costs more than there is waits; what costs more than a whole bucket
//! waits for a full one and leaves a debt. So over any time `t` no more is moved than burst + rate * `t` (with the largest
//! operation in place of a smaller burst), everything has its turn, and a wait is as long as whoever waits made it by what
//! it did before. The clock is handed in, to the nanosecond; nothing is rounded away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// Most tokens per second, and in a bucket: a tebibyte.
pub const MOST: u64 = 1 << 40;
/// A bucket holds at least what comes in so many parts of a second: a worker that wakes two milliseconds late, when the bucket
/// may have been full, loses less than a twentieth of the rate.
pub const LEAST_BURST_SHARE: u64 = 20;
/// What a bucket holds unless told otherwise, as `LEAST_BURST_SHARE`.
const DEFAULT_BURST_SHARE: u64 = 10;

const NANOSECONDS: i128 = 1_000_000_000;

/// What one bucket gains in a second, and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    rate: u64,
    burst: u64,
}

impl Limit {
    /// `rate` per second and at most `burst` at once, or a tenth of a second's worth. `None`: out of range.
    #[must_use]
    pub fn new(rate: u64, burst: Option<u64>) -> Option<Self> {
        let burst = burst.unwrap_or((rate / DEFAULT_BURST_SHARE).max(1));
        let least = (rate / LEAST_BURST_SHARE).max(1);
        let fits = (1..=MOST).contains(&rate) && (least..=MOST).contains(&burst);
        fits.then_some(Self { rate, burst })
    }
}

/// The limits of one queue; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bandwidth: Option<Limit>,
    /// Requests or frames.
    pub operations: Option<Limit>,
}

/// Where limits are set while their queue is at work, from any thread.
#[derive(Debug, Default)]
pub struct Dial {
    limits: Mutex<Limits>,
    changed: AtomicBool,
}

impl Dial {
    /// Sets the limits; the queue keeps to them from its next turn on.
    pub fn set(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        self.changed.store(true, Ordering::Release);
    }

    /// What was set since the last call.
    fn take(&self) -> Option<Limits> {
        let changed =
            self.changed.load(Ordering::Relaxed) && self.changed.swap(false, Ordering::Acquire);
        changed.then(|| *self.limits.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The buckets of one queue.
#[derive(Debug, Default)]
pub struct Limiter {
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
    dial: Arc<Dial>,
}

impl Limiter {
    /// Full buckets, to be filled from `now` on.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let mut limiter = Self::default();
        limiter.set(limits, now);
        limiter
    }

    /// Where its limits can be changed.
    #[must_use]
    pub fn dial(&self) -> Arc<Dial> {
        Arc::clone(&self.dial)
    }

    /// Whether nothing ever waits.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.bandwidth.is_none() && self.operations.is_none()
    }

    /// Takes over what the dial was set to; at the start of a turn. A bucket that was there keeps what is in it, as far as it
    /// fits, and its debt; a new one is full.
    pub fn heed(&mut self) {
        if let Some(limits) = self.dial.take() {
            self.set(limits, Instant::now());
        }
    }

    /// Takes an operation of `bytes` bytes out of the buckets.
    ///
    /// # Errors
    /// It has to wait until then; nothing was taken.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        let mut wait = Duration::ZERO;
        for (bucket, cost) in [(&mut self.bandwidth, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.fill(now);
                wait = wait.max(bucket.wait(cost));
            }
        }
        if !wait.is_zero() {
            return Err(now.checked_add(wait).unwrap_or(now));
        }
        for (bucket, cost) in [(&mut self.bandwidth, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.spend(cost);
            }
        }
        Ok(())
    }

    /// As [`Limiter::take`], now. The clock is looked at only if there are limits.
    ///
    /// # Errors
    /// As [`Limiter::take`]'s.
    pub fn take_now(&mut self, bytes: u64) -> Result<(), Instant> {
        if self.is_open() { Ok(()) } else { self.take(bytes, Instant::now()) }
    }

    fn set(&mut self, limits: Limits, now: Instant) {
        for (bucket, limit) in
            [(&mut self.bandwidth, limits.bandwidth), (&mut self.operations, limits.operations)]
        {
            *bucket = limit.map(|limit| match bucket.take() {
                Some(bucket) => bucket.with(limit, now),
                None => Bucket { limit, level: full(limit), at: now },
            });
        }
    }
}

/// One bucket. Its level is in billionths of a token, so that a nanosecond's gain is a whole number.
#[derive(Debug)]
struct Bucket {
    limit: Limit,
    level: i128,
    /// When the level was right.
    at: Instant,
}

fn full(limit: Limit) -> i128 {
    i128::from(limit.burst).saturating_mul(NANOSECONDS)
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let elapsed = i128::try_from(elapsed).unwrap_or(i128::MAX);
        let gained = elapsed.saturating_mul(self.limit.rate.into());
        self.level = self.level.saturating_add(gained).min(full(self.limit));
        self.at = self.at.max(now);
    }

    /// How long until `cost` may be spent.
    fn wait(&self, cost: u64) -> Duration {
        let needed = i128::from(cost.min(self.limit.burst)).saturating_mul(NANOSECONDS);
        let missing = u128::try_from(needed.saturating_sub(self.level)).unwrap_or(0);
        let nanoseconds = missing.div_ceil(self.limit.rate.into());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn spend(&mut self, cost: u64) {
        let cost = i128::from(cost).saturating_mul(NANOSECONDS);
        self.level = self.level.saturating_sub(cost);
    }

    /// The same with another limit.
    fn with(mut self, limit: Limit, now: Instant) -> Self {
        self.fill(now);
        self.limit = limit;
        self.level = self.level.min(full(limit));
        self
    }
}
