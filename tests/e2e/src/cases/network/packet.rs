//! Frames as a guest would send them, and as none should.

use std::net::Ipv4Addr;

use votive_agent::network::addresses::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, Mac};

/// Bytes of the header before each frame of a tap.
pub(super) const HEADER: usize = 12;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const VLAN: u16 = 0x8100;
pub(super) const BROADCAST: Mac = Mac([0xff; 6]);
const UDP: u8 = 17;

/// A datagram in a packet in a frame: the guest's own unless something is changed.
#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) source_mac: Mac,
    pub(super) destination_mac: Mac,
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) source_port: u16,
    pub(super) port: u16,
    /// Flags and offset of a fragment.
    pub(super) fragment: u16,
    pub(super) text: Vec<u8>,
}

impl Datagram {
    pub(super) fn to(destination: Ipv4Addr, port: u16, text: &str) -> Self {
        Self {
            source_mac: GUEST_MAC,
            destination_mac: GATEWAY_MAC,
            source: GUEST,
            destination,
            source_port: 4000,
            port,
            fragment: 0,
            text: text.as_bytes().to_vec(),
        }
    }

    /// The packet without its frame.
    pub(super) fn packet(&self) -> Vec<u8> {
        let udp_len = 8 + self.text.len();
        let mut packet = vec![0x45, 0];
        packet.extend(((20 + udp_len) as u16).to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, UDP, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(self.source_port.to_be_bytes());
        packet.extend(self.port.to_be_bytes());
        packet.extend((udp_len as u16).to_be_bytes());
        // Zero is no checksum, which IPv4 allows.
        packet.extend([0, 0]);
        packet.extend(&self.text);
        packet
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        frame(self.source_mac, self.destination_mac, IPV4, &self.packet())
    }
}

/// A frame behind a tap's header.
pub(super) fn frame(source: Mac, destination: Mac, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}

/// An ARP message for Ethernet and IPv4 (RFC 826): 1 asks, 2 answers.
pub(super) fn arp(operation: u16, mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(mac.0);
    body.extend(sender.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    body
}

/// The question that every guest asks first.
pub(super) fn who_is_the_gateway() -> Vec<u8> {
    frame(GUEST_MAC, BROADCAST, ARP, &arp(1, GUEST_MAC, GUEST, GATEWAY))
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
