//! What each queue of a microVM's devices may move (`docs/devices.md`, limits).

use std::fmt;

/// The most per second, and at once; the VMM takes no more.
const MOST: u64 = 1 << 40;
/// A bucket holds at least what comes in so many parts of a second.
const LEAST_BURST_SHARE: u64 = 20;

/// What a token bucket gains in a second, and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: Option<u64>,
}

/// The limits of one queue: of a disk, or of a direction of the network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Bytes.
    pub bandwidth: Option<Rate>,
    /// Requests, or frames.
    pub operations: Option<Rate>,
}

/// The limits of all queues of a microVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Of each disk.
    pub disk: QueueLimits,
    /// Of each direction of the network device.
    pub network: QueueLimits,
}

impl Rate {
    /// `per_second`, and at most `burst` at once, or a tenth of a second's worth. `None`: more than a tebibyte, nothing at all, or a
    /// burst below a twentieth of a second's worth.
    #[must_use]
    pub fn new(per_second: u64, burst: Option<u64>) -> Option<Self> {
        let least = (per_second / LEAST_BURST_SHARE).max(1);
        let fits = |burst| (least..=MOST).contains(&burst);
        let allowed = (1..=MOST).contains(&per_second) && burst.is_none_or(fits);
        allowed.then_some(Self { per_second, burst })
    }

    /// What comes in a second.
    #[must_use]
    pub fn per_second(self) -> u64 {
        self.per_second
    }

    /// What there is at most, if that was said.
    #[must_use]
    pub fn burst(self) -> Option<u64> {
        self.burst
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.per_second)?;
        self.burst.map_or(Ok(()), |burst| write!(f, "/{burst}"))
    }
}

impl QueueLimits {
    /// As they follow the other parts of a device's option; their names begin with `direction`.
    pub(super) fn option(self, direction: &str) -> String {
        let part = |name: &str, rate: Option<Rate>| {
            rate.map_or_else(String::new, |rate| format!(",{direction}{name}={rate}"))
        };
        part("bandwidth", self.bandwidth) + &part("operations", self.operations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_one_that_the_vmm_takes() {
        let text = |per_second, burst| Rate::new(per_second, burst).map(|rate| rate.to_string());
        assert_eq!(text(7, None).as_deref(), Some("7"));
        assert_eq!(text(100, Some(5)).as_deref(), Some("100/5"));
        assert_eq!(text(MOST, Some(MOST)).as_deref(), Some("1099511627776/1099511627776"));
        for (per_second, burst) in
            [(0, None), (MOST + 1, None), (100, Some(4)), (1, Some(0)), (1, Some(MOST + 1))]
        {
            assert_eq!(text(per_second, burst), None, "{per_second}/{burst:?}");
        }
    }

    #[test]
    fn limits_are_parts_of_a_devices_option() {
        let limits =
            QueueLimits { bandwidth: Rate::new(1000, None), operations: Rate::new(7, Some(9)) };
        assert_eq!(limits.option("rx-"), ",rx-bandwidth=1000,rx-operations=7/9");
        assert_eq!(QueueLimits { bandwidth: None, ..limits }.option(""), ",operations=7/9");
        assert_eq!(QueueLimits::default().option("tx-"), "");
    }
}
