//! Addresses: the ones that every guest has, ranges as people write them, and the ranges that no guest ever reaches.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Every guest's own address. Its namespace is its own, so that all guests can have the same; from the block that RFC 6333
/// keeps for two ends of a link that nobody else sees.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// Its gateway: the host's end of its tap, in its namespace.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// The prefix that both share.
pub const PREFIX: u8 = 30;
/// Every guest's Ethernet address.
pub const GUEST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 2]);
/// Its gateway's.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
/// Bytes of a packet without its Ethernet header.
pub const MTU: u16 = 1500;

/// Where the other end of a namespace's link is said to be. Nobody has this address; its Ethernet address is told, not asked for.
pub(super) const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 6);

/// What no guest reaches, whatever the configuration allows: RFC 6890's ranges that lead to hosts themselves, to a link's
/// neighbours, to metadata services, or to many at once.
pub const NEVER: [Range; 6] = [
    Range::new(Ipv4Addr::new(0, 0, 0, 0), 8),
    Range::new(Ipv4Addr::new(127, 0, 0, 0), 8),
    Range::new(Ipv4Addr::new(169, 254, 0, 0), 16),
    Range::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    Range::new(Ipv4Addr::new(224, 0, 0, 0), 4),
    Range::new(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// What a guest does not reach unless the configuration allows it: networks of one owner (RFC 1918, 6598), and of tests (2544).
pub const PRIVATE: [Range; 5] = [
    Range::new(Ipv4Addr::new(10, 0, 0, 0), 8),
    Range::new(Ipv4Addr::new(100, 64, 0, 0), 10),
    Range::new(Ipv4Addr::new(172, 16, 0, 0), 12),
    Range::new(Ipv4Addr::new(192, 168, 0, 0), 16),
    Range::new(Ipv4Addr::new(198, 18, 0, 0), 15),
];

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A range of IPv4 addresses: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    first: Ipv4Addr,
    prefix: u8,
}

/// A text that is no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an IPv4 range such as 10.0.0.0/8, with no bit set behind its prefix, or one address is expected"
)]
pub struct NoRange;

impl Range {
    /// The range of all addresses that share their first `prefix` bits with `first`.
    const fn new(first: Ipv4Addr, prefix: u8) -> Self {
        Self { first, prefix }
    }

    /// The range of one address.
    #[must_use]
    pub const fn of(address: Ipv4Addr) -> Self {
        Self::new(address, 32)
    }

    /// Its first address.
    #[must_use]
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// How many bits its addresses share.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many addresses it has.
    #[must_use]
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix.min(32)))
    }

    /// The address at `index`, if it is in the range.
    #[must_use]
    pub fn nth(self, index: u32) -> Option<Ipv4Addr> {
        let address = u32::from(self.first).checked_add(index)?;
        (u64::from(index) < self.size()).then(|| Ipv4Addr::from(address))
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        let shared = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        self.prefix <= other.prefix && u32::from(other.first) & shared == u32::from(self.first)
    }

    /// Whether any address is in both. Of two ranges that share one, one contains the other.
    #[must_use]
    pub fn touches(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl FromStr for Range {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().map_err(|_| NoRange)?),
            None => (text, 32),
        };
        let first: Ipv4Addr = address.parse().map_err(|_| NoRange)?;
        let range = Self::new(first, prefix);
        // A bit behind the prefix is a mistake: which range was meant?
        let whole = prefix <= 32 && range.contains(Self::of(first));
        whole.then_some(range).ok_or(NoRange)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// The same addresses in as few of the given ranges as possible, sorted: the kernel refuses a set whose ranges overlap.
#[must_use]
pub(super) fn without_overlap(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut sorted: Vec<_> = ranges.into_iter().collect();
    // A range comes before those that it contains.
    sorted.sort();
    let mut kept: Vec<Range> = Vec::new();
    for range in sorted {
        if kept.last().is_none_or(|last| !last.contains(range)) {
            kept.push(range);
        }
    }
    kept
}
