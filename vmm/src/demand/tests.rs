//! Facts about memory that is filled on demand.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, mpsc};
use std::thread;

use event_manager::{EventManager, SubscriberOps};

use vm_memory::{Bytes, GuestAddress};

use super::{DemandError, Loading, prepare, runs};
use crate::memory::{GuestRam, LowMemory};
use crate::userfault::Userfault;

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 33 * MIB;

fn pattern(at: u64) -> u8 {
    (at % 251) as u8 ^ (at >> 12) as u8 | 1
}

fn patterned(bytes: u64) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..bytes).map(pattern).collect::<Vec<_>>()).unwrap();
    Arc::new(file)
}

fn memory() -> GuestRam {
    GuestRam::map(MEMORY, LowMemory::HugePage).unwrap().deferring()
}

/// Fills memory on a thread of its own, which tells how that went before anybody else hears of it.
pub(crate) fn start(
    ram: &mut GuestRam,
    tell: impl Fn(Result<(), DemandError>) + Send + 'static,
) -> Loading {
    let userfault = Userfault::open_for_own_accesses().unwrap();
    let done = move |filled| {
        tell(filled);
        true
    };
    let Some((loader, loading)) = prepare(userfault, ram.take_deferred(), done).unwrap() else {
        return Loading::default();
    };
    thread::spawn(|| {
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(loader);
        events.run().unwrap();
    });
    loading
}

fn loading(ram: &mut GuestRam) -> Loading {
    start(ram, |filled| filled.unwrap())
}

fn contents(ram: &GuestRam) -> Vec<u8> {
    let mut seen = vec![0; MEMORY as usize];
    ram.shared().read_slice(&mut seen, GuestAddress(0)).unwrap();
    seen
}

/// Pieces in one block and across blocks, over one another, up to the end of memory in half a block.
fn put(ram: &GuestRam, file: &Arc<File>) {
    ram.write(0x7000, &[0xaa; 0x1234]).unwrap();
    ram.copy_in(file, 0x123, 3 * MIB + 0x777, 4 * MIB).unwrap();
    ram.copy_in(file, 0, 16 * MIB, 2 * MIB).unwrap();
    ram.write(16 * MIB + 0x1fff, &[0xbb; 2]).unwrap();
    ram.write(20 * MIB - 3, &[0xcc; 6]).unwrap();
    // Mapped beside: whole huge pages of the file, then ragged ones.
    ram.place(file, 0, 22 * MIB, 4 * MIB).unwrap();
    ram.place(file, 0x1000, 26 * MIB + 0x1000, 0x2345).unwrap();
    ram.copy_in(file, 5, 31 * MIB, 2 * MIB).unwrap();
}

#[test]
fn memory_filled_on_demand_is_what_memory_filled_at_once_is_whoever_looks_first() {
    let file = patterned(6 * MIB);
    let at_once = GuestRam::map(MEMORY, LowMemory::HugePage).unwrap();
    put(&at_once, &file);
    let expected = contents(&at_once);
    for round in 0..4 {
        let mut ram = memory();
        put(&ram, &file);
        let loading = loading(&mut ram);
        // Readers at many places at once, each from a place of its own; some write where nothing is to be.
        thread::scope(|scope| {
            for reader in 0..4 {
                let (ram, expected) = (ram.shared(), &expected);
                scope.spawn(move || {
                    for step in 0..MEMORY / 4096 {
                        let page = (step * 1031 + reader * 2111 + round * 577) % (MEMORY / 4096);
                        let mut seen = [0; 4096];
                        ram.read_slice(&mut seen, GuestAddress(page * 4096)).unwrap();
                        let at = (page * 4096) as usize;
                        assert!(seen == expected[at..at + 4096], "page {page:#x}");
                    }
                });
            }
        });
        loading.wait();
        assert!(contents(&ram) == expected, "round {round}");
    }
}

#[test]
fn a_write_by_whoever_waited_for_the_memory_stays() {
    let file = patterned(6 * MIB);
    let mut ram = memory();
    put(&ram, &file);
    let loading = loading(&mut ram);
    for block in (0..MEMORY / (2 * MIB)).rev() {
        ram.shared().write_obj(0x5a_u8, GuestAddress(block * 2 * MIB + 0x1800)).unwrap();
    }
    loading.wait();
    for block in 0..MEMORY / (2 * MIB) {
        let byte: u8 = ram.shared().read_obj(GuestAddress(block * 2 * MIB + 0x1800)).unwrap();
        assert_eq!(byte, 0x5a, "block {block}");
    }
}

#[test]
fn a_file_that_was_cut_meanwhile_is_an_error_and_nobody_sees_zeroes_instead() {
    let file = patterned(MIB);
    let mut ram = memory();
    ram.copy_in(&file, 0, 16 * MIB, MIB).unwrap();
    let (tell, told) = mpsc::channel();
    let loading = start(&mut ram, move |filled| tell.send(filled.unwrap_err()).unwrap());
    file.set_len(MIB - 1).unwrap();
    let (read, done) = mpsc::channel();
    let shared = ram.shared().clone();
    // It sleeps for as long as the process lives.
    thread::spawn(move || read.send(shared.read_obj::<u8>(GuestAddress(16 * MIB)).unwrap()));
    let error = told.recv().unwrap();
    assert!(matches!(error, DemandError::Read { bytes: 0x10_0000, .. }), "{error}");
    assert!(done.try_recv().is_err());
    // Nobody is told that memory is whole.
    thread::spawn(move || {
        loading.wait();
        panic!("it is not whole");
    });
    assert!(done.recv_timeout(std::time::Duration::from_millis(50)).is_err());
}

#[test]
fn nothing_to_fill_needs_no_loader() {
    let mut ram = memory();
    let loading = loading(&mut ram);
    loading.wait();
    assert!(contents(&ram).iter().all(|byte| *byte == 0));
}

#[test]
fn adjacent_blocks_are_registered_together() {
    let block = 2 * MIB;
    let starts = [0, block, 8 * block, 9 * block, 10 * block, 20 * block];
    let expected = [(0, 2 * block), (8 * block, 3 * block), (20 * block, block)];
    assert_eq!(runs(starts.into_iter()), expected);
}
