//! A guest's network namespace, made in a thread of its own: the tap, the way out, and the rules between them.
//!
//! **Invariant:** the rules are there before any link is up, and nothing in it outlives its last descriptor.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nftables::schema::Nftables;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::addresses::{GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, Mac, PREFIX};
use super::netlink::{ANSWER_TIMEOUT, End, Netlink};
use super::{NetworkDevice, NetworkError, TAP, UP};

/// nft(8).
const NFT: &str = "nft";
/// This thread's namespace.
const OWN: &str = "/proc/thread-self/ns/net";
/// Knobs of a namespace, in this order: the first sets some of the others.
const KNOBS: [(&str, &str); 12] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    // An address is told on its own link alone.
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/proxy_arp", "0"),
];

/// What a namespace is made of.
pub(super) struct NamespaceSpec<'a> {
    /// The namespace that the other end of its link goes to.
    pub(super) host: BorrowedFd<'a>,
    /// Its own end of it.
    pub(super) up: End,
    /// The host's.
    pub(super) down: End,
    /// Its own address on it.
    pub(super) address: Ipv4Addr,
    /// The next hop, and its Ethernet address if nobody answers for it.
    pub(super) gateway: (Ipv4Addr, Option<Mac>),
    /// Its rules.
    pub(super) rules: &'a Nftables<'static>,
}

/// The namespace of this thread.
pub(super) fn own() -> Result<OwnedFd, NetworkError> {
    let file = File::open(OWN).map_err(NetworkError::Namespace)?;
    Ok(file.into())
}

impl NamespaceSpec<'_> {
    /// Makes one; the host's end of its link is down.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left then.
    pub(super) fn make(&self) -> Result<NetworkDevice, NetworkError> {
        std::thread::scope(|scope| {
            let name = String::from("network-namespace");
            let thread = std::thread::Builder::new().name(name);
            let thread = thread.spawn_scoped(scope, || self.make_here());
            let made = thread.map_err(NetworkError::Namespace)?.join();
            made.unwrap_or_else(|_| Err(NetworkError::Lost))
        })
    }

    /// The same in this thread, which is in the new namespace from then on.
    fn make_here(&self) -> Result<NetworkDevice, NetworkError> {
        votive_tap::enter_new_namespace().map_err(NetworkError::Namespace)?;
        let namespace = own()?;
        for (name, value) in KNOBS {
            set(name, value)?;
        }
        let tap = votive_tap::open(TAP).map_err(NetworkError::Tap)?;
        let netlink = Netlink::open()?;
        netlink.add_pair(&self.up, &self.down, self.host)?;
        apply(self.rules)?;

        netlink.set_mac(TAP, GATEWAY_MAC)?;
        netlink.up(TAP)?;
        netlink.add_address(TAP, GATEWAY, PREFIX)?;
        netlink.add_neighbour(TAP, GUEST, GUEST_MAC)?;
        netlink.up(UP)?;
        netlink.add_address(UP, self.address, 32)?;
        let (gateway, mac) = self.gateway;
        if let Some(mac) = mac {
            netlink.add_neighbour(UP, gateway, mac)?;
        }
        netlink.add_default(UP, gateway)?;
        Ok(NetworkDevice { tap, namespace })
    }
}

/// Sets a knob of this thread's namespace.
pub(super) fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    match std::fs::write(&path, value) {
        // A kernel without IPv6 has nothing to switch off.
        Err(error) if name.starts_with("ipv6/") && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(())
        }
        written => written.map_err(|source| NetworkError::Knob { path, source }),
    }
}

/// Reads a knob of this thread's namespace.
pub(super) fn get(name: &str) -> Result<String, NetworkError> {
    let path = format!("/proc/sys/net/{name}");
    let read = std::fs::read_to_string(&path);
    Ok(read.map_err(|source| NetworkError::Knob { path, source })?.trim().to_owned())
}

/// Gives the rules to the kernel, all of them or none, in this thread's namespace.
pub(super) fn apply(rules: &Nftables<'static>) -> Result<(), NetworkError> {
    let text = serde_json::to_vec(rules).map_err(|error| NetworkError::Nft(error.into()))?;
    let nft = Command::new(NFT)
        .args(["--json", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut nft = nft.map_err(NetworkError::Nft)?;
    // It reads all of it before it says anything; what it does not read, it tells of.
    let written = nft.stdin.take().map(|mut stdin| stdin.write_all(&text));
    if !has_ended(&nft, ANSWER_TIMEOUT).map_err(NetworkError::Nft)? {
        nft.kill().map_err(NetworkError::Nft)?;
    }
    let ended = nft.wait_with_output().map_err(NetworkError::Nft)?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        let line = said.lines().find(|line| !line.trim().is_empty());
        return Err(NetworkError::Rules(line.unwrap_or("no reason").to_owned()));
    }
    written.unwrap_or(Ok(())).map_err(NetworkError::Nft)
}

/// Whether a process ends within this time.
fn has_ended(child: &Child, within: Duration) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let within = Timespec::try_from(within).map_err(std::io::Error::other)?;
    let poll = || rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&within));
    Ok(rustix::io::retry_on_intr(poll)? > 0)
}
