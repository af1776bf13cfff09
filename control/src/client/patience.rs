//! Trying again to reserve: while there is no room, or nobody to ask.
//!
//! Only what surely reserved nothing is tried again: a refusal for want of room, and a connection that could not be made. The
//! delays double and are drawn from their whole range, so that callers which were refused together do not come back together.

use std::time::Duration;

use crate::client::{Client, ClientError};
use crate::v1;

#[cfg(test)]
mod tests;

/// How long to keep trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The most attempts, the first included.
    pub attempts: u32,
    /// The longest delay before the second attempt; it doubles with each.
    pub first_delay: Duration,
    /// The longest delay ever.
    pub longest_delay: Duration,
}

impl Default for Patience {
    /// Six attempts within about 6 s at most: a worker that restarts is back by then.
    fn default() -> Self {
        Self {
            attempts: 6,
            first_delay: Duration::from_millis(200),
            longest_delay: Duration::from_secs(5),
        }
    }
}

impl Patience {
    /// The delay before attempt `next` (the second is 2), with `chance` between 0 and 1. The worker's own word on when to
    /// come back is a lower bound, as far as our patience goes.
    fn delay(&self, next: u32, chance: f64, told: Option<Duration>) -> Duration {
        let doublings = next.saturating_sub(2).min(31);
        let range = self.first_delay.saturating_mul(1 << doublings).min(self.longest_delay);
        let drawn = range.mul_f64(chance.clamp(0.0, 1.0));
        told.map_or(drawn, |told| told.saturating_add(drawn).min(self.longest_delay))
    }
}

/// A reservation, and what it took.
#[derive(Clone, Debug)]
pub struct Reserved {
    /// The reservation.
    pub reservation: v1::Reservation,
    /// Attempts, the successful one included.
    pub attempts: u32,
}

impl Client {
    /// Reserves an environment, trying again while there is no room or the worker cannot be reached.
    ///
    /// # Errors
    /// The first error that trying again does not help, or [`ClientError::GaveUp`] with the last one.
    pub async fn reserve_patiently(
        &self,
        function_version_id: &str,
        invocation_id: &str,
        patience: Patience,
    ) -> Result<Reserved, ClientError> {
        let mut attempts = 1;
        loop {
            let error = match self.reserve(function_version_id, invocation_id).await {
                Ok(reservation) => return Ok(Reserved { reservation, attempts }),
                Err(error) => error,
            };
            if !may_help(&error) {
                return Err(error);
            }
            if attempts >= patience.attempts {
                return Err(ClientError::GaveUp { attempts, last: Box::new(error) });
            }
            attempts += 1;
            let told = error.refusal().and_then(|refusal| refusal.retry_after);
            tokio::time::sleep(patience.delay(attempts, fastrand::f64(), told)).await;
        }
    }
}

fn may_help(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Unconnected { .. } => true,
        ClientError::Refused(refusal) => refusal.is_throttled(),
        _ => false,
    }
}
