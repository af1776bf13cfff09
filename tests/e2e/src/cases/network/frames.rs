//! A guest's namespace without its guest: every frame that is not its own is dropped and counted, and so is all that wants in.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Result, ensure};
use votive_agent::network::Network;
use votive_agent::network::addresses::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, Mac};
use votive_agent::network::rules::CONNECTIONS_MAX;

use super::cable::{Cable, nat};
use super::packet::{ARP, BROADCAST, Datagram, IPV4, IPV6, VLAN, arp, frame, who_is_the_gateway};
use super::{alone, left};
use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::{Internet, SERVER_PORT};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("frames_that_are_not_the_guests_own_are_dropped_and_counted", spoofed),
    ("nobody_reaches_a_guest_that_did_not_ask", inward),
    ("networks_are_made_ahead_and_leave_nothing", nothing_left),
];

fn spoofed() -> Result<()> {
    let _alone = alone();
    let cable = Cable::by_nat()?;
    cable.send(&who_is_the_gateway())?;
    let reply = cable.receive()?;
    ensure!(
        reply.get(6..12) == Some(&GATEWAY_MAC.0) && reply.get(12..14) == Some(&[8, 6]),
        "{reply:x?}"
    );

    // What is the guest's own goes out, and the answer comes back.
    let from = cable.expect_heard("first")?;
    cable.internet.answer(from, b"answer")?;
    let answer = cable.receive()?;
    ensure!(answer.ends_with(b"answer") && answer.get(..6) == Some(&GUEST_MAC.0), "{answer:x?}");

    let stranger = Mac([2, 0, 0, 0, 0, 9]);
    let own = || Datagram::to(cable.internet.server, SERVER_PORT, "stray");
    let to = |address: Ipv4Addr| Datagram::to(address, SERVER_PORT, "stray").frame();
    let asked =
        |mac, sender, target| frame(GUEST_MAC, BROADCAST, ARP, &arp(1, mac, sender, target));
    let other = Ipv4Addr::new(192, 0, 0, 3);
    let second_link = Ipv4Addr::new(198, 18, 0, 2);
    let mut tagged = vec![0, 7];
    tagged.extend(IPV4.to_be_bytes());
    tagged.extend(own().packet());
    let answer_unasked = frame(GUEST_MAC, BROADCAST, ARP, &arp(2, GUEST_MAC, GUEST, GUEST));
    let table = [
        (
            "another source MAC",
            Datagram { source_mac: stranger, ..own() }.frame(),
            "frames/source MAC",
        ),
        (
            "the gateway's MAC",
            Datagram { source_mac: GATEWAY_MAC, ..own() }.frame(),
            "frames/source MAC",
        ),
        (
            "another source address",
            Datagram { source: other, ..own() }.frame(),
            "frames/source address",
        ),
        (
            "the gateway's address",
            Datagram { source: GATEWAY, ..own() }.frame(),
            "frames/source address",
        ),
        (
            "the server's address",
            Datagram { source: cable.internet.server, ..own() }.frame(),
            "frames/source address",
        ),
        (
            "a first fragment from another address",
            Datagram { source: other, fragment: 0x2000, ..own() }.frame(),
            "frames/source address",
        ),
        (
            "a later fragment from another address",
            Datagram { source: other, fragment: 0x00b9, ..own() }.frame(),
            "frames/source address",
        ),
        ("ARP with another MAC inside", asked(stranger, GUEST, GATEWAY), "frames/ARP"),
        ("ARP as the gateway", asked(GUEST_MAC, GATEWAY, GATEWAY), "frames/ARP"),
        ("ARP for another address", asked(GUEST_MAC, GUEST, other), "frames/ARP"),
        ("ARP answered unasked", answer_unasked, "frames/ARP"),
        ("ARP cut short", frame(GUEST_MAC, BROADCAST, ARP, &[0, 1, 8]), "frames/ARP"),
        ("IPv6", frame(GUEST_MAC, GATEWAY_MAC, IPV6, &[0x60; 40]), "frames/protocol"),
        ("a VLAN tag", frame(GUEST_MAC, GATEWAY_MAC, VLAN, &tagged), "frames/protocol"),
        ("an unknown protocol", frame(GUEST_MAC, GATEWAY_MAC, 0x88b5, &[0; 46]), "frames/protocol"),
        (
            "a broadcast frame",
            Datagram { destination_mac: BROADCAST, ..own() }.frame(),
            "frames/destination MAC",
        ),
        (
            "to another MAC",
            Datagram { destination_mac: stranger, ..own() }.frame(),
            "frames/destination MAC",
        ),
        ("to the gateway", to(GATEWAY), "input/to the gateway"),
        ("to its own link's address", to(Ipv4Addr::new(198, 18, 0, 1)), "input/to the gateway"),
        ("to another guest's link", to(second_link), "forward/never"),
        ("to metadata", to(cable.internet.metadata), "forward/never"),
        ("to a private network", to(cable.internet.private), "forward/denied"),
        ("to the host", to(cable.internet.host), "host/input/to the host"),
    ];
    for (what, frame, name) in table {
        cable.expect_drop(what, name, || cable.send(&frame))?;
        cable.expect_heard(what)?;
    }
    // The kernel itself refuses these before any rule of ours; nobody hears of them.
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        cable.send(&to(address))?;
        cable.expect_heard(&address.to_string())?;
    }
    let flood = || {
        for port in 0..u16::try_from(CONNECTIONS_MAX)? + 64 {
            let own = Datagram { source_port: 10_000 + port, ..own() };
            cable.send(&Datagram { port: 1, ..own }.frame())?;
        }
        Ok(())
    };
    cable.expect_drop("more connections than it may have", "forward/too many connections", flood)
}

fn inward() -> Result<()> {
    let _alone = alone();
    let cable = Cable::by_nat()?;
    let link = SocketAddr::from((Ipv4Addr::new(198, 18, 0, 1), 4000));
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    cable.expect_drop("from the host", "host/output/from the host", || {
        // The rule's answer is an error here.
        let _ = host.send_to(b"stray", link);
        Ok(())
    })?;
    cable.expect_drop("from the internet", "host/inward/no reply", || {
        cable.internet.answer(link, b"stray")
    })?;
    // One that it did speak to may answer from the port that it was asked at, and from no other.
    let asked = cable.expect_heard("asked")?;
    cable.internet.answer(asked, b"reply")?;
    let mut heard = cable.receive()?;
    while heard.get(12..14) == Some(&[8, 6]) {
        heard = cable.receive()?;
    }
    ensure!(heard.ends_with(b"reply"), "{heard:x?}");
    Ok(())
}

fn nothing_left() -> Result<()> {
    let _alone = alone();
    let folder = tempfile::tempdir()?;
    let internet = Internet::new()?;
    let forwards = || internet.forwards();
    ensure!(!forwards()?, "a new link forwards");
    let before = left()?;

    let started = Instant::now();
    let network = Network::open(&nat(folder.path(), &internet.uplink, 3)?)?;
    ensure!(forwards()?, "the uplink does not forward");
    let taken = block_on(async {
        let mut taken = Vec::new();
        for _ in 0..10 {
            taken.push(network.take().await?);
        }
        Ok(taken)
    })?;
    println!("10 networks after {:.1?}", started.elapsed());
    ensure!(left()?.len() >= before.len() + 10, "{:?}", left()?);
    network.close();
    ensure!(left()? == before, "{:?}", left()?);
    ensure!(!forwards()?, "the uplink still forwards");
    ensure!(!folder.path().join("network").exists(), "the marker is left");
    drop(taken);
    Ok(())
}
