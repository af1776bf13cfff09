//! Every case and what is expected of it.

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every device answers afterwards, every fact holds, and the guest powers off.
    Answers,
    /// The VMM ends with this exit code, and its last line holds this text.
    Ends {
        /// The process's exit code.
        code: i32,
        /// Part of the reason on standard error.
        reason: &'static str,
    },
    /// As `Answers`, told by the exit code alone: nobody reads what the guest says.
    AnswersUnheard,
    /// Only the deadline ends it.
    Deadline,
}

impl Case {
    /// How many processors the guest has.
    #[must_use]
    pub fn vcpus(&self) -> u8 {
        if self.name.ends_with("-raced") { 2 } else { 1 }
    }

    /// Whether the case is about an interface that votive alone has: its exit port, no keyboard
    /// controller, a network device over any socket (Firecracker's needs a tap of its host).
    #[must_use]
    pub fn is_of_votive_alone(&self) -> bool {
        matches!(self.name, "exit-code" | "keyboard-reset" | "mark-flood")
            || self.name.starts_with("net-")
    }
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, by which the guest knows it, too.
    pub name: &'static str,
    /// What votive must make of it.
    pub expected: Expected,
    /// What the guest does.
    pub what: &'static str,
}

const fn answers(name: &'static str, what: &'static str) -> Case {
    Case { name, expected: Expected::Answers, what }
}

const fn ends(name: &'static str, code: i32, reason: &'static str, what: &'static str) -> Case {
    Case { name, expected: Expected::Ends { code, reason }, what }
}

