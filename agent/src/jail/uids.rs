//! Users for jails: numbers of a range, each one's only while its process lives.
//!
//! A number is claimed on the whole host by binding an abstract Unix socket that is named after it: another agent, or a
//! `votive run`, with the same range takes others, and a claim is gone with whoever made it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The least number: below it are a host's own users.
const LEAST: u32 = 65_536;
/// The most numbers of a range: each environment and each shell has one.
const MOST: u32 = 1 << 20;

/// The numbers of users, first to last: `2000000000-2000065535`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    first: u32,
    last: u32,
}

/// A text that is no range of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range of users FIRST-LAST, from {LEAST} on and at most {MOST} of them,")]
pub struct WrongRange;

/// Every user of the range is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no user is left in {0}")]
pub struct NoUid(UidRange);

impl Default for UidRange {
    /// Outside of what systemd and Debian give to anybody.
    fn default() -> Self {
        Self { first: 2_000_000_000, last: 2_000_065_535 }
    }
}

impl UidRange {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.last - self.first + 1
    }
}

impl FromStr for UidRange {
    type Err = WrongRange;

    fn from_str(text: &str) -> Result<Self, WrongRange> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // The last one stands for none.
            digits.then(|| text.parse().ok()).flatten().filter(|it| (LEAST..u32::MAX).contains(it))
        };
        let (first, last) = text.trim().split_once('-').ok_or(WrongRange)?;
        let (first, last) = (number(first).ok_or(WrongRange)?, number(last).ok_or(WrongRange)?);
        if last < first || last - first >= MOST {
            return Err(WrongRange);
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The users that this process gives.
#[derive(Clone, Debug)]
pub struct Uids(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    range: UidRange,
    /// Where to look next: a number that was just freed is the last to be used again.
    next: u32,
    used: BTreeSet<u32>,
}

/// A user that is nobody else's until this is dropped.
#[derive(Debug)]
pub struct UidGuard {
    id: u32,
    uids: Uids,
    _claim: UnixDatagram,
}

impl Uids {
    /// The users of a range.
    #[must_use]
    pub fn new(range: UidRange) -> Self {
        Self(Arc::new(Mutex::new(State { range, next: range.first, used: BTreeSet::new() })))
    }

    /// Takes one.
    ///
    /// # Errors
    /// [`NoUid`]
    pub fn take(&self) -> Result<UidGuard, NoUid> {
        let mut state = self.lock();
        let range = state.range;
        for _ in 0..range.count() {
            let id = state.next;
            state.next = if id == range.last { range.first } else { id + 1 };
            if state.used.contains(&id) {
                continue;
            }
            match claim(id) {
                Ok(claim) => {
                    state.used.insert(id);
                    return Ok(UidGuard { id, uids: self.clone(), _claim: claim });
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                // No socket, so no other will be had either.
                Err(_) => break,
            }
        }
        Err(NoUid(range))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it can fail half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UidGuard {
    /// The number, of the user and of its group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for UidGuard {
    fn drop(&mut self) {
        self.uids.lock().used.remove(&self.id);
    }
}

fn claim(id: u32) -> std::io::Result<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(format!("votive/uid/{id}"))?;
    UnixDatagram::bind_addr(&name)
}
