//! Requests that no disk can serve.

use super::Outcome;
use crate::Guest;
use crate::block::{Block, FLUSH, GET_ID, IN, IO_ERROR, OK, OUT, UNANSWERED};
use crate::layout::{DISK_SECTORS, MEMORY_BYTES};
use crate::machine;
use crate::queue::{NEXT, WRITE};
use crate::random::Random;
use crate::transport::{PATIENCE_TICKS, VERSION_1, status};

/// `VIRTIO_BLK_F_RO`.
const READ_ONLY: u64 = 1 << 5;

/// Sectors behind the end, across it, across 2^64; lengths that are no whole sectors.
pub(super) fn sectors(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut disk) = guest.devices.block.and_then(Block::start) else {
        return Outcome::Answers;
    };
    let wrong = [
        (DISK_SECTORS, 512),
        (DISK_SECTORS - 1, 1024),
        (DISK_SECTORS + 1, 512),
        (1 << 32, 512),
        (1 << 55, 512),
        ((1 << 55) - 1, 1024),
        (1 << 63, 512),
        (u64::MAX, 512),
        (u64::MAX - 1, 1024),
        (u64::MAX / 512, 4096),
    ];
    for (sector, bytes) in wrong {
        for kind in [IN, OUT] {
            let answer = disk.request(kind, sector, bytes);
            let refused = answer.is_some_and(|answer| answer != OK);
            guest.report.check(refused, "a request outside the disk is an error");
        }
    }
    for bytes in [1, 100, 511, 513] {
        let answer = disk.request(IN, 0, bytes);
        guest.report.check(answer.is_some(), "a part of a sector is answered");
    }
    guest.report.check(disk.reads(7), "the disk reads on without a reset");
    guest.report.check(disk.reads(DISK_SECTORS - 1), "the last sector is there");
    Outcome::Answers
}

/// Writes, flushes and discards to a disk that is read-only, whatever its features say.
pub(super) fn read_only(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.read_only else { return Outcome::Answers };
    for features in [VERSION_1, VERSION_1 | window.offered() & !READ_ONLY] {
        if !window.negotiate_with(features) {
            guest.report.fail("the read-only disk gets ready");
            break;
        }
        let queue = window.queue(0, 128);
        window.add_status(status::DRIVER_OK);
        let Some(mut disk) = queue.map(|queue| Block { queue }) else { break };
        for sector in [0, 1, DISK_SECTORS - 1, DISK_SECTORS, u64::MAX] {
            for kind in [OUT, 11, 13] {
                let answer = disk.request(kind, sector, 512);
                let refused = answer.is_some_and(|answer| answer != OK);
                guest.report.check(refused, "a read-only disk takes no write");
            }
            guest.report.check(disk.request(FLUSH, sector, 0).is_some(), "a flush is answered");
        }
        guest.report.check(disk.reads(0) && disk.reads(1), "the sectors are as they were");
    }
    Outcome::Answers
}

/// Request types that are unknown, not offered, or answered only with room for it.
pub(super) fn types(guest: &mut Guest<'_>) -> Outcome {
    let Some(mut disk) = guest.devices.block.and_then(Block::start) else {
        return Outcome::Answers;
    };
    for kind in (2..32).chain([255, 256, 0x8000_0000, u32::MAX]) {
        for bytes in [0, 1, 16, 512] {
            let answer = disk.request(kind, 0, bytes);
            let known = matches!(kind, FLUSH | GET_ID);
            let sensible = answer.is_some_and(|answer| known || answer != OK);
            guest.report.check(sensible, "an unknown request is refused");
        }
    }
    // A read and a write of nothing.
    for kind in [IN, OUT] {
        let answer = disk.request(kind, 0, 0);
        guest.report.check(answer.is_some(), "a request for nothing is answered");
    }
    guest.report.check(disk.reads(7), "the disk reads on without a reset");
    Outcome::Answers
}

/// Headers in pieces, too short, missing; no room for the status, or room in pieces.
pub(super) fn headers(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.block else { return Outcome::Answers };
    let [header, answer, data] = Block::places(window);
    let shapes: [&[(u64, u32, u16)]; 9] = [
        &[(header, 16, 0)],
        &[(answer, 1, WRITE)],
        &[(header, 8, 0), (answer, 1, WRITE)],
        &[(header, 15, 0), (data, 512, WRITE), (answer, 1, WRITE)],
        &[(header, 16, 0), (data, 512, WRITE)],
        &[(header, 16, 0), (data, 512, WRITE), (answer, 0, WRITE)],
        &[(header, 16, 0), (data, 511, WRITE), (answer, 2, WRITE)],
        &[(header, 16, WRITE), (data, 512, WRITE), (answer, 1, WRITE)],
        &[(header, 16, 0), (data, 512, 0), (answer, 1, 0)],
    ];
    for shape in shapes {
        let Some(mut disk) = Block::start(window) else {
            guest.report.fail("the disk gets ready again");
            break;
        };
        Block::header(window, IN, 0);
        disk.queue.chain(shape);
        disk.queue.offer(0);
        disk.queue.notify();
        disk.queue.wait_ticks(PATIENCE_TICKS / 50);
    }
    // The header and data a byte at a time, as layouts may be (section 2.7.4): this one is in order.
    let Some(mut disk) = Block::start(window) else { return Outcome::Answers };
    Block::header(window, IN, 3);
    let mut pieces = [(0, 0, 0); 48];
    for (at, piece) in (0..).zip(pieces.iter_mut()) {
        *piece = match at {
            0..16 => (header + at, 1, 0),
            16..47 => (data + (at - 16) * 16, 16, WRITE),
            _ => (data + 31 * 16, 17, WRITE),
        };
    }
    disk.queue.chain(&pieces);
    disk.queue.offer(0);
    disk.queue.notify();
    let answered = disk.queue.wait().is_some();
    let status = machine::read8(data + 512);
    guest.report.check(answered && status == OK, "a request in pieces is served");
    Outcome::Answers
}

/// As many descriptors as there are, each as large as can be, all in one place; writes from there.
pub(super) fn huge(guest: &mut Guest<'_>) -> Outcome {
    let Some(window) = guest.devices.block else { return Outcome::Answers };
    let mut random = Random::new(guest.command_line.seed);
    let [header, answer, data] = Block::places(window);
    for _ in 0..guest.command_line.times(20) {
        let Some(mut disk) = Block::start(window) else {
            guest.report.fail("the disk gets ready again");
            break;
        };
        let kind = if random.below(2) == 0 { IN } else { OUT };
        Block::header(window, kind, random.below(DISK_SECTORS));
        let flags = if kind == IN { WRITE } else { 0 };
        let len = random.one_of(&[512, 4096, 1 << 19, 1 << 20, MEMORY_BYTES - data]) as u32;
        let last = disk.queue.size - 1;
        for at in 0..=last {
            let (address, len, flags) = match at {
                0 => (header, 16, NEXT),
                _ if at == last => (answer, 1, WRITE),
                _ => (data, len, flags | NEXT),
            };
            disk.queue.set(at, crate::queue::Descriptor { address, len, flags, next: at + 1 });
        }
        disk.queue.offer(0);
        disk.queue.notify();
        let answered = disk.queue.wait().is_some();
        guest.report.check(answered, "a huge request is answered");
        let status = machine::read8(answer);
        guest
            .report
            .check(matches!(status, OK | IO_ERROR) || status == UNANSWERED, "with a status");
    }
    Outcome::Answers
}