/// All cases, in the order of the table.
pub const CASES: &[Case] = &[
    answers("nothing", "nothing but the look at every device that follows each case"),
    answers(
        "registers-after-driver-ok",
        "rewrites sizes, addresses, readiness and features of running queues",
    ),
    answers(
        "queue-sizes",
        "sizes of 0, 65,535, 65,536, 2^32 - 1 and no power of two; queues that are not there",
    ),
    answers(
        "ring-addresses",
        "rings at 0, outside memory, at its end, across 2^64, unaligned, in a window",
    ),
    answers(
        "status-bits",
        "takes bits away without a reset, adds them out of order, writes every value",
    ),
    answers(
        "features-never-offered",
        "accepts bits that nobody offered, leaves out the current version",
    ),
    answers("config-writes", "writes every byte of the configuration spaces in every width"),
    answers(
        "odd-accesses",
        "accesses of 1, 2 and 8 bytes, unaligned and across the end, at every offset",
    ),
    answers("between-windows", "accesses where there is neither a device nor memory"),
    answers("selectors", "selects queues and features beyond all and writes every register"),
    answers("notify-before-ready", "notifies devices that have no driver, in each state"),
    answers(
        "notify-flood",
        "notifications by the hundred thousand, also of queues that are not there",
    ),
    answers(
        "interrupt-acknowledge",
        "acknowledges what is not there, or nothing for hundreds of requests",
    ),
    answers(
        "ioapic-registers",
        "every index with every kind of entry while devices raise their lines",
    ),
    answers(
        "local-apic-registers",
        "every register of the local APIC, TSC deadlines of 0, 1 and never",
    ),
    answers("reset-in-flight", "resets devices with full queues and large transfers under way"),
    answers("reset-flood", "resets and half-finished set-ups by the thousand"),
    answers("rings-overwritten", "scribbles over rings and descriptors while the device works"),
    answers(
        "available-index-jumps",
        "moves the available index by more than the queue, and backwards",
    ),
    answers(
        "head-out-of-range",
        "offers heads outside the table, and goes on after the request for a reset",
    ),
    answers("heads-offered-twice", "offers one chain as often as the queue has places"),
    answers("rings-overlap", "puts rings on top of each other, and all queues in one place"),
    answers(
        "rings-changed-in-flight",
        "flips descriptors between good and bad while the device reads them",
    ),
    answers(
        "descriptor-loops",
        "chains that lead back to themselves, of full and of empty buffers",
    ),
    answers("next-out-of-range", "chains that leave their table"),
    answers(
        "indirect-descriptors",
        "indirect tables, which are not offered: good, cut, endless, nested, outside memory",
    ),
    answers("buffer-addresses", "buffers outside memory, at its end, across 2^64, in a window"),
    answers("buffer-lengths", "lengths of 0, beyond memory, of 2^32 - 1, and sums beyond 2^32"),
    answers(
        "buffer-directions",
        "readable where the device writes, writable where it reads, in every mixture",
    ),
    answers("buffers-in-rings", "has the device write to the rings themselves"),
    answers("block-sectors", "sectors behind the end, across it and across 2^64, parts of sectors"),
    answers(
        "block-read-only",
        "writes, discards and flushes to a read-only disk, whatever was agreed",
    ),
    answers("block-types", "unknown requests, with and without room for an answer"),
    answers("block-headers", "headers cut, missing and in pieces, no room for the status"),
    answers("block-huge", "as many descriptors as there are, each up to all of memory"),
    answers("rng-huge", "requests of tens of MiB, alone and chained"),
    answers("rng-flood", "full queues of large requests without end"),
    answers("vsock-lengths", "packets that claim more than they have, headers cut and in pieces"),
    answers(
        "vsock-addresses",
        "packets from nobody, for nobody, of no type, with ports of 0 and 2^32 - 1",
    ),
    answers("vsock-operations", "every operation on streams that are there and that are not"),
    answers("vsock-reset-flood", "resets of streams that never were, by the thousand"),
    answers("vsock-connect-storm", "connections by the thousand, with and without receive buffers"),
    answers("vsock-refused-storm", "the same to a port that nobody listens on"),
    answers(
        "vsock-receive-buffers",
        "receive buffers too small for a header, not writable, endless, outside memory",
    ),
    answers("vsock-event-queue", "anything in the event queue"),
    answers("vsock-credit", "lies about buffer sizes and consumed bytes"),
    answers(
        "vsock-overrun",
        "data far beyond credit, to a peer that reads nothing, on many streams",
    ),
    answers("vsock-half-closed", "data, requests and ends after an end was announced"),
    answers("vsock-reset-while-open", "device resets with streams open and data under way"),
    answers(
        "net-lengths",
        "frames of 0 to 31 bytes, beyond the MTU, of half a MiB, a byte at a time",
    ),
    answers("net-headers", "offload headers with anything in them"),
    answers("net-addresses", "frames from others' addresses, of every protocol, of noise"),
    answers("net-flood", "full send queues without end, answers that nobody collects"),
    answers(
        "net-receive-buffers",
        "receive buffers too small, not writable, endless, outside memory",
    ),
    answers("serial-flood", "a hundred thousand bytes of console output"),
    Case {
        name: "serial-flood-unread",
        expected: Expected::AnswersUnheard,
        what: "the same into a pipe that nobody reads",
    },
    answers("serial-registers", "every register with anything, a loop that is never emptied"),
    answers("port-reads", "reads of 1, 2 and 4 bytes from all 65,536 ports"),
    answers("port-writes", "writes of 1, 2 and 4 bytes to all ports but those that end a microVM"),
    answers("port-strings", "string instructions of up to 3,000 bytes"),
    answers("mark-flood", "marks by the ten thousand"),
    answers("keyboard-reset", "the keyboard controller's reset, which is nobody's port here"),
    answers("own-code-rewritten", "calls code that it rewrites before each call"),
    answers(
        "registers-raced",
        "a second processor writes registers and resets while the first drives the device",
    ),
    answers(
        "rings-raced",
        "a second processor rewrites rings and descriptors while the device reads them",
    ),
    answers("random", "random steps of all kinds, from a seed"),
    ends("triple-fault", 3, "triple fault on vcpu 0", "an exception without handlers"),
    ends("exit-code", 3, "guest stopped with code 77", "ends with a code of its own"),
    ends("execute-device", 4, "vcpu 0 failed: ", "executes a device's registers"),
    ends("execute-nothing", 4, "vcpu 0 failed: ", "executes where there is nothing"),
    Case {
        name: "halt-without-interrupts",
        expected: Expected::Deadline,
        what: "a halt that nothing ends",
    },
    Case {
        name: "endless-loop",
        expected: Expected::Deadline,
        what: "a loop that never leaves the guest",
    },
];

#[cfg(test)]
mod tests {
    use super::CASES;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
    }

    #[test]
    fn the_document_has_a_line_for_each_case() {
        let document = include_str!("../../../docs/hostile.md");
        for case in CASES {
            assert!(
                document.contains(&format!("| {} | {} |", case.name, case.what)),
                "{}",
                case.name
            );
        }
    }
}
