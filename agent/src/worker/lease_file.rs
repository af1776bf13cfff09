//! The lease in a file, for a worker that is started again: what was granted counts on, and never for longer.
//!
//! The record holds the moments of grant by two clocks. `CLOCK_BOOTTIME` cannot be set, but starts anew with the host; the
//! time of day survives a start of the host, but can be set. Where both tell, the stricter one counts. A record that cannot be
//! read, that was changed, or that contradicts itself or the clocks is refused: its worker does not serve.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::BootTime;
use crate::limits::{LEASE_MAX, TIMEOUT_MAX_S};
use crate::worker::lease::Term;
use crate::worker::store::hexadecimal;

#[cfg(test)]
mod tests;

/// The longest record that is read, in bytes.
const RECORD_MAX: usize = 4096;
const FIRST_LINE: &str = "votive lease 1";

/// The clocks of this host, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// What tells one start of the host from another.
    pub boot_id: String,
    /// `CLOCK_BOOTTIME`
    pub boot_time: BootTime,
    /// The time of day, since the Unix epoch.
    pub wall: Duration,
}

/// What is kept of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The clocks when the first grant was given.
    pub first: Clocks,
    /// The clocks when the grant that counts was given.
    pub issued: Clocks,
    /// How long it lasts from then.
    pub duration: Duration,
    /// The longest invocation that must end inside it.
    pub longest_invocation: Duration,
    /// Whether the worker drains: it does not come back from that.
    pub draining: bool,
}

/// Why a record does not count.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFileError {
    /// The file.
    #[error("the lease in {path} cannot be read or written")]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not as it was written.
    #[error("the lease's record is damaged or was changed: {0}")]
    Damaged(&'static str),
    /// No clock that goes on could have come to this.
    #[error("the lease's record contradicts the clocks: {0}")]
    Contradiction(&'static str),
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It counts on.
    Running {
        /// By the clock of now.
        term: Term,
        /// Whether the worker drains.
        draining: bool,
    },
    /// It is over.
    Over,
}

impl LeaseRecord {
    /// What is left of it at `now`.
    ///
    /// # Errors
    /// [`LeaseFileError::Contradiction`]
    pub fn restore(&self, now: &Clocks) -> Result<Restored, LeaseFileError> {
        let contradiction = LeaseFileError::Contradiction;
        if self.duration > LEASE_MAX {
            return Err(contradiction("it lasts for more than 14 h"));
        }
        if self.longest_invocation > Duration::from_secs(u64::from(TIMEOUT_MAX_S)) {
            return Err(contradiction("no invocation is that long"));
        }
        let lived = elapsed(&self.first, &self.issued)?;
        let passed = elapsed(&self.issued, now)?;
        // The first grant may have been given before the host started anew, the last one after.
        let life = lived.saturating_add(passed).max(elapsed(&self.first, now)?);
        if lived.saturating_add(self.duration) > LEASE_MAX {
            return Err(contradiction("it ends more than 14 h after the first one"));
        }
        let left = self.duration.saturating_sub(passed);
        let life_left = LEASE_MAX.saturating_sub(life);
        if left.is_zero() || life_left.is_zero() {
            return Ok(Restored::Over);
        }
        let term = Term {
            issued: now.boot_time - passed,
            expires: now.boot_time + left.min(life_left),
            life_ends: now.boot_time + life_left,
            longest_invocation: self.longest_invocation,
        };
        Ok(Restored::Running { term, draining: self.draining })
    }

    fn to_text(&self) -> String {
        let nanoseconds = |duration: Duration| duration.as_nanos().to_string();
        let fields = [
            FIRST_LINE.to_owned(),
            self.first.boot_id.clone(),
            self.first.boot_time.nanoseconds().to_string(),
            nanoseconds(self.first.wall),
            self.issued.boot_id.clone(),
            self.issued.boot_time.nanoseconds().to_string(),
            nanoseconds(self.issued.wall),
            nanoseconds(self.duration),
            nanoseconds(self.longest_invocation),
            u8::from(self.draining).to_string(),
        ];
        let body = fields.join("\n");
        let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
        format!("{body}\n{}\n", hexadecimal(&digest))
    }

    fn parse(text: &str) -> Result<Self, LeaseFileError> {
        let damaged = LeaseFileError::Damaged;
        let whole = text.strip_suffix('\n').ok_or(damaged("it ends too early"))?;
        let (body, digest) = whole.rsplit_once('\n').ok_or(damaged("it ends too early"))?;
        let is: [u8; 32] = Sha256::digest(body.as_bytes()).into();
        if hexadecimal(&is) != digest {
            return Err(damaged("its digest is another"));
        }
        let mut lines = body.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(damaged("it is of another version"));
        }
        let fields: Vec<_> = lines.collect();
        let [boot0, time0, wall0, boot1, time1, wall1, duration, longest, draining] = fields[..]
        else {
            return Err(damaged("it has another number of fields"));
        };
        let number = |text: &str| text.parse().map_err(|_| damaged("a field is no number"));
        let clocks = |id: &str, time: &str, wall: &str| {
            Ok(Clocks {
                boot_id: id.to_owned(),
                boot_time: BootTime::from_nanoseconds(number(time)?),
                wall: Duration::from_nanos(number(wall)?),
            })
        };
        Ok(Self {
            first: clocks(boot0, time0, wall0)?,
            issued: clocks(boot1, time1, wall1)?,
            duration: Duration::from_nanos(number(duration)?),
            longest_invocation: Duration::from_nanos(number(longest)?),
            draining: match draining {
                "0" => false,
                "1" => true,
                _ => return Err(damaged("a field is no truth value")),
            },
        })
    }
}

