//! A device that was made ready as it should be, for a case to go on wrongly from there.

use crate::block::{Block, IN};
use crate::layout::DISK_SECTORS;
use crate::net::{FRAME_BYTES, HEADER_BYTES as NET_HEADER_BYTES, Net};
use crate::queue::{Descriptor, NEXT, Queue, WRITE};
use crate::rng::Rng;
use crate::transport::{PATIENCE_TICKS, Window, status, wait_for};
use crate::vsock::{HEADER_BYTES, PORT_OF_VICTIMS, Vsock, op};

/// Ticks that a device gets to react to what may have no answer: a tenth of a second.
const REACTION_TICKS: u64 = 300_000_000;

/// The device and the queue of it that takes requests.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) window: Window,
    pub(crate) queue: Queue,
    /// An ordinary request's descriptors.
    request: [Option<Descriptor>; 3],
}

impl Victim {
    /// Makes the device ready. `None` if it does not get ready, which is a finding.
    pub(crate) fn start(name: &'static str, window: Window) -> Option<Self> {
        let plain = |address, len, flags| Some(Descriptor { address, len, flags, next: 0 });
        let (queue, request) = match name {
            "block" | "read-only block" | "encrypted block" => {
                let [header, answer, data] = Block::places(window);
                // What a server has to be asked for takes another way through the device.
                let sector = if name == "read-only block" { DISK_SECTORS / 2 + 1 } else { 1 };
                Block::header(window, IN, sector);
                let request = [(header, 16, 0), (data, 512, WRITE), (answer, 1, WRITE)];
                (Block::start(window)?.queue, request.map(|(at, len, flags)| plain(at, len, flags)))
            }
            "rng" => {
                let queue = Rng::start(window)?.queue;
                (queue, [plain(queue.buffers(), 64, WRITE), None, None])
            }
            "vsock" => {
                let vsock = Vsock::start(window)?;
                let at = vsock.tx_buffer();
                vsock.header(PORT_OF_VICTIMS, PORT_OF_VICTIMS, op::RST).write(at);
                (vsock.tx, [plain(at, HEADER_BYTES, 0), None, None])
            }
            _ => {
                let queue = Net::start(window)?.tx;
                Net::write_frame(window, 0);
                let bytes = NET_HEADER_BYTES as u32 + FRAME_BYTES;
                (queue, [plain(Net::send_buffer(window), bytes, 0), None, None])
            }
        };
        Some(Self { window, queue, request })
    }

    /// Writes an ordinary request into descriptors 0 to 2; how many it takes.
    pub(crate) fn write_request(&self) -> u16 {
        let count = self.request.iter().flatten().count() as u16;
        for (at, descriptor) in (0..).zip(self.request.iter().flatten()) {
            let more = at + 1 < count;
            let flags = descriptor.flags | if more { NEXT } else { 0 };
            let next = if more { at + 1 } else { 0 };
            self.queue.set(at, Descriptor { flags, next, ..*descriptor });
        }
        count
    }

    /// The descriptor of the ordinary request at `at`; the last if there are fewer.
    pub(crate) fn descriptor(&self, at: usize) -> Descriptor {
        let all = self.request.iter().flatten();
        let none = Descriptor { address: 0, len: 0, flags: 0, next: 0 };
        all.take(at + 1).last().copied().unwrap_or(none)
    }

    /// Notifies the device, and waits until it gave something back, asked for a reset, or did neither for a while.
    pub(crate) fn provoke(&mut self) -> Reaction {
        self.provoke_within(REACTION_TICKS)
    }

    /// As [`Victim::provoke`] where something must come, on a host that may be busy.
    pub(crate) fn provoke_surely(&mut self) -> Reaction {
        self.provoke_within(PATIENCE_TICKS / 4)
    }

    fn provoke_within(&mut self, ticks: u64) -> Reaction {
        self.queue.notify();
        let (queue, window) = (self.queue, self.window);
        wait_for(ticks, || {
            queue.used() != queue.seen || window.status() & status::NEEDS_RESET != 0
        });
        let used = self.queue.pop();
        let needs_reset = self.window.status() & status::NEEDS_RESET != 0;
        Reaction { used, needs_reset }
    }

    /// Whether an ordinary request is answered without a reset before.
    pub(crate) fn answers(&mut self) -> bool {
        while self.queue.pop().is_some() {}
        self.write_request();
        self.queue.offer(0);
        self.queue.notify();
        self.queue.wait().is_some_and(|(head, _)| head == 0)
    }
}

/// What a device did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reaction {
    /// What it gave back: head and length.
    pub(crate) used: Option<(u32, u32)>,
    /// Whether it wants a reset.
    pub(crate) needs_reset: bool,
}
