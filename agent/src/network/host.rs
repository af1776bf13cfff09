//! The host's side: the other ends of all links, one table of rules, and what must be put back at the end.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nftables::schema::Nftables;

use super::addresses::{Mac, NEXT_HOP, Range};
use super::namespace::{self, NamespaceSpec, apply, get, set};
use super::netlink::{End, Netlink};
use super::rules::{self, HostRules, Reach};
use super::{Egress, NetworkDevice, NetworkError, NetworkSpec, TAP_DEVICE, UP};

/// The file in the state folder that tells a network was set up, and which link's forwarding was switched on for it.
pub(super) const MARKER: &str = "network";
/// Knobs of the host's end of a link, of IPv4.
const KNOBS: [(&str, &str); 6] = [
    ("rp_filter", "1"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("proxy_arp", "0"),
    ("arp_ignore", "1"),
];

/// The host's side of an agent's network.
pub(super) struct Host {
    netlink: Netlink,
    own: OwnedFd,
    identity: Identity,
    egress: Egress,
    links: Range,
    rules: Nftables<'static>,
    marker: PathBuf,
}

/// What an agent's things are called, so that its successor finds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity([u8; 3]);

impl Identity {
    /// That of the agent with this state folder: one at a time uses it.
    pub(super) fn of(state_dir: &std::path::Path) -> Self {
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
        let [a, b, c, ..]: [u8; 32] = digest.into();
        Self([a, b, c])
    }

    fn text(&self) -> String {
        let [a, b, c] = self.0;
        format!("{a:02x}{b:02x}{c:02x}")
    }

    /// The name of its table.
    pub(super) fn table(&self) -> String {
        format!("votive_{}", self.text())
    }

    /// What the names of its links begin with.
    pub(super) fn links(&self) -> String {
        format!("vtv{}-", self.text())
    }

    /// The name of a link: at most 15 bytes for slots of at most five digits.
    pub(super) fn link(&self, slot: u32) -> String {
        format!("{}{slot}", self.links())
    }

    /// An address that only one link's end has, also on a bridge.
    fn mac(&self, first: u8, slot: u32) -> Mac {
        let [a, b, c] = self.0;
        let [.., d, e] = slot.to_be_bytes();
        Mac([first, a, b, c, d, e])
    }
}

impl Host {
    /// Removes what an agent before left, and sets up the host.
    pub(super) fn open(spec: &NetworkSpec) -> Result<Self, NetworkError> {
        sweep(&spec.state_dir)?;
        let netlink = Netlink::open()?;
        let own = namespace::own()?;
        let identity = Identity::of(&spec.state_dir);
        // Our rules would keep the host from hearing itself.
        if let Some(address) = netlink.address_in(spec.links)? {
            return Err(NetworkError::Taken(address));
        }
        let (uplink, guard) = match &spec.egress {
            Egress::Nat { uplink } => {
                let found = match uplink {
                    Some(name) => name.clone(),
                    None => netlink.default_link()?.ok_or(NetworkError::NoUplink)?,
                };
                netlink.index(&found)?;
                let guard = get(&format!("ipv4/conf/{found}/forwarding"))? != "1";
                (Some(found), guard)
            }
            Egress::Bridge { name, .. } => {
                netlink.index(name)?;
                (None, false)
            }
        };
        let marker = spec.state_dir.join(MARKER);
        let switched = uplink.as_deref().filter(|_| guard);
        fs::write(&marker, switched.unwrap_or_default())
            .map_err(|source| NetworkError::Marker { path: marker.clone(), source })?;
        let never = spec.reach.never.iter().copied().chain([spec.links]).collect();
        let rules = rules::namespace(&Reach { never, ..spec.reach.clone() });
        let (links, egress) = (spec.links, spec.egress.clone());
        let host = Self { netlink, own, identity, egress, links, rules, marker };
        host.begin(uplink, guard).inspect_err(|_| host.end())?;
        Ok(host)
    }

    fn begin(&self, uplink: Option<String>, guard: bool) -> Result<(), NetworkError> {
        let rules = HostRules {
            table: self.identity.table(),
            links: self.identity.links(),
            addresses: self.links,
            uplink: uplink.clone(),
            guard,
        };
        apply(&rules.make())?;
        match uplink.filter(|_| guard) {
            // The rule that forwards nothing else is there by now.
            Some(uplink) => set(&format!("ipv4/conf/{uplink}/forwarding"), "1"),
            None => Ok(()),
        }
    }

    /// How many guests there can be at once.
    pub(super) fn slots(&self) -> u32 {
        // The first and the last address of a range are other things to some.
        u32::try_from(self.links.size().saturating_sub(2)).unwrap_or(u32::MAX).min(SLOTS_MAX)
    }

    /// The address of the link in `slot`.
    fn address(&self, slot: u32) -> Result<Ipv4Addr, NetworkError> {
        self.links.nth(slot.saturating_add(1)).ok_or(NetworkError::Exhausted)
    }

    /// A guest's namespace and its way out.
    pub(super) fn make(&self, slot: u32) -> Result<NetworkDevice, NetworkError> {
        let up = End { name: UP.to_owned(), mac: self.identity.mac(0x02, slot) };
        let down = End { name: self.identity.link(slot), mac: self.identity.mac(0x06, slot) };
        let address = self.address(slot)?;
        let gateway = match self.egress {
            Egress::Nat { .. } => (NEXT_HOP, Some(down.mac)),
            Egress::Bridge { gateway, .. } => (gateway, None),
        };
        let (name, there) = (down.name.clone(), up.mac);
        let (host, rules) = (self.own.as_fd(), &self.rules);
        let made = NamespaceSpec { host, up, down, address, gateway, rules }.make();
        made.and_then(|made| self.attach(&name, address, there).map(|()| made)).inspect_err(|_| {
            self.remove(&name);
        })
    }

    /// The host's end of a link.
    fn attach(&self, name: &str, address: Ipv4Addr, mac: Mac) -> Result<(), NetworkError> {
        for (knob, value) in KNOBS {
            set(&format!("ipv4/conf/{name}/{knob}"), value)?;
        }
        set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        match &self.egress {
            Egress::Nat { .. } => {
                set(&format!("ipv4/conf/{name}/forwarding"), "1")?;
                self.netlink.up(name)?;
                self.netlink.add_host(name, address)?;
                self.netlink.add_neighbour(name, address, mac)
            }
            Egress::Bridge { name: bridge, .. } => {
                self.netlink.join(name, bridge)?;
                self.netlink.up(name)
            }
        }
    }

    /// The end of the link in `slot`.
    pub(super) fn release(&self, slot: u32) {
        self.remove(&self.identity.link(slot));
    }

    fn remove(&self, name: &str) {
        if let Err(error) = self.netlink.remove(name) {
            let error = crate::causes::with_causes(&error);
            tracing::warn!(error, link = name, "a guest's link stays until the next start");
        }
    }

    /// Puts everything back.
    pub(super) fn end(&self) {
        if let Err(error) = clear(&self.netlink, &self.identity, &self.marker) {
            let error = crate::causes::with_causes(&error);
            tracing::warn!(error, "a part of the network stays until the next start");
        }
    }
}

/// The most guests: a link's name has room for five digits.
const SLOTS_MAX: u32 = 60_000;

/// Removes what an agent with this state folder left when it was killed, if it had a network.
///
/// # Errors
/// [`NetworkError`] when something of it stays.
pub fn sweep(state_dir: &std::path::Path) -> Result<(), NetworkError> {
    let marker = state_dir.join(MARKER);
    if !marker.exists() {
        return Ok(());
    }
    tracing::info!("an agent before left a network: it is removed");
    clear(&Netlink::open()?, &Identity::of(state_dir), &marker)
}

/// Removes all that an agent has on the host, the marker last. What is gone already is no error.
fn clear(netlink: &Netlink, identity: &Identity, marker: &PathBuf) -> Result<(), NetworkError> {
    for name in netlink.names(&identity.links())? {
        netlink.remove(&name)?;
    }
    let uplink = match fs::read_to_string(marker) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|source| NetworkError::Marker { path: marker.clone(), source })?,
    };
    let knob = format!("ipv4/conf/{uplink}/forwarding");
    if !uplink.is_empty() && get(&knob).is_ok() {
        set(&knob, "0")?;
    }
    apply(&HostRules::unmake(&identity.table()))?;
    fs::remove_file(marker).map_err(|source| NetworkError::Marker { path: marker.clone(), source })
}

/// Whether this host can have taps at all.
pub(super) fn has_taps() -> bool {
    std::path::Path::new(TAP_DEVICE).exists()
}
