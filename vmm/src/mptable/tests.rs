//! The table as an operating system reads it.

use super::{bytes, table};
use crate::layout::{EBDA, EBDA_BYTES};
use crate::limits::MAX_VCPUS;

/// Every line that a device may have.
const ALL: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

/// Walks the entries as Linux's `smp_read_mpc` does: (type, bytes) each.
fn entries(table: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &table[60..];
    let mut found = Vec::new();
    while let Some(kind) = rest.first().copied() {
        let size = if kind == 0 { 20 } else { 8 };
        found.push((kind, rest[..size].to_vec()));
        rest = &rest[size..];
    }
    found
}

#[test]
fn every_checksum_and_length_holds_for_every_number_of_vcpus() {
    for vcpus in 1..=MAX_VCPUS {
        let table = table(vcpus, &ALL);
        assert_eq!(table.len(), bytes(vcpus));
        assert!(table.len() <= EBDA_BYTES);
        assert_eq!(&table[..4], b"_MP_");
        assert_eq!(sum(&table[..16]), 0);
        let at = u32::from_le_bytes(table[4..8].try_into().unwrap());
        assert_eq!(u64::from(at), EBDA + 16);
        assert_eq!(&table[16..20], b"PCMP");
        let length = usize::from(u16::from_le_bytes(table[20..22].try_into().unwrap()));
        assert_eq!(length, table.len() - 16);
        assert_eq!(sum(&table[16..]), 0);
        let count = usize::from(u16::from_le_bytes(table[50..52].try_into().unwrap()));
        assert_eq!(count, entries(&table).len());
    }
}

#[test]
fn apic_ids_are_distinct_and_one_processor_boots() {
    let table = table(5, &[5, 6]);
    let found = entries(&table);
    let processors: Vec<_> = found.iter().filter(|(kind, _)| *kind == 0).collect();
    let ids: Vec<u8> = processors.iter().map(|(_, entry)| entry[1]).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    assert_eq!(processors.iter().filter(|(_, entry)| entry[3] == 3).count(), 1);
    assert_eq!(processors.iter().filter(|(_, entry)| entry[3] == 1).count(), 4);
    let ioapic = found.iter().find(|(kind, _)| *kind == 2).unwrap();
    assert_eq!(ioapic.1[1], 5, "the IOAPIC's id is no processor's");
    let addresses = (table[52..56].try_into().unwrap(), ioapic.1[4..8].try_into().unwrap());
    assert_eq!(u32::from_le_bytes(addresses.0), 0xfee0_0000);
    assert_eq!(u32::from_le_bytes(addresses.1), 0xfec0_0000);
}

#[test]
fn every_line_of_a_device_is_wired_to_its_own_pin_and_no_other_is() {
    let table = table(1, &[4, 5, 9]);
    for line in ALL {
        let wired =
            |(kind, entry): &(u8, Vec<u8>)| *kind == 3 && entry[5] == line && entry[7] == line;
        assert_eq!(
            entries(&table).iter().filter(|entry| wired(entry)).count(),
            usize::from([4, 5, 9].contains(&line)),
            "line {line}"
        );
    }
}
