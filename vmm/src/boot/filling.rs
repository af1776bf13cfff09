//! How guest memory gets its first bytes: at once, or when the guest looks.

use std::io;

use crate::demand::{self, DemandError, Loading};
use crate::machine::Subscriber;
use crate::memory::{GuestRam, LowMemory, MemoryError};
use crate::spec::KernelMemory;
use crate::userfault::Userfault;

/// How guest memory gets its first bytes.
pub(super) struct Filling {
    pub(super) how: KernelMemory,
    pub(super) userfault: Option<Userfault>,
    /// What whoever asked for another way should be told.
    pub(super) notice: Option<String>,
}

impl Filling {
    /// As asked; on demand if nothing was, and this process may.
    pub(super) fn choose(
        asked: Option<KernelMemory>,
        open: impl FnOnce() -> io::Result<Userfault>,
    ) -> Self {
        let (how, userfault, error) = match asked {
            Some(how @ (KernelMemory::Mapped | KernelMemory::Copied)) => (how, None, None),
            Some(KernelMemory::Demand) | None => match open() {
                Ok(userfault) => (KernelMemory::Demand, Some(userfault), None),
                Err(error) => (KernelMemory::Mapped, None, asked.map(|_| error)),
            },
        };
        let notice =
            |error| format!("--kernel-memory demand: mapped instead, no userfaultfd: {error}");
        Self { how, userfault, notice: error.map(notice) }
    }

    pub(super) fn map(&self, bytes: u64) -> Result<GuestRam, MemoryError> {
        match self.how {
            KernelMemory::Demand => {
                GuestRam::map(bytes, LowMemory::HugePage).map(GuestRam::deferring)
            }
            KernelMemory::Mapped => GuestRam::map(bytes, LowMemory::SmallPages),
            KernelMemory::Copied => GuestRam::map(bytes, LowMemory::HugePage),
        }
    }

    /// Makes what fills memory on demand, if it is filled so. All of it has been told, and no vCPU runs. `done` is called once it
    /// is filled or cannot be; `false` keeps from the guest that it is.
    pub(super) fn loader<Done>(
        &mut self,
        ram: &mut GuestRam,
        done: Done,
    ) -> Result<(Option<Subscriber>, Loading), DemandError>
    where
        Done: FnMut(Result<(), DemandError>) -> bool + 'static,
    {
        let Some(userfault) = self.userfault.take() else { return Ok((None, Loading::default())) };
        Ok(match demand::prepare(userfault, ram.take_deferred(), done)? {
            Some((loader, loading)) => (Some(Box::new(loader) as Subscriber), loading),
            None => (None, Loading::default()),
        })
    }
}
