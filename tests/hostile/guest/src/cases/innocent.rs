//! A guest that does what it is told, beside those that do not.

use super::Outcome;
use crate::Guest;
use crate::block::Block;
use crate::layout::{ORDER_OPERATIONS, PORT_ORDERS};
use crate::rng::Rng;
use crate::vsock::Vsock;

/// For each byte from the host: reads of the disk and of the entropy device, and a byte back that says whether all went well.
/// The end of the stream ends the machine.
pub(super) fn innocent(guest: &mut Guest<'_>) -> Outcome {
    let devices = guest.devices;
    let served = || {
        let mut disk = Block::start(devices.block?)?;
        let mut rng = Rng::start(devices.rng?)?;
        let mut vsock = Vsock::start(devices.vsock?)?;
        let mut stream = vsock.connect(PORT_ORDERS)?;
        let mut order = [0; 1];
        let mut sector = 0;
        loop {
            // The host takes its time, which is not for the guest to bound.
            let got = loop {
                match vsock.receive(&mut stream, &mut order) {
                    None => {}
                    Some(got) => break got,
                }
            };
            if got == 0 {
                return Some(());
            }
            let mut well = true;
            for _ in 0..ORDER_OPERATIONS / 2 {
                sector += 37;
                well &= disk.reads(sector) && rng.gives();
            }
            vsock.send(&mut stream, if well { b"y" } else { b"n" })?;
        }
    };
    guest.report.check(served().is_some(), "orders are served to their end");
    Outcome::Silent(u8::from(!guest.report.is_clean()))
}
