//! The entropy device against a driver that is greedy.

#![expect(clippy::indexing_slicing, reason = "a test that panics has found something")]

use super::*;
use crate::virtio::driver::{DATA, GuestDriver, ram, readable, writable};

fn running() -> GuestDriver {
    let ram = ram().unwrap();
    let mut driver = GuestDriver::new(Box::new(Rng::new()), ram).unwrap();
    assert!(driver.start(1 << 32));
    driver.work(Wake::Guest);
    driver
}

#[test]
fn a_request_is_filled_and_no_byte_more() {
    let mut driver = running();
    driver.write(DATA, &[0; 200]);
    driver.offer(0, &[writable(DATA, 64), writable(DATA + 100, 50)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((0, 114)));
    let bytes = driver.read(DATA, 200);
    // 32 zeros in a row have a chance of 2^-256.
    assert_ne!(bytes[..32], [0; 32]);
    assert_ne!(bytes[100..150], [0; 50]);
    assert_eq!(bytes[64..100], [0; 36]);
    assert_eq!(bytes[150..], [0; 50]);
}

#[test]
fn two_requests_differ() {
    let mut driver = running();
    driver.offer(0, &[writable(DATA, 32)]);
    driver.offer(0, &[writable(DATA + 32, 32)]);
    driver.work(Wake::Guest);
    assert_ne!(driver.read(DATA, 32), driver.read(DATA + 32, 32));
}

#[test]
fn a_huge_request_gets_the_cap() {
    let mut driver = running();
    driver.offer(0, &[writable(DATA, 0x30_0000)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((0, 64 << 10)));
    assert_eq!(driver.read(DATA + REQUEST_BYTES_MAX, 4096), [0; 4096]);
}

#[test]
fn requests_to_read_from_or_of_nothing_come_back_unused() {
    let mut driver = running();
    driver.write(DATA, &[0; 64]);
    driver.offer(0, &[readable(DATA, 16), writable(DATA, 64)]);
    driver.offer(0, &[writable(DATA, 0)]);
    driver.work(Wake::Guest);
    assert_eq!(driver.used(0), Some((0, 0)));
    assert_eq!(driver.used(0), Some((2, 0)));
    assert_eq!(driver.device().counts().requests, 2);
    assert_eq!(driver.read(DATA, 64), [0; 64]);
}
