//! Where a guest's port and memory accesses go: data in, data or an [`Action`] out.
//!
//! Ports: marks, the exit port, the serial port if there is one. Memory: the IOAPIC and the virtio-mmio windows.
//! Anything else reads as ones, ignores writes and is counted, as on a bus where nobody answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::console::Console;
use crate::demand::Loading;
use crate::exit::ExitReason;
use crate::ioapic::Ioapic;
use crate::layout::{EXIT_PORT, IOAPIC, MARK_PORT, MMIO_BASE, MMIO_WINDOW_BYTES, SERIAL_PORT};
use crate::marks::Marks;
use crate::virtio::MmioDevice;

const SERIAL_PORTS: u16 = 8;
const IOAPIC_BYTES: u64 = 0x1000;
const NOBODY: u8 = 0xff;

/// What a vCPU does after an access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Go on.
    Continue,
    /// End the microVM.
    End(ExitReason),
}

/// All that answers the guest.
#[derive(Debug)]
pub struct Bus {
    marks: Marks,
    ioapic: Arc<Ioapic>,
    console: Option<Console>,
    devices: Vec<Arc<MmioDevice>>,
    loading: Loading,
    unanswered: AtomicU64,
}

impl Bus {
    /// A bus with these on it; device i is at window i.
    #[must_use]
    pub fn new(
        marks: Marks,
        ioapic: Arc<Ioapic>,
        console: Option<Console>,
        devices: Vec<Arc<MmioDevice>>,
        loading: Loading,
    ) -> Self {
        Self { marks, ioapic, console, devices, loading, unanswered: AtomicU64::new(0) }
    }

    /// The marks of this microVM.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The devices, in the order of their windows.
    #[must_use]
    pub fn devices(&self) -> &[Arc<MmioDevice>] {
        &self.devices
    }

    /// Accesses that nobody answered.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Bytes of console output that were dropped.
    #[must_use]
    pub fn dropped_console_bytes(&self) -> u64 {
        self.console.as_ref().map_or(0, Console::dropped_bytes)
    }

    /// The guest reads `data` from port `port`.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        match (self.serial(port), data) {
            (Some((console, offset)), [byte, rest @ ..]) => {
                *byte = console.read(offset);
                rest.fill(NOBODY);
            }
            (_, data) => {
                self.count_unanswered();
                data.fill(NOBODY);
            }
        }
    }

    /// The guest writes `data` to port `port`: one byte, or several of a string instruction.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Action {
        match (port, self.serial(port)) {
            (MARK_PORT, _) => {
                self.loading.wait();
                data.iter().for_each(|value| self.marks.guest(*value));
            }
            (EXIT_PORT, _) => {
                return match data.first() {
                    None | Some(0) => Action::End(ExitReason::PoweredOff),
                    Some(code) => Action::End(ExitReason::GuestStopped { code: *code }),
                };
            }
            (_, Some((console, offset))) => {
                data.iter().for_each(|value| console.write(offset, *value));
            }
            _ => self.count_unanswered(),
        }
        Action::Continue
    }

    /// The guest reads `data` from `gpa`, where there is no memory.
    pub fn read_memory(&self, gpa: u64, data: &mut [u8]) {
        match (self.device(gpa), ioapic_offset(gpa)) {
            (Some((device, offset)), _) => device.read(offset, data),
            (None, Some(offset)) => self.ioapic.read(offset, data),
            (None, None) => {
                self.count_unanswered();
                data.fill(NOBODY);
            }
        }
    }

    /// The guest writes `data` to `gpa`, where there is no memory.
    pub fn write_memory(&self, gpa: u64, data: &[u8]) {
        match (self.device(gpa), ioapic_offset(gpa)) {
            (Some((device, offset)), _) => device.write(offset, data),
            (None, Some(offset)) => self.ioapic.write(offset, data),
            (None, None) => self.count_unanswered(),
        }
    }

    fn serial(&self, port: u16) -> Option<(&Console, u8)> {
        let offset = port.checked_sub(SERIAL_PORT).filter(|offset| *offset < SERIAL_PORTS)?;
        Some((self.console.as_ref()?, offset as u8))
    }

    fn device(&self, gpa: u64) -> Option<(&MmioDevice, u64)> {
        let offset = gpa.checked_sub(MMIO_BASE)?;
        let index = usize::try_from(offset / MMIO_WINDOW_BYTES).ok()?;
        let device = self.devices.get(index)?;
        self.loading.wait();
        Some((device, offset % MMIO_WINDOW_BYTES))
    }

    fn count_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }
}

fn ioapic_offset(gpa: u64) -> Option<u64> {
    gpa.checked_sub(u64::from(IOAPIC)).filter(|offset| *offset < IOAPIC_BYTES)
}

#[cfg(test)]
mod tests;
