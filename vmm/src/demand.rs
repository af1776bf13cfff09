//! Memory that is filled when the guest first needs it, a huge page at a time.
//!
//! ```text
//!  guest, devices --- access a missing page ---> asleep in the kernel ----------------------> go on
//!                             |                                                           ^
//!  the main thread            +--> fill a huge page elsewhere --> mremap over the block --+ wake
//! ```
//! Nobody ever sees a block that is partly filled: until the whole of it is moved into place, by one system call, whoever
//! touches it sleeps, be it the guest, KVM or a device, on any processor. The main thread touches guest memory in no other way
//! before all of it is there, so it waits for nobody.
//!
//! The guest's first access starts it. Then it fills every block, those that somebody waits for first, and closes the
//! userfaultfd: while Linux is still starting, and before a device or PID 1's first mark is answered ([`Loading::wait`]), so that no
//! tenant's code ever runs beside it.
#![expect(unsafe_code, reason = "moving huge pages into guest memory")]

use std::collections::BTreeMap;
use std::io;
use std::ptr::null_mut;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::memory::{FLAGS, HUGE_PAGE, PROTECTION, Piece, Source, read_exact};
use crate::userfault::Userfault;

const BLOCK: u64 = HUGE_PAGE as u64;

/// Why guest memory cannot be filled on demand.
#[derive(Debug, thiserror::Error)]
pub enum DemandError {
    /// Accesses cannot be caught.
    #[error("cannot catch accesses to guest memory")]
    Register(#[source] io::Error),
    /// The wait for an access.
    #[error("cannot wait for accesses to guest memory")]
    Wait(#[source] io::Error),
    /// No memory to fill.
    #[error("cannot map memory for {blocks} huge pages")]
    Stage {
        /// How many.
        blocks: usize,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file.
    #[error("cannot read {bytes} bytes of the kernel or the initrd")]
    Read {
        /// Number of bytes.
        bytes: usize,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The last step.
    #[error("cannot move a huge page into guest memory")]
    Move(#[source] io::Error),
}

/// Whether guest memory is whole.
#[derive(Debug, Clone, Default)]
pub struct Loading(Option<Arc<Whole>>);

#[derive(Debug, Default)]
struct Whole {
    is_so: Mutex<bool>,
    came: Condvar,
}

impl Loading {
    /// Waits until all guest memory has been filled and nothing catches accesses to it any more. The loader must have been
    /// started by an access before, which a guest's first instruction is. Should it fail, whoever waits sleeps until the process
    /// ends.
    pub fn wait(&self) {
        let Some(whole) = &self.0 else { return };
        let mut is_so = whole.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        while !*is_so {
            is_so = whole.came.wait(is_so).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_over(&self) {
        let Some(whole) = &self.0 else { return };
        *whole.is_so.lock().unwrap_or_else(PoisonError::into_inner) = true;
        whole.came.notify_all();
    }
}

/// What fills guest memory, on an event loop that serves nothing that touches it.
pub(crate) struct Loader<Done> {
    userfault: Option<Userfault>,
    blocks: BTreeMap<u64, Vec<Piece>>,
    loading: Loading,
    done: Done,
}

/// Makes what fills guest memory with `pieces`, of which a later one wins over an earlier one; `None` when there is nothing to
/// fill. `done` is called when all is filled, before anybody who waits for that hears of it, or should it not succeed: then
/// whoever waits for memory sleeps until the process ends. A `false` of its has the same effect.
///
/// # Errors
/// When accesses cannot be caught.
pub(crate) fn prepare<Done>(
    userfault: Userfault,
    pieces: Vec<Piece>,
    done: Done,
) -> Result<Option<(Loader<Done>, Loading)>, DemandError>
where
    Done: FnMut(Result<(), DemandError>) -> bool,
{
    let mut blocks: BTreeMap<u64, Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        blocks.entry(piece.block).or_default().push(piece);
    }
    for (host, bytes) in runs(blocks.keys().copied()) {
        // With huge pages, the kernel would clear one for each access before it tells of the access, in vain.
        // SAFETY: advice on guest memory, which changes no byte; a kernel without huge pages refuses it.
        unsafe { libc::madvise(host as *mut libc::c_void, bytes as usize, libc::MADV_NOHUGEPAGE) };
        userfault.register(host, bytes).map_err(DemandError::Register)?;
    }
    if blocks.is_empty() {
        return Ok(None);
    }
    let loading = Loading(Some(Arc::default()));
    let loader = Loader { userfault: Some(userfault), blocks, loading: loading.clone(), done };
    Ok(Some((loader, loading)))
}

impl<Done: FnMut(Result<(), DemandError>) -> bool> Loader<Done> {
    fn finish(&mut self, filled: Result<(), DemandError>) {
        let userfault = self.userfault.take();
        if filled.is_err() {
            // Closing it would let them go on, with zeroes.
            std::mem::forget(userfault);
            (self.done)(filled);
        } else {
            drop(userfault);
            if (self.done)(filled) {
                self.loading.is_over();
            }
        }
    }
}

impl<Done: FnMut(Result<(), DemandError>) -> bool> MutEventSubscriber for Loader<Done> {
    fn process(&mut self, _: Events, ops: &mut EventOps) {
        let Some(userfault) = &self.userfault else { return };
        let blocks = std::mem::take(&mut self.blocks);
        let filled = fill_all(userfault, blocks);
        // Before it is closed, and even if it stays open: nobody reads it any more.
        let _ = ops.remove(Events::empty(userfault));
        self.finish(filled);
    }

    fn init(&mut self, ops: &mut EventOps) {
        let added = self.userfault.as_ref().map(|it| ops.add(Events::new(it, EventSet::IN)));
        if let Some(Err(error)) = added {
            self.finish(Err(DemandError::Wait(io::Error::other(format!("{error:?}")))));
        }
    }
}

/// Adjacent blocks together: (host address, bytes).
fn runs(blocks: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some((start, bytes)) if *start + *bytes == block => *bytes += BLOCK,
            _ => runs.push((block, BLOCK)),
        }
    }
    runs
}

/// Fills every block.
fn fill_all(
    userfault: &Userfault,
    mut blocks: BTreeMap<u64, Vec<Piece>>,
) -> Result<(), DemandError> {
    let mut stage = Stage::map(blocks.len())?;
    while let Some(next) = blocks.keys().next().copied() {
        let wanted = userfault.next().map_err(DemandError::Wait)?;
        let wanted = wanted.map(|address| address / BLOCK * BLOCK);
        // Someone may have wanted what has come since: they were woken with it.
        let block = wanted.filter(|wanted| blocks.contains_key(wanted)).unwrap_or(next);
        stage.fill(block, &blocks.remove(&block).unwrap_or_default())?;
        userfault.wake(block, BLOCK).map_err(DemandError::Wait)?;
    }
    Ok(())
}

/// Memory for huge pages that nobody but the loader knows until they are moved away.
struct Stage {
    next: *mut u8,
}

impl Stage {
    /// Memory for so many. What alignment leaves over at either end stays mapped and untouched.
    fn map(blocks: usize) -> Result<Self, DemandError> {
        let failed = |source| DemandError::Stage { blocks, source };
        let bytes = (blocks + 1) * HUGE_PAGE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let mapped = unsafe { libc::mmap(null_mut(), bytes, PROTECTION, FLAGS, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        // Without huge pages in this kernel, the advice is refused, and all is well.
        // SAFETY: advice on the mapping just made; it changes no byte.
        unsafe { libc::madvise(mapped, bytes, libc::MADV_HUGEPAGE) };
        // Guest memory must not end up in a core file.
        // SAFETY: as above.
        if unsafe { libc::madvise(mapped, bytes, libc::MADV_DONTDUMP) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let base = mapped.cast::<u8>();
        Ok(Self { next: base.wrapping_add(base.align_offset(HUGE_PAGE)) })
    }

    /// Fills the next huge page with `pieces` and moves it to `block`, in guest memory. Called no more often than
    /// [`Stage::map`] was told.
    fn fill(&mut self, block: u64, pieces: &[Piece]) -> Result<(), DemandError> {
        let page = self.next;
        self.next = page.wrapping_add(HUGE_PAGE);
        for Piece { at, bytes, source, .. } in pieces {
            let to = page.wrapping_add(*at);
            match source {
                Source::Bytes(from) => {
                    // SAFETY: a piece lies inside its huge page, which is mapped and nobody else's, so also not the source's.
                    unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
                }
                Source::File(file, offset) => {
                    // SAFETY: as above.
                    let done = unsafe { read_exact(file, *offset, to, *bytes) };
                    done.map_err(|source| DemandError::Read { bytes: *bytes, source })?;
                }
            }
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both are mappings of one huge page, the first the stage's own, the second guest memory that nobody has touched,
        // for whoever does sleeps; no Rust reference points into either.
        let moved = unsafe {
            libc::mremap(page.cast(), HUGE_PAGE, HUGE_PAGE, flags, block as *mut libc::c_void)
        };
        if moved == libc::MAP_FAILED {
            return Err(DemandError::Move(io::Error::last_os_error()));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
