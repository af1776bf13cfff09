//! Rings and descriptor chains, read with the suspicion they deserve.
//!
//! `virtio-queue` walks the rings; this module adds what a device needs beside it: a chain is read whole into a buffer of fixed
//! capacity and checked (memory bounds, order, end) before a device sees it, interrupts obey `VRING_AVAIL_F_NO_INTERRUPT`
//! (virtio 1.2 section 2.7.7), and a ring that makes no sense is marked broken, once, for the transport to ask for a reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::GuestRam;

mod chain;

pub(crate) use self::chain::parts;
pub use self::chain::{Chain, Segment};

/// How a driver broke the rules of its rings (virtio 1.2 section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// The available index ran ahead of what the ring can hold, or the ring cannot be read.
    #[error("available ring index out of range")]
    AvailableIndex,
    /// A chain starts at a descriptor outside the table.
    #[error("descriptor head out of range")]
    Head,
    /// A chain loops, is longer than its queue, or points outside its table.
    #[error("descriptor chain has no end within its queue")]
    Endless,
    /// A chain without descriptors, or with an indirect table that makes no sense.
    #[error("descriptor chain is empty or its indirect table is malformed")]
    Empty,
    /// A buffer does not lie in guest RAM.
    #[error("buffer outside guest memory")]
    Address,
    /// A device-readable buffer follows a device-writable one.
    #[error("readable buffer after a writable one")]
    Order,
    /// A chain is offered again before it was given back.
    #[error("descriptor head offered twice")]
    Twice,
    /// A request asks for what the device does not offer or hold.
    #[error("request for what is not there")]
    Request,
    /// A request is shorter or longer than its device allows.
    #[error("request of a wrong length")]
    Length,
    /// A frame whose source is not the device's own address.
    #[error("frame from an address that is not the guest's")]
    Source,
}

/// Descriptors that a device looks at in one turn: a full queue of 256 requests of 16 each.
const WALKED_PER_TURN: u32 = 4096;

/// A relaxed queue waits until its driver has not been told of one in so many of its descriptors.
const RELAXED_SHARE: u16 = 4;

/// One virtqueue while its driver is active.
#[derive(Debug)]
struct Ring {
    queue: Queue,
    /// Something was put into the used ring since the driver was last told.
    told: bool,
    /// Descriptors of that.
    untold: u16,
    /// See [`Rings::relax`].
    relaxed: bool,
}

impl Ring {
    fn new(queue: Queue) -> Self {
        Ring { queue, told: true, untold: 0, relaxed: false }
    }

    /// What is in the used ring may wait for an interrupt that is due anyway.
    fn can_wait(&self) -> bool {
        self.relaxed && self.untold < self.queue.size() / RELAXED_SHARE
    }

    /// Number of descriptors, a power of two.
    fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Reads the next available chain into `chain`. `Ok(false)`: there is none.
    fn pop(&mut self, ram: &GuestMemoryMmap<()>, chain: &mut Chain) -> Result<bool, Nonsense> {
        let size = self.queue.size();
        let next = match self.queue.iter(ram) {
            Ok(mut heads) => heads.next(),
            Err(_) => return Err(Nonsense::AvailableIndex),
        };
        match next {
            Some(raw) => chain.fill(raw, ram, size).map(|()| true),
            None => Ok(false),
        }
    }

    fn push(&mut self, ram: &GuestMemoryMmap<()>, chain: &Chain, len: u32) -> Result<(), Nonsense> {
        self.told = false;
        self.untold = self.untold.saturating_add(chain.descriptors);
        self.queue.add_used(ram, chain.head, len).map_err(|_| Nonsense::Head)
    }

    /// True when the driver wants an interrupt for what was used since the last call.
    fn wants_interrupt(&mut self, ram: &GuestMemoryMmap<()>) -> bool {
        if self.told {
            return false;
        }
        self.told = true;
        self.untold = 0;
        // On an error the ring is unreadable; an interrupt too many does no harm.
        let wanted = self.queue.needs_notification(ram).unwrap_or(true);
        wanted && (self.queue.event_idx_enabled() || !self.interrupt_suppressed(ram))
    }

