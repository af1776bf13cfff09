//! `eth0`: its address and its way out, once, before anybody else runs; and the file that tells programs the name servers.

use core::fmt::Write as _;

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use votive_protocol::{FaultCode, Network};

use super::system;
use crate::worker::Problem;

/// The name servers' file, in PID 1's own root.
pub(super) const RESOLVER: &str = "/resolv.conf";
/// IPv6 says nothing on a device on which nobody would answer; a kernel without the knob has none.
const QUIET: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";
/// `nameserver `, an address and an end of line, three times.
const RESOLVER_BYTES_MAX: usize = 96;

/// Sets the device up and writes [`RESOLVER`].
pub(super) fn set_up(network: &Network) -> Result<(), Problem> {
    let problem = |errno| Problem::new(FaultCode::System, errno, "eth0");
    // What fails here costs a few packets that the host drops.
    let _ = write(QUIET, OFlags::empty(), b"1");
    let (kind, flags) = (SocketType::DGRAM, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::INET, kind, flags, None).map_err(problem)?;
    let socket = socket.as_fd();
    system::set_address(socket, network.address).map_err(problem)?;
    system::set_mask(socket, mask(network.prefix)).map_err(problem)?;
    system::bring_up(socket, system::NETWORK_DEVICE).map_err(problem)?;
    system::add_default_route(socket, network.gateway).map_err(problem)?;

    let mut text = Text { bytes: [0; RESOLVER_BYTES_MAX], len: 0 };
    for [a, b, c, d] in network.dns.iter().flatten() {
        let problem = Problem::without_errno(FaultCode::System, RESOLVER);
        writeln!(text, "nameserver {a}.{b}.{c}.{d}").map_err(|_| problem)?;
    }
    let bytes = text.bytes.get(..text.len).unwrap_or(&[]);
    let written = write(RESOLVER, OFlags::CREATE | OFlags::TRUNC, bytes);
    written.map_err(|errno| Problem::new(FaultCode::System, errno, RESOLVER))
}

fn write(path: &str, flags: OFlags, bytes: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | flags;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o444))?;
    rustix::io::write(&file, bytes).map(drop)
}

/// The first `prefix` bits, at most all.
fn mask(prefix: u8) -> [u8; 4] {
    let others = 32 - u32::from(prefix.min(32));
    u32::MAX.checked_shl(others).unwrap_or(0).to_be_bytes()
}

/// A text of a bounded length.
struct Text {
    bytes: [u8; RESOLVER_BYTES_MAX],
    len: usize,
}

impl core::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let end = self.len.saturating_add(text.len());
        let place = self.bytes.get_mut(self.len..end).ok_or(core::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_mask_has_as_many_bits_as_the_prefix() {
        let masks = [(0, [0; 4]), (8, [255, 0, 0, 0]), (30, [255, 255, 255, 252]), (32, [255; 4])];
        for (prefix, mask) in masks {
            assert_eq!(super::mask(prefix), mask, "{prefix}");
        }
        assert_eq!(super::mask(255), [255; 4]);
    }

    #[test]
    fn three_of_the_longest_servers_fit() {
        let line = "nameserver 255.255.255.255\n";
        assert!(line.len() * votive_protocol::limits::DNS_SERVERS_MAX <= super::RESOLVER_BYTES_MAX);
    }
}
