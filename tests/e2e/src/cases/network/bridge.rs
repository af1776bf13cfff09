//! A guest's namespace without its guest, on a bridge: its link's own address goes out, and no neighbour comes in.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use votive_agent::network::addresses::{GUEST, Range};

use super::cable::{Cable, PATIENCE};
use super::packet::Datagram;
use super::{alone, left};
use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::{SERVER_PORT, in_namespace, ip};

pub(crate) const CASES: &[(&str, Case)] = &[
    ("by_a_bridge_a_guest_reaches_its_gateway_and_no_neighbour", neighbours),
    ("ports_of_a_bridge_hear_nothing_of_each_other", isolated),
];

/// The address of the link in this slot.
fn link(cable: &Cable, slot: u32) -> Result<Ipv4Addr> {
    cable.internet.links().parse::<Range>()?.nth(slot + 1).context("no address")
}

fn neighbours() -> Result<()> {
    let _alone = alone();
    let cable = Cable::by_bridge()?;
    ensure!(!cable.internet.forwards()?, "the host forwards");
    let from = cable.expect_heard("first")?;
    cable.internet.answer(from, b"answer")?;
    let answer = cable.receive()?;
    ensure!(answer.ends_with(b"answer"), "{answer:x?}");

    let to = |address: Ipv4Addr| Datagram::to(address, SERVER_PORT, "stray").frame();
    for (what, address, name) in [
        // The gateway sends it back to the bridge, where the host has an address.
        ("to the host by the gateway", cable.internet.host, "host/input/to the host"),
        ("to another guest's link", link(&cable, 1)?, "forward/never"),
        ("to its own link's address", link(&cable, 0)?, "input/to the gateway"),
        ("to metadata", cable.internet.metadata, "forward/never"),
        ("to a private network", cable.internet.private, "forward/denied"),
    ] {
        cable.expect_drop(what, name, || cable.send(&to(address)))?;
        cable.expect_heard(what)?;
    }

    // From the port that the guest did speak to, to one that it did not speak from.
    let own = SocketAddr::from((link(&cable, 0)?, 4001));
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    cable.expect_drop("from the host", "host/output/from the host", || {
        // The rule's answer is an error here.
        let _ = host.send_to(b"stray", own);
        Ok(())
    })?;
    cable.expect_drop("from a neighbour", "input/to the gateway", || {
        cable.internet.answer(own, b"stray")
    })?;
    // Whoever is on the bridge may send to any address by this link: also to the one that all guests have.
    cable.internet.inside(|| ip(&format!("route add {GUEST}/32 via {}", own.ip())))?;
    cable.expect_drop("from a neighbour to the guest's address", "forward/inward", || {
        cable.internet.answer(SocketAddr::from((GUEST, 4001)), b"stray")
    })?;
    // None of it came to the guest: what it hears next is the answer to what it asks next.
    let asked = cable.expect_heard("asked")?;
    cable.internet.answer(asked, b"reply")?;
    let heard = cable.receive()?;
    ensure!(heard.ends_with(b"reply"), "{heard:x?}");

    cable.network.close();
    ensure!(left()?.is_empty(), "{:?}", left()?);
    Ok(())
}

/// What comes of asking on this link, of this thread's namespace, who has an address: `REACHABLE` or `FAILED`.
fn resolved(device: &str, address: Ipv4Addr) -> Result<String> {
    let started = Instant::now();
    ip(&format!("neighbour replace {address} dev {device} use"))?;
    loop {
        let told = ip(&format!("neighbour show to {address} dev {device}"))?;
        match told.split_whitespace().last() {
            Some(state @ ("REACHABLE" | "FAILED")) => return Ok(state.to_owned()),
            _ => ensure!(started.elapsed() < PATIENCE, "{told}"),
        }
        std::thread::yield_now();
    }
}

fn isolated() -> Result<()> {
    let _alone = alone();
    let cable = Cable::by_bridge()?;
    let other = block_on(async { Ok(cable.network.take().await?) })?;
    let namespaces = [&cable.namespace, &other.device.namespace];
    let links = [link(&cable, 0)?, link(&cable, 1)?];
    for (namespace, neighbour) in namespaces.into_iter().zip([links[1], links[0]]) {
        let gateway = cable.internet.server;
        let answers =
            in_namespace(namespace, || Ok([resolved("up", gateway)?, resolved("up", neighbour)?]))?;
        println!("who has {gateway}: {}; who has {neighbour}: {}", answers[0], answers[1]);
        ensure!(answers == ["REACHABLE", "FAILED"], "{gateway}, {neighbour}: {answers:?}");
    }
    // They are there: the gateway is answered by both.
    for link in links {
        let answer = cable.internet.inside(|| resolved("far", link))?;
        ensure!(answer == "REACHABLE", "{link}: {answer}");
    }
    Ok(())
}
