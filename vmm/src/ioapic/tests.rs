//! Facts about the IOAPIC, as its guest and its devices see it.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::{Ioapic, Line, MASKED, MAX_PINS, Message};
use crate::virtio::Interrupt;

struct Rig {
    ioapic: Arc<Ioapic>,
    sent: Arc<Mutex<Vec<Message>>>,
}

fn rig() -> Rig {
    rig_of(MAX_PINS)
}

fn rig_of(pins: usize) -> Rig {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let ioapic = Ioapic::new(pins, move |message| log.lock().unwrap().push(message));
    Rig { ioapic: Arc::new(ioapic), sent }
}

impl Rig {
    fn get(&self, register: u8) -> u32 {
        let mut value = [0; 4];
        self.ioapic.write(0, &u32::from(register).to_le_bytes());
        self.ioapic.read(0x10, &mut value);
        u32::from_le_bytes(value)
    }

    fn set(&self, register: u8, value: u32) {
        self.ioapic.write(0, &u32::from(register).to_le_bytes());
        self.ioapic.write(0x10, &value.to_le_bytes());
    }

    fn entry(&self, pin: u8, entry: u64) {
        self.set(0x11 + 2 * pin, (entry >> 32) as u32);
        self.set(0x10 + 2 * pin, entry as u32);
    }

    fn sent(&self) -> Vec<Message> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

#[test]
fn a_line_becomes_the_message_that_its_entry_says() {
    let rig = rig();
    rig.entry(5, 3 << 56 | 0x31);
    rig.entry(6, 1 << 56 | 1 << 11 | 1 << 8 | 0x42);
    for pin in [5, 6] {
        Line { ioapic: Arc::clone(&rig.ioapic), pin }.raise();
    }
    let fixed = Message { address: 0xfee0_3000, data: 0x31 };
    let lowest = Message { address: 0xfee0_100c, data: 0x142 };
    assert_eq!(rig.sent(), [fixed, lowest]);
}

#[test]
fn what_arrives_at_a_masked_pin_is_kept_once_until_it_is_unmasked() {
    let rig = rig();
    rig.ioapic.raise(7);
    rig.ioapic.raise(7);
    rig.entry(7, MASKED | 0x50);
    assert_eq!(rig.sent(), []);
    rig.entry(7, 0x50);
    assert_eq!(rig.sent(), [Message { address: 0xfee0_0000, data: 0x50 }]);
    rig.entry(7, 0x51);
    assert_eq!(rig.sent(), []);
}

#[test]
fn a_level_entry_is_served_as_an_edge() {
    let rig = rig();
    rig.entry(5, 1 << 15 | 0x33);
    rig.ioapic.raise(5);
    rig.ioapic.raise(5);
    assert_eq!(rig.sent(), [Message { address: 0xfee0_0000, data: 0x33 }; 2]);
    assert_eq!(rig.get(0x1a), 1 << 15 | 0x33, "there is never an end of interrupt to wait for");
}

#[test]
fn only_vectors_are_delivered() {
    let rig = rig();
    for delivery in 2..8 {
        rig.entry(5, delivery << 8 | 0x33);
        rig.ioapic.raise(5);
    }
    assert_eq!(rig.sent(), []);
}

#[test]
fn it_is_what_linux_expects_to_find() {
    let rig = rig();
    assert_eq!(rig.get(1), 0x0017_0011);
    rig.set(0, 0xffff_ffff);
    assert_eq!((rig.get(0), rig.get(2)), (0x0f00_0000, 0x0f00_0000));
    for pin in 0..24 {
        assert_eq!((rig.get(0x10 + 2 * pin), rig.get(0x11 + 2 * pin)), (0x1_0000, 0));
    }
    rig.entry(23, u64::MAX);
    assert_eq!((rig.get(0x3e), rig.get(0x3f)), (0xffff_afff, 0xffff_ffff));
}

#[test]
fn there_are_as_many_pins_as_are_wired() {
    let rig = rig_of(6);
    assert_eq!(rig.get(1), 0x0005_0011);
    assert_eq!((rig.get(0x1a), rig.get(0x1c)), (0x1_0000, u32::MAX));
    rig.entry(6, 0x33);
    rig.ioapic.raise(6);
    assert_eq!(rig.sent(), []);
}

proptest! {
    #[test]
    fn no_guest_can_make_it_do_more_than_send_what_devices_raise(
        writes in prop::collection::vec((0_u64..0x50, prop::collection::vec(any::<u8>(), 0..9)), 0..200),
        raised in 0_usize..40,
    ) {
        let rig = rig();
        for (offset, data) in &writes {
            rig.ioapic.write(*offset, data);
            rig.ioapic.read(*offset, &mut data.clone());
        }
        prop_assert_eq!(rig.sent(), []);
        rig.ioapic.raise(raised);
        for pin in 0..MAX_PINS as u8 {
            rig.entry(pin, 0x20);
        }
        let sent = rig.sent();
        // An entry as the guest left it, if it was unmasked and asked for a vector, or the one from the end.
        prop_assert!(sent.len() <= 1);
        prop_assert!(sent.iter().all(|message| message.address & 0xfff0_0000 == 0xfee0_0000));
    }
}