    /// Reads the driver's flags, which `virtio-queue` leaves to its caller.
    fn interrupt_suppressed(&self, ram: &GuestMemoryMmap<()>) -> bool {
        let flags: u16 =
            ram.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed).unwrap_or(0);
        u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0
    }
}

/// All queues of an active device, with the memory they live in.
#[derive(Debug)]
pub struct Rings {
    ram: GuestRam,
    rings: Vec<Option<Ring>>,
    /// The first thing that made no sense in a ring itself; the device is of no use until it is reset.
    broken: Option<Nonsense>,
    /// Bad chains since the transport last asked, and the latest of them.
    refused: u64,
    latest: Option<Nonsense>,
    let_go: Arc<LetGo>,
    /// The device stopped early to let others have their turn.
    again: bool,
    /// Descriptors that were walked in this turn.
    walked: u32,
    /// Where the chains begin that the device comes back to, with their queues; none of them was walked.
    aside: Vec<(usize, DescriptorChain<GuestRam>)>,
}

/// A device's answer to one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes were written into the writable buffers.
    Used(u32),
    /// As `Used`, but the request was an offence.
    Failed(u32, Nonsense),
    /// None yet: the device comes back to the chain with [`Rings::revisit`], and says this of no chain that waits already.
    Later,
    /// None yet, nor to any chain behind it; the device sees to it that it has a turn then. Never said in a revisit.
    Wait,
}

impl Rings {
    pub(super) fn new(ram: GuestRam, queues: Vec<Option<Queue>>, let_go: Arc<LetGo>) -> Self {
        let rings = queues.into_iter().map(|queue| queue.map(Ring::new)).collect();
        let (broken, latest, aside) = (None, None, Vec::new());
        Rings { ram, rings, broken, refused: 0, latest, let_go, again: false, walked: 0, aside }
    }

    /// Serves the available chains of queue `index`, at most as many as the queue has descriptors; what is left then comes in
    /// the worker's next turn. Stops between two chains when the driver resets the device.
    pub fn drain(
        &mut self,
        index: usize,
        chain: &mut Chain,
        mut serve: impl FnMut(&GuestMemoryMmap<()>, &Chain) -> Answer,
    ) {
        // A queue that the driver did not make ready never has work: coming back to it would never end.
        if self.size(index) == 0 {
            return;
        }
        self.quiet(index);
        for _ in 0..self.size(index) {
            if self.let_go.is_set() {
                return;
            }
            if self.pop(index, chain) {
                match serve(&self.ram, chain) {
                    Answer::Used(len) => self.push(index, chain, len),
                    Answer::Failed(len, nonsense) => self.fail(index, chain, len, nonsense),
                    Answer::Later => self.put_aside(index, chain.head),
                    Answer::Wait => return self.unpop(index),
                }
            } else if self.listen(index) {
                self.quiet(index);
            } else {
                return;
            }
        }
        self.again();
    }

    /// Serves the chain of queue `index` at `head` that was put aside, read anew: the driver may have changed it. Does nothing
    /// when there is none, or when the driver resets the device.
    pub fn revisit(
        &mut self,
        index: usize,
        head: u16,
        chain: &mut Chain,
        serve: impl FnOnce(&GuestMemoryMmap<()>, &Chain) -> Answer,
    ) {
        let is_it = |(queue, raw): &(usize, DescriptorChain<GuestRam>)| {
            (*queue, raw.head_index()) == (index, head)
        };
        let Some(place) = self.aside.iter().position(is_it) else { return };
        if self.let_go.is_set() || self.broken.is_some() {
            return;
        }
        let (_, raw) = self.aside.swap_remove(place);
        if let Err(nonsense) = chain.fill(raw.clone(), &self.ram, self.size(index)) {
            return self.refuse(index, chain, nonsense);
        }
        match serve(&self.ram, chain) {
            Answer::Used(len) => self.push(index, chain, len),
            Answer::Failed(len, nonsense) => self.fail(index, chain, len, nonsense),
            Answer::Later | Answer::Wait => self.aside.push((index, raw)),
        }
    }

