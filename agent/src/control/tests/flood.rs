//! Peers that connect and say nothing, ten thousand of them at once.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use votive_control::address::Address;
use votive_control::identity::Role;

use super::harness::{Channel, until};
use crate::control::ControlLimits;
use crate::control::admission::AdmissionLimits;
use crate::control::tally::Cut;

/// The flood.
const PEERS: usize = 10_000;
/// The addresses that it comes from.
const ADDRESSES: usize = 200;

/// Resident memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Set in the process that [`alone`] starts.
const ALONE: &str = "VOTIVE_TEST_ALONE";

/// Runs the test of this name again in a process of its own, whose memory no other test's is mixed with; false if this is it.
fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let module = module_path!().split_once("::").unwrap().1;
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &format!("{module}::{name}"), "--nocapture"]).env(ALONE, "1");
    let output = again.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("1 passed"), "{}", output.status);
    true
}

/// A connection from one of the addresses of this machine to the channel.
fn half_open(number: usize, port: u16) -> std::net::TcpStream {
    let last = u8::try_from(number % ADDRESSES).unwrap() + 1;
    let from = SocketAddr::from((Ipv4Addr::new(127, 9, 9, last), 0));
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &from).unwrap();
    connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    std::net::TcpStream::from(socket)
}

/// Makes so many connections and holds them; every other one begins a handshake.
async fn flood(from: usize, count: usize, port: u16) -> Vec<std::net::TcpStream> {
    let connecting = move || {
        let mut held = Vec::new();
        for number in from..from + count {
            let mut stream = half_open(number, port);
            if number.is_multiple_of(2) {
                // The worker may have cut it already.
                let _ = stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]);
            }
            held.push(stream);
        }
        held
    };
    tokio::task::spawn_blocking(connecting).await.unwrap()
}

#[test]
fn ten_thousand_half_open_connections_cost_what_a_few_cost_and_keep_nobody_out() {
    if alone("ten_thousand_half_open_connections_cost_what_a_few_cost_and_keep_nobody_out") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ten_thousand());
}

async fn ten_thousand() {
    let limits = ControlLimits { handshake: Duration::from_secs(5), ..ControlLimits::default() };
    let channel = Channel::start(limits).await;
    let port = channel.port();
    let most = AdmissionLimits::default().handshakes;
    let gone =
        || channel.tally.count(Cut::TooManyHandshakes) + channel.tally.count(Cut::HandshakeTimeout);
    // What a full house costs is the measure: twice as many as there may be.
    let before = resident();
    let mut held = vec![flood(0, 2 * most, port).await];
    until("the house is full", || gone() >= most as u64).await;
    let full = resident();
    let mut peak = full;
    let mut from = 2 * most;
    while from < PEERS {
        let count = 1000.min(PEERS - from);
        held.push(flood(from, count, port).await);
        from += count;
        peak = peak.max(resident());
        // Somebody honest comes in meanwhile.
        channel.client(Role::Observer).await.status().await.unwrap();
    }
    peak = peak.max(resident());
    // Those that were not evicted have their time-out.
    until("every one was cut", || gone() >= PEERS as u64).await;
    assert_eq!(gone(), PEERS as u64);
    assert_eq!(held.iter().map(Vec::len).sum::<usize>(), PEERS);
    println!(
        "{PEERS} half-open connections, {most} handshakes at once: resident {} KiB before, {} KiB with a full house, \
         at most {} KiB",
        before / 1024,
        full / 1024,
        peak / 1024,
    );
    let grown = peak.saturating_sub(full);
    // Were each one kept, ten thousand handshakes of some 10 KiB would be a hundred MiB.
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more than with a full house");
    channel.stop().await;
}

#[tokio::test]
async fn connections_beyond_their_limit_are_refused_and_those_that_are_there_stay() {
    let admission =
        AdmissionLimits { connections: 3, connections_per_peer: 2, ..AdmissionLimits::default() };
    let channel = Channel::start(ControlLimits { admission, ..ControlLimits::default() }).await;
    let first = channel.client(Role::Observer).await;
    let second = channel.client(Role::Observer).await;
    first.status().await.unwrap();
    second.status().await.unwrap();
    // The third of the same peer, and, over the other socket, the fourth of all.
    assert!(is_refused(&channel, &channel.tcp).await);
    channel.until_cut(Cut::TooManyOfPeer, 1).await;
    let third = channel.client_at(&channel.unix, "observer").await.unwrap();
    third.status().await.unwrap();
    assert!(is_refused(&channel, &channel.unix).await);
    channel.until_cut(Cut::TooManyConnections, 1).await;
    first.status().await.unwrap();
    // One that goes makes room.
    drop(second);
    until("there is room", || channel.tally.open() == 2).await;
    channel.client(Role::Observer).await.status().await.unwrap();
    channel.stop().await;
}

async fn is_refused(channel: &Channel, address: &Address) -> bool {
    match channel.client_at(address, "observer").await {
        Ok(client) => client.status().await.is_err(),
        Err(_) => true,
    }
}
