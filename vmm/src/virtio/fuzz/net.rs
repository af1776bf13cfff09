//! The network device, with a driver and a host that are both right in most of what they do.

use std::os::unix::net::UnixDatagram;

use super::super::net::{ETHERNET_BYTES, HEADER_BYTES, Net, NetSpec};
use super::{
    CHECK_AT, DATA, HIGH, Script, any_step, check, drain, driver_for, readable, rest, writable,
};
use crate::limiter::Limits;
use crate::virtio::driver::GuestDriver;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MTU: u16 = 1500;
/// More frames than a socket of datagrams holds, and fewer than a queue's buffers.
const HELD_MAX: usize = 200;
const LONGEST: usize = HEADER_BYTES + ETHERNET_BYTES + 4 + 1500;

/// The network device between a driver and a host. No frame leaves but from the guest's address, behind a header of zeros.
pub fn net(data: &[u8]) {
    let mut script = Script(data);
    // Stand for a tap: each read and each write is a frame.
    let Ok((host, tap)) = UnixDatagram::pair() else { return };
    if host.set_nonblocking(true).is_err() {
        return;
    }
    let tap = std::os::fd::OwnedFd::from(tap).into();
    let spec =
        NetSpec { tap, mac: MAC, mtu: MTU, receive: Limits::default(), send: Limits::default() };
    let Ok(device) = Net::new(spec) else { return };
    let Some(mut driver) = driver_for(Box::new(device)) else { return };
    let mut host = Some(host);
    while !script.is_empty() {
        match script.byte() % 8 {
            0 | 1 => any_step(&mut driver, &mut script),
            2 => arrive(host.as_ref(), &mut script),
            3 => {
                for _ in 0..script.byte() % 16 {
                    let at = u64::from(script.byte()).saturating_mul(4096).saturating_add(DATA);
                    driver.offer(0, &[writable(at, script.pick(&[2048, 1542, 100, 12, 0]))]);
                }
                driver.kick(0);
            }
            // Rarely enough that most scripts keep their host.
            4 if script.byte() == 0xff => host = None,
            _ => send(&mut driver, &mut script),
        }
        rest(&driver);
        drain(&mut driver);
        if let Some(host) = &host {
            hear(host);
        }
    }
    let mut frame = vec![7; LONGEST];
    put(&mut frame, HEADER_BYTES + 6, &MAC);
    driver.write(CHECK_AT, &frame);
    let len = u32::try_from(LONGEST).unwrap_or(0);
    check(&mut driver, 1, &[readable(CHECK_AT, len)], 0);
    let Some(host) = host else { return };
    assert_eq!(hear(&host), 1, "a proper frame must go out");
    // What is in the tap still comes first; a socket holds so many frames at most.
    for _ in 0..HELD_MAX {
        driver.offer(0, &[writable(CHECK_AT, len)]);
        driver.kick(0);
        rest(&driver);
        if driver.used(0).is_none() {
            break;
        }
    }
    assert!(host.send(&vec![0; LONGEST]).is_ok(), "an idle tap has room");
    rest(&driver);
    let came = driver.used(0).map(|(_, len)| len);
    assert_eq!(came, Some(len), "a proper frame must come in");
}

/// A frame that is right in most of its fields.
fn send(driver: &mut GuestDriver, script: &mut Script<'_>) {
    let mut frame = vec![script.byte(); LONGEST];
    if !script.byte().is_multiple_of(8) {
        put(&mut frame, HEADER_BYTES + 6, &MAC);
    }
    driver.write(HIGH, &frame);
    let lens = [26, 1000, 1542, 1543, 25, 12, 0, 65_536, u32::MAX];
    let len = script.pick(&lens);
    let first = u32::from(script.byte()).min(len);
    let rest = readable(HIGH.saturating_add(first.into()), len.saturating_sub(first));
    driver.offer(1, &[readable(HIGH, first), rest]);
    driver.kick(1);
}

/// The host puts a frame into the tap, plain or not.
fn arrive(host: Option<&UnixDatagram>, script: &mut Script<'_>) {
    let lens = [72, LONGEST, LONGEST + 1, 26, 25, 12, 1, 60_000];
    let mut frame = vec![0; script.pick(&lens)];
    let changed = usize::from(script.byte() % 12);
    let header = script.bytes(changed);
    put(&mut frame, 0, header);
    if let Some(host) = host {
        // It may be full.
        let _ = host.send(&frame);
    }
}

/// Takes what the guest sent; how many frames.
fn hear(host: &UnixDatagram) -> usize {
    let mut frame = [0; 2048];
    let mut count = 0usize;
    while let Ok(bytes) = host.recv(&mut frame) {
        let (header, ethernet) = frame.split_at(HEADER_BYTES);
        assert_eq!(header, [0; HEADER_BYTES], "a guest's header went out");
        assert_eq!(ethernet.get(6..12), Some(&MAC[..]), "a frame from another address");
        assert!((HEADER_BYTES + ETHERNET_BYTES..=LONGEST).contains(&bytes), "{bytes} bytes");
        count = count.saturating_add(1);
    }
    count
}

/// Writes `bytes` into `frame` at `at`, as far as there is room.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in frame.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}