    /// Keeps where the chain popped last from queue `index` begins. It is taken from the available ring once more, in a form
    /// that can be kept: a driver that has changed what it made available is beyond repair.
    fn put_aside(&mut self, index: usize, head: u16) {
        let Some(Some(ring)) = self.rings.get_mut(index) else { return };
        ring.queue.go_to_previous_position();
        let heads = ring.queue.iter(Arc::clone(&self.ram));
        match heads.ok().and_then(|mut heads| heads.next()) {
            Some(raw) if raw.head_index() == head => self.aside.push((index, raw)),
            _ => self.break_off(Nonsense::AvailableIndex),
        }
    }

    /// Number of descriptors of queue `index`; 0 when the driver did not make it ready.
    pub fn size(&self, index: usize) -> u16 {
        self.rings.get(index).and_then(Option::as_ref).map_or(0, Ring::size)
    }

    /// Asks for another turn of the worker, after others had theirs.
    pub fn again(&mut self) {
        self.again = true;
    }

    /// True when the driver waits for a reset: return soon, what is done now is lost.
    pub fn let_go(&self) -> Arc<LetGo> {
        Arc::clone(&self.let_go)
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestMemoryMmap<()> {
        &self.ram
    }

    /// Takes the next chain of queue `index`. Chains that make no sense are given back with length 0 and counted; a ring that
    /// makes no sense yields nothing any more. After `WALKED_PER_TURN` descriptors there is none until the next turn: a queue
    /// full of chains, each as long as the queue, would otherwise hold up other devices for the square of its size.
    pub fn pop(&mut self, index: usize, chain: &mut Chain) -> bool {
        if self.size(index) == 0 {
            return false;
        }
        for _ in 0..self.size(index) {
            if self.broken.is_some() {
                return false;
            }
            if self.walked >= WALKED_PER_TURN {
                break;
            }
            let Some(Some(ring)) = self.rings.get_mut(index) else { return false };
            let popped = ring.pop(&self.ram, chain);
            self.walked = self.walked.saturating_add(chain.descriptors.into());
            match popped {
                Ok(found) => return found,
                Err(nonsense @ (Nonsense::AvailableIndex | Nonsense::Head)) => {
                    self.break_off(nonsense);
                }
                Err(nonsense) => self.refuse(index, chain, nonsense),
            }
        }
        self.again();
        false
    }

    /// Makes the chain popped last from queue `index` the next one again; only if it was not given back.
    pub fn unpop(&mut self, index: usize) {
        if let Some(Some(ring)) = self.rings.get_mut(index) {
            ring.queue.go_to_previous_position();
        }
    }

    /// Gives `chain` back to the driver, with `len` bytes written into its writable buffers.
    pub fn push(&mut self, index: usize, chain: &Chain, len: u32) {
        let Some(Some(ring)) = self.rings.get_mut(index) else { return };
        if let Err(nonsense) = ring.push(&self.ram, chain, len) {
            self.break_off(nonsense);
        }
    }

    /// Gives `chain` back unused, and counts why.
    pub fn refuse(&mut self, index: usize, chain: &Chain, nonsense: Nonsense) {
        self.fail(index, chain, 0, nonsense);
    }

    fn fail(&mut self, index: usize, chain: &Chain, len: u32, nonsense: Nonsense) {
        self.count(nonsense);
        self.push(index, chain, len);
    }

    /// Counts a request that was answered with an error of its own.
    pub fn count(&mut self, nonsense: Nonsense) {
        self.refused = self.refused.saturating_add(1);
        self.latest = Some(nonsense);
    }

    /// Asks the driver not to notify queue `index` while it is being worked on anyway.
    pub fn quiet(&mut self, index: usize) {
        if let Some(Some(ring)) = self.rings.get_mut(index) {
            // The ring's range was checked at activation, so this cannot fail; and it is only a hint.
            let _ = ring.queue.disable_notification(&*self.ram);
        }
    }

    /// Asks the driver to notify queue `index` again. True when buffers came in meanwhile: look once more.
    pub fn listen(&mut self, index: usize) -> bool {
        if self.broken.is_some() {
            return false;
        }
        match self.rings.get_mut(index) {
            Some(Some(ring)) => ring.queue.enable_notification(&*self.ram).unwrap_or(false),
            _ => false,
        }
    }

    /// Has the driver be told of queue `index`'s used buffers only along with another queue's, until they hold a quarter of the
    /// queue's descriptors, or until [`Rings::hurry`]. The device owes it that one of these happens soon: section 2.7.7.2
    /// says that the driver must be told, not when.
    pub fn relax(&mut self, index: usize) {
        if let Some(Some(ring)) = self.rings.get_mut(index) {
            ring.relaxed = true;
        }
    }

    /// Has the driver be told of queue `index`'s used buffers after this turn.
    pub fn hurry(&mut self, index: usize) {
        if let Some(Some(ring)) = self.rings.get_mut(index) {
            ring.relaxed = false;
        }
    }

    /// True when queue `index` has used buffers that the driver may not be told of after this turn.
    pub fn holds_back(&self, index: usize) -> bool {
        let ring = self.rings.get(index).and_then(Option::as_ref);
        ring.is_some_and(|ring| !ring.told && ring.can_wait())
    }

    fn break_off(&mut self, nonsense: Nonsense) {
        self.count(nonsense);
        self.broken.get_or_insert(nonsense);
    }

    /// What the transport has to act upon after the device worked.
    pub(super) fn settle(&mut self) -> Settled {
        self.walked = 0;
        let mut interrupt = false;
        for ring in self.rings.iter_mut().flatten().filter(|ring| !ring.can_wait()) {
            interrupt |= ring.wants_interrupt(&self.ram);
        }
        if interrupt {
            // A driver looks at all queues of the device when it is interrupted.
            for ring in self.rings.iter_mut().flatten() {
                ring.wants_interrupt(&self.ram);
            }
        }
        Settled {
            interrupt,
            broken: self.broken,
            refused: std::mem::take(&mut self.refused),
            latest: self.latest.take(),
            again: std::mem::take(&mut self.again),
        }
    }
}

/// Outcome of one turn of a device.
#[derive(Debug)]
pub(super) struct Settled {
    /// The driver is to be interrupted for used buffers.
    pub(super) interrupt: bool,
    /// A ring is beyond repair.
    pub(super) broken: Option<Nonsense>,
    /// Refused requests of this turn.
    pub(super) refused: u64,
    /// The latest reason.
    pub(super) latest: Option<Nonsense>,
    /// There is more to do.
    pub(super) again: bool,
}

/// Checks one queue's registers as the driver left them; the queue is ready for use when they hold.
pub(super) fn checked_queue(
    ram: &GuestMemoryMmap<()>,
    max: u16,
    size: u16,
    [descriptors, driver, device]: [u64; 3],
    event_idx: bool,
) -> Option<Queue> {
    // Address 0 is where x86 firmware data lives and what a driver that forgot to set an address leaves behind.
    if [descriptors, driver, device].contains(&0) {
        return None;
    }
    let mut queue = Queue::new(max).ok()?;
    queue.try_set_size(size).ok()?;
    queue.try_set_desc_table_address(GuestAddress(descriptors)).ok()?;
    queue.try_set_avail_ring_address(GuestAddress(driver)).ok()?;
    queue.try_set_used_ring_address(GuestAddress(device)).ok()?;
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    // virtio-queue checks the rings without the event index words at their ends (section 2.7.6 and 2.7.8).
    let entries = usize::from(size);
    let available_bytes = entries.checked_mul(2)?.checked_add(6)?;
    let used_bytes = entries.checked_mul(8)?.checked_add(6)?;
    let inside = |addr, bytes| {
        GuestMemory::check_range(ram, GuestAddress(addr), bytes, Permissions::ReadWrite)
    };
    let valid =
        queue.is_valid(ram) && inside(driver, available_bytes) && inside(device, used_bytes);
    valid.then_some(queue)
}

/// A flag by which the transport asks a worker to let go of its queues between two requests.
#[derive(Debug, Default)]
pub struct LetGo(AtomicBool);

impl LetGo {
    pub(super) fn set(&self, value: bool) {
        self.0.store(value, Ordering::Release);
    }

    /// True while a reset waits for the worker.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
