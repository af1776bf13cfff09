//! The cases by their names, and the look at every device afterwards.

use crate::Guest;
use crate::block::Block;
use crate::net::Net;
use crate::rng::Rng;
use crate::vsock::Vsock;

mod block;
mod buffers;
mod chains;
mod endings;
mod entropy;
mod frames;
mod innocent;
mod interrupts;
mod ports;
mod raced;
mod random;
mod registers;
mod resets;
mod rings;
mod serial;
mod sockets;
mod streams;

/// How a case leaves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All devices are to be looked at, and the counts told.
    Answers,
    /// The machine ends with this code and without a word.
    Silent(u8),
}

/// A case.
pub(crate) type Case = fn(&mut Guest<'_>) -> Outcome;

/// Every case. `tests/hostile/src/table.rs` says what is expected of each.
const CASES: &[(&str, Case)] = &[
    ("nothing", |_| Outcome::Answers),
    ("innocent", innocent::innocent),
    ("registers-after-driver-ok", registers::after_driver_ok),
    ("queue-sizes", registers::queue_sizes),
    ("ring-addresses", registers::ring_addresses),
    ("status-bits", registers::status_bits),
    ("features-never-offered", registers::features),
    ("config-writes", registers::config_writes),
    ("odd-accesses", registers::odd_accesses),
    ("between-windows", registers::between_windows),
    ("selectors", registers::selectors),
    ("notify-before-ready", registers::notify_before_ready),
    ("notify-flood", registers::notify_flood),
    ("interrupt-acknowledge", interrupts::acknowledge),
    ("ioapic-registers", interrupts::ioapic),
    ("local-apic-registers", interrupts::local_apic),
    ("reset-in-flight", resets::in_flight),
    ("reset-flood", resets::flood),
    ("rings-overwritten", resets::overwritten),
    ("available-index-jumps", rings::available_jumps),
    ("head-out-of-range", rings::heads),
    ("heads-offered-twice", rings::twice),
    ("rings-overlap", rings::overlap),
    ("rings-changed-in-flight", rings::changed_in_flight),
    ("descriptor-loops", chains::loops),
    ("next-out-of-range", chains::next),
    ("indirect-descriptors", chains::indirect),
    ("buffer-addresses", buffers::addresses),
    ("buffer-lengths", buffers::lengths),
    ("buffer-directions", buffers::directions),
    ("buffers-in-rings", buffers::in_rings),
    ("block-sectors", block::sectors),
    ("block-read-only", block::read_only),
    ("block-types", block::types),
    ("block-headers", block::headers),
    ("block-huge", block::huge),
    ("rng-huge", entropy::huge),
    ("rng-flood", entropy::flood),
    ("vsock-lengths", sockets::lengths),
    ("vsock-addresses", sockets::addresses),
    ("vsock-operations", sockets::operations),
    ("vsock-reset-flood", sockets::reset_flood),
    ("vsock-connect-storm", sockets::connect_storm),
    ("vsock-refused-storm", sockets::refused_storm),
    ("vsock-receive-buffers", sockets::receive_buffers),
    ("vsock-event-queue", sockets::event_queue),
    ("vsock-credit", streams::credit),
    ("vsock-overrun", streams::overrun),
    ("vsock-half-closed", streams::half_closed),
    ("vsock-reset-while-open", streams::reset_while_open),
    ("net-lengths", frames::lengths),
    ("net-headers", frames::headers),
    ("net-addresses", frames::addresses),
    ("net-flood", frames::flood),
    ("net-receive-buffers", frames::receive_buffers),
    ("serial-flood", serial::flood),
    ("serial-flood-unread", serial::flood_unread),
    ("serial-registers", serial::registers),
    ("port-reads", ports::reads),
    ("port-writes", ports::writes),
    ("port-strings", ports::strings),
    ("mark-flood", ports::marks),
    ("registers-raced", raced::registers),
    ("rings-raced", raced::rings),
    ("random", random::random),
    ("own-code-rewritten", endings::own_code),
    ("triple-fault", endings::triple_fault),
    ("halt-without-interrupts", endings::halt),
    ("endless-loop", endings::endless),
    ("execute-device", endings::execute_device),
    ("execute-nothing", endings::execute_nothing),
    ("keyboard-reset", endings::keyboard_reset),
    ("exit-code", endings::exit_code),
];

/// The case called `name`.
pub(crate) fn find(name: &str) -> Option<Case> {
    CASES.iter().find(|(known, _)| *known == name).map(|(_, case)| *case)
}

/// Resets each device and asks it for something ordinary.
pub(crate) fn health(guest: &mut Guest<'_>) {
    for (name, window) in guest.devices.all() {
        let healthy = match name {
            "block" | "read-only block" | "encrypted block" => {
                Block::start(window).is_some_and(|mut disk| disk.reads(1) && disk.reads(99))
            }
            "rng" => Rng::start(window).is_some_and(|mut rng| rng.gives()),
            "vsock" => Vsock::start(window).is_some_and(|mut vsock| vsock.echoes()),
            _ => Net::start(window).is_some_and(|mut net| net.echoes()),
        };
        guest.report.check_of(name, healthy, "answers an ordinary request after a reset");
    }
}
