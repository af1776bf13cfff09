//! A guest without an operating system that drives a VMM's devices wrongly, and says what came of it.
//!
//! It is loaded as Linux is (an ELF file, 64-bit entry, `boot_params` in RSI), finds its virtio-mmio windows on the command
//! line, runs the one case that `hostile.case=` names, then asks every device for something ordinary. What it found goes out
//! in two ways: wrong facts as lines on the serial port, the counts over vsock to the host's port [`layout::PORT_REPORT`].
//! It ends through votive's exit port, or the keyboard controller's reset line that Firecracker listens to.
//!
//! All of it but a few instructions runs at privilege level 3, with every port and page allowed: a KVM that emulates kernel
//! code instruction by instruction runs user code as fast as any.

#![no_std]
#![cfg_attr(feature = "image", no_main)]

mod block;
mod cases;
mod command_line;
#[cfg(feature = "image")]
mod entry;
pub mod layout;
mod machine;
mod net;
mod queue;
mod random;
mod report;
mod rng;
mod second;
mod transport;
mod victim;
mod vsock;

use crate::cases::Outcome;
use crate::command_line::CommandLine;
use crate::report::Report;
use crate::transport::Devices;

/// Everything a case has.
#[derive(Debug)]
struct Guest<'a> {
    command_line: CommandLine<'a>,
    devices: Devices,
    report: Report,
}

/// Runs the case that the command line names, then looks whether all devices still answer, and ends the machine.
pub fn run(boot_params: u64) -> ! {
    let mut text = [0; layout::COMMAND_LINE_BYTES];
    let command_line = CommandLine::read(boot_params, &mut text);
    let devices = Devices::find(&command_line);
    let mut guest = Guest { command_line, devices, report: Report::default() };
    let Some(case) = cases::find(guest.command_line.case) else {
        guest.report.fail("the case is known");
        guest.report.line(&[guest.command_line.case]);
        machine::end(&guest.command_line, layout::CODE_UNKNOWN_CASE);
    };
    let outcome = case(&mut guest);
    if let Outcome::Silent(code) = outcome {
        machine::end(&guest.command_line, code);
    }
    guest.report.rest();
    cases::health(&mut guest);
    guest.report.finish(&guest.devices);
    let code = if guest.report.is_clean() { 0 } else { layout::CODE_FAILED };
    machine::end(&guest.command_line, code)
}
