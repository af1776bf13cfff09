//! What was found: counts of facts that held and that did not, the latter as lines on the serial port.

use crate::layout::PORT_REPORT;
use crate::machine;
use crate::transport::{Devices, wait_for};
use crate::vsock::Vsock;

/// The 16550's first port, and what a driver sets up: no interrupts, 8 bits, no loop.
const SERIAL: u16 = 0x3f8;
/// Lines of one run at most.
const LINES_MAX: u32 = 40;

/// How long a rest is, some hundredths of a second, and how many there are.
const REST_TICKS: u64 = 100_000_000;
const RESTS: u32 = 4;

/// The counts.
#[derive(Debug, Default)]
pub(crate) struct Report {
    held: u32,
    failed: u32,
    /// Facts that a VMM can be safe without, and that do not hold.
    lax: u32,
    lines: u32,
}

impl Report {
    /// A fact that holds, or not.
    pub(crate) fn check(&mut self, holds: bool, fact: &str) {
        if holds { self.held += 1 } else { self.fail(fact) }
    }

    /// As [`Report::check`] of a named part.
    pub(crate) fn check_of(&mut self, what: &str, holds: bool, fact: &str) {
        if holds {
            self.held += 1;
        } else {
            self.failed += 1;
            self.line(&["NOT: ", what, ": ", fact]);
        }
    }

    /// As [`Report::check_of`], of what a VMM can be safe without: it may be laxer than votive, and is told so.
    pub(crate) fn check_strict(&mut self, what: &str, holds: bool, fact: &str) {
        if holds {
            self.held += 1;
        } else {
            self.lax += 1;
            self.line(&["lax: ", what, ": ", fact]);
        }
    }

    /// A fact that does not hold.
    pub(crate) fn fail(&mut self, fact: &str) {
        self.failed += 1;
        self.line(&["NOT: ", fact]);
    }

    /// Whether all held.
    pub(crate) fn is_clean(&self) -> bool {
        self.failed == 0 && self.lax == 0
    }

    /// One line on the serial port, whatever was done to it before.
    pub(crate) fn line(&mut self, parts: &[&str]) {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return;
        }
        for (register, value) in [(3, 3), (1, 0), (4, 0)] {
            machine::out8(SERIAL + register, value);
        }
        for byte in ["hostile: "].iter().chain(parts).chain(&["\n"]).flat_map(|part| part.bytes()) {
            machine::out8(SERIAL, byte);
        }
    }

    /// Does nothing for a while, several times, and tells the host where each begins and ends: once a device has finished what the
    /// case gave it, it has nothing to do.
    pub(crate) fn rest(&mut self) {
        for _ in 0..RESTS {
            self.lines = 0;
            self.line(&["rest"]);
            wait_for(REST_TICKS, || false);
            self.line(&["rested"]);
        }
    }

    /// Tells the host the counts over vsock, and waits until it has heard.
    pub(crate) fn finish(&mut self, devices: &Devices) {
        let (mut held, mut failed, mut lax) = ([0; 10], [0; 10], [0; 10]);
        let (held, failed) = (decimal(self.held, &mut held), decimal(self.failed, &mut failed));
        let lax = decimal(self.lax, &mut lax);
        let mut text = [0; 64];
        let mut end = 0;
        for byte in ["held=", held, " failed=", failed, " lax=", lax, "\n"]
            .iter()
            .flat_map(|part| part.bytes())
        {
            text[end] = byte;
            end += 1;
        }
        let told = devices.vsock.and_then(|window| {
            let mut vsock = Vsock::start(window)?;
            let mut stream = vsock.connect(PORT_REPORT)?;
            vsock.send(&mut stream, &text[..end])?;
            let mut answer = [0; 1];
            (vsock.receive(&mut stream, &mut answer)? == 1).then_some(())
        });
        if told.is_none() {
            self.fail("the host takes the report");
        }
    }
}

/// A number's digits.
pub(crate) fn decimal(mut value: u32, digits: &mut [u8; 10]) -> &str {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return core::str::from_utf8(&digits[at..]).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_have_their_digits() {
        for (value, text) in [(0, "0"), (7, "7"), (4_294_967_295, "4294967295")] {
            assert_eq!(decimal(value, &mut [0; 10]), text);
        }
    }
}