/// How much time passed between two readings: the most that any clock tells which both were read by.
fn elapsed(from: &Clocks, to: &Clocks) -> Result<Duration, LeaseFileError> {
    let same_boot = from.boot_id == to.boot_id;
    if same_boot && to.boot_time < from.boot_time {
        return Err(LeaseFileError::Contradiction("it is from the future"));
    }
    if !same_boot && to.wall < from.wall {
        // Only the time of day could tell how long the host was down, and it was set back.
        return Err(LeaseFileError::Contradiction("the time of day was set back"));
    }
    let by_wall = to.wall.saturating_sub(from.wall);
    Ok(if same_boot { to.boot_time.since(from.boot_time).max(by_wall) } else { by_wall })
}

/// The record's file.
#[derive(Clone, Debug)]
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// The one in `state_dir`.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("lease") }
    }

    /// The record, if there is one.
    ///
    /// # Errors
    /// [`LeaseFileError`]
    pub fn load(&self) -> Result<Option<LeaseRecord>, LeaseFileError> {
        let file = |source| LeaseFileError::File { path: self.path.clone(), source };
        let opened = match std::fs::File::open(&self.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file(error)),
        };
        let mut text = String::new();
        let limit = u64::try_from(RECORD_MAX).unwrap_or(u64::MAX);
        io::Read::read_to_string(&mut io::Read::take(opened, limit), &mut text).map_err(
            |error| match error.kind() {
                io::ErrorKind::InvalidData => LeaseFileError::Damaged("it is no text"),
                _ => file(error),
            },
        )?;
        LeaseRecord::parse(&text).map(Some)
    }

    /// Replaces the record. It is on the disk when this returns.
    ///
    /// # Errors
    /// [`LeaseFileError::File`]; the record is the old one or the new one then, whole.
    pub fn store(&self, record: &LeaseRecord) -> Result<(), LeaseFileError> {
        let file = |source| LeaseFileError::File { path: self.path.clone(), source };
        let write = || {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let mut partial = tempfile::NamedTempFile::new_in(folder)?;
            partial.write_all(record.to_text().as_bytes())?;
            partial.as_file().sync_all()?;
            partial.persist(&self.path).map_err(|error| error.error)?;
            // The new name is to be on the disk too.
            std::fs::File::open(folder)?.sync_all()
        };
        write().map_err(file)
    }
}

/// This start of the host.
///
/// # Errors
/// The system's.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
