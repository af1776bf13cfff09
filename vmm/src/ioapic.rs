//! The IOAPIC (Intel 82093AA): interrupt lines in, messages to local APICs out, as the guest's redirection table says.
//!
//! KVM has one of its own, but only together with two PICs, and Linux believes a PC that has PICs to be wired like one: it
//! then reads and rewrites all 24 pins before it uses any. Even without PICs it saves and restores every pin once, so there
//! are no more of them here than are wired: both together save some 560 exits of a boot. KVM keeps the local APICs, so an
//! interrupt is still one call that makes no vCPU leave the guest.
//!
//! All lines are edge-triggered, whatever the guest asks for. What arrives at a masked pin is kept, once, until the guest
//! unmasks it. The guest may write anything: an entry is a number, and only its own vCPUs ever see a message.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::virtio::Interrupt;

/// Most pins that the registers' numbers leave room for.
pub const MAX_PINS: usize = 24;

/// Offsets of the two registers that all others are reached through.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Indices behind them. Each pin has two, from [`TABLE`] on.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const TABLE: u8 = 0x10;

/// Version 0x11, which has no end-of-interrupt register.
const VERSION_VALUE: u32 = 0x11;
const LAST_PIN_SHIFT: u32 = 16;
const ID_BITS: u32 = 0x0f00_0000;
const NOTHING: u32 = u32::MAX;

const VECTOR: u64 = 0xff;
const DELIVERY_SHIFT: u32 = 8;
const DELIVERY: u64 = 7;
const LOGICAL: u64 = 1 << 11;
/// Delivery status and remote IRR: an edge is delivered at once, so both always read as 0.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;
const MASKED: u64 = 1 << 16;
const DESTINATION_SHIFT: u32 = 56;

const FIXED: u64 = 0;
const LOWEST_PRIORITY: u64 = 1;

/// Where messages to local APICs go, and the bits of such an address (Intel SDM volume 3, "Message Signalled Interrupts").
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;
const MESSAGE_REDIRECT: u32 = 1 << 3;
const MESSAGE_LOGICAL: u32 = 1 << 2;

/// A message to the local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Which of them, and how they are named.
    pub address: u32,
    /// Vector and delivery mode.
    pub data: u32,
}

/// The IOAPIC of one machine.
pub struct Ioapic {
    registers: Mutex<Registers>,
    send: Box<dyn Fn(Message) + Send + Sync>,
}

struct Registers {
    select: u8,
    id: u32,
    entries: Vec<u64>,
    /// A bit for each masked pin at which something arrived.
    kept: u32,
}

impl fmt::Debug for Ioapic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ioapic").finish_non_exhaustive()
    }
}

impl Ioapic {
    /// The first `pins` of [`MAX_PINS`], at least one, all masked; messages go to `send`, from any thread.
    #[must_use]
    pub fn new(pins: usize, send: impl Fn(Message) + Send + Sync + 'static) -> Self {
        let entries = vec![MASKED; pins.clamp(1, MAX_PINS)];
        let registers = Registers { select: 0, id: 0, entries, kept: 0 };
        Self { registers: Mutex::new(registers), send: Box::new(send) }
    }

    /// The guest reads `data` at `offset` of the page.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let registers = self.lock();
        let value = match offset {
            SELECT => u32::from(registers.select),
            WINDOW => registers.read(),
            _ => NOTHING,
        };
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) => *word = value.to_le_bytes(),
            Err(_) => data.fill(u8::MAX),
        }
    }

    /// The guest writes `data` at `offset` of the page.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let Ok(word) = <[u8; 4]>::try_from(data) else { return };
        let mut registers = self.lock();
        let due = match offset {
            SELECT => {
                registers.select = word[0];
                None
            }
            WINDOW => registers.write(u32::from_le_bytes(word)),
            _ => None,
        };
        drop(registers);
        due.into_iter().for_each(&self.send);
    }

    /// Something arrives at `pin`. A pin that does not exist is wired to nothing.
    pub fn raise(&self, pin: usize) {
        let due = self.lock().raise(pin);
        due.into_iter().for_each(&self.send);
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registers {
    /// The pin that the selected register belongs to, and whether it is the upper half.
    fn selected(&self) -> Option<(usize, bool)> {
        let at = self.select.checked_sub(TABLE)?;
        let pin = usize::from(at / 2);
        (pin < self.entries.len()).then_some((pin, at % 2 == 1))
    }

    fn read(&self) -> u32 {
        match (self.select, self.selected()) {
            (ID | ARBITRATION, _) => self.id,
            (VERSION, _) => VERSION_VALUE | (self.entries.len() as u32 - 1) << LAST_PIN_SHIFT,
            (_, Some((pin, upper))) => (self.entries[pin] >> if upper { 32 } else { 0 }) as u32,
            _ => NOTHING,
        }
    }

    fn write(&mut self, value: u32) -> Option<Message> {
        if self.select == ID {
            self.id = value & ID_BITS;
        }
        let (pin, upper) = self.selected()?;
        let (shift, other) =
            if upper { (32, u64::from(u32::MAX)) } else { (0, !u64::from(u32::MAX)) };
        self.entries[pin] = (self.entries[pin] & other | u64::from(value) << shift) & !READ_ONLY;
        let kept = self.kept & 1 << pin != 0 && self.entries[pin] & MASKED == 0;
        if kept { self.raise(pin) } else { None }
    }

    fn raise(&mut self, pin: usize) -> Option<Message> {
        let entry = *self.entries.get(pin)?;
        if entry & MASKED != 0 {
            self.kept |= 1 << pin;
            return None;
        }
        self.kept &= !(1 << pin);
        message(entry)
    }
}

/// What an entry says. Other deliveries than to a vector, such as a reset of a vCPU, no device of ours asks for.
fn message(entry: u64) -> Option<Message> {
    let delivery = entry >> DELIVERY_SHIFT & DELIVERY;
    if !matches!(delivery, FIXED | LOWEST_PRIORITY) {
        return None;
    }
    let destination = (entry >> DESTINATION_SHIFT) as u32;
    let mut address = MESSAGE_ADDRESS | destination << MESSAGE_DESTINATION_SHIFT;
    if entry & LOGICAL != 0 {
        address |= MESSAGE_LOGICAL;
    }
    if delivery == LOWEST_PRIORITY {
        address |= MESSAGE_REDIRECT;
    }
    Some(Message { address, data: (entry & (VECTOR | DELIVERY << DELIVERY_SHIFT)) as u32 })
}

/// One line into an IOAPIC.
#[derive(Debug, Clone)]
pub struct Line {
    /// The IOAPIC.
    pub ioapic: Arc<Ioapic>,
    /// Its pin.
    pub pin: u32,
}

impl Interrupt for Line {
    fn raise(&self) {
        self.ioapic.raise(self.pin as usize);
    }
}

#[cfg(test)]
mod tests;
