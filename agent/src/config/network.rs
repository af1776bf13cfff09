//! The section `[network]` as the [`NetworkSpec`] that it stands for.

use std::net::Ipv4Addr;
use std::path::Path;

use super::{Config, Egress, Network};
use crate::network::addresses::{NEVER, Range};
use crate::network::rules::Reach;
use crate::network::{self, NetworkSpec};
use votive_protocol::limits::DNS_SERVERS_MAX;

/// Each range is an element of a set in every namespace.
const RANGES_MAX: usize = 256;
/// Each network that is ready is a namespace with three links in the kernel.
const READY_MAX: u32 = 256;
/// Bits of a link's number: too few leave no address, and more than environments there will never be.
const LINK_BITS: std::ops::RangeInclusive<u8> = 3..=24;

/// A field of the section, and why it is wrong.
pub(super) type Wrong = (&'static str, String);

impl Config {
    /// What microVMs' networks are made of; `None` if they have none.
    #[must_use]
    pub fn network_spec(&self, state_dir: &Path) -> Option<NetworkSpec> {
        self.network.read(state_dir).ok().flatten()
    }
}

impl Network {
    /// The spec, or everything that is wrong.
    pub(super) fn read(&self, state_dir: &Path) -> Result<Option<NetworkSpec>, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let egress = self.egress(&mut wrong);
        let links = self.links(&mut wrong);
        let deny = ranges("network.deny", &self.deny, &mut wrong);
        let allow = ranges("network.allow", &self.allow, &mut wrong);
        for range in allow.iter().filter(|range| is_never(**range)) {
            wrong.push((
                "network.allow",
                format!("{range} is not allowed: it has nothing that a microVM may reach"),
            ));
        }
        let gateway = self.gateway.as_deref().and_then(|text| text.parse().ok()).map(Range::of);
        if let (Some(links), Some(gateway)) = (links, gateway)
            && links.contains(gateway)
        {
            let message = format!("{} is one of network.links", gateway.first());
            wrong.push(("network.gateway", message));
        }
        let dns = self.servers(&mut wrong);
        if self.ready > READY_MAX {
            let message = format!("{} is not allowed; 0 to {READY_MAX} are", self.ready);
            wrong.push(("network.ready", message));
        }
        match (egress, links) {
            (egress, Some(links)) if wrong.is_empty() => Ok(egress.map(|egress| NetworkSpec {
                state_dir: state_dir.to_owned(),
                egress,
                links,
                reach: Reach { never: Vec::new(), allow, deny, dns },
                ready: usize::try_from(self.ready).unwrap_or(usize::MAX),
            })),
            _ => Err(wrong),
        }
    }

    fn egress(&self, wrong: &mut Vec<Wrong>) -> Option<network::Egress> {
        for (field, name) in [("network.uplink", &self.uplink), ("network.bridge", &self.bridge)] {
            if let Some(name) = name.as_deref().filter(|name| !is_link_name(name)) {
                let allowed = "a link's name of 1 to 15 letters, digits, '.', '-' or '_' is";
                wrong.push((field, format!("{name:?} is not allowed; {allowed}")));
            }
        }
        let gateway = self.gateway.as_deref().map(str::parse::<Ipv4Addr>);
        if let Some(Err(_)) = gateway {
            let text = self.gateway.as_deref().unwrap_or_default();
            wrong.push(("network.gateway", format!("{text:?} is not allowed; an IPv4 address is")));
        }
        match self.egress {
            Egress::None => None,
            Egress::Nat => Some(network::Egress::Nat { uplink: self.uplink.clone() }),
            Egress::Bridge => {
                let missing = |field, given: bool| {
                    (!given)
                        .then(|| (field, String::from("it is missing: egress \"bridge\" needs it")))
                };
                wrong.extend(missing("network.bridge", self.bridge.is_some()));
                wrong.extend(missing("network.gateway", gateway.is_some()));
                let gateway = gateway.and_then(Result::ok)?;
                Some(network::Egress::Bridge { name: self.bridge.clone()?, gateway })
            }
        }
    }

    fn links(&self, wrong: &mut Vec<Wrong>) -> Option<Range> {
        let range = self.links.parse::<Range>().ok();
        let good = range.filter(|range| {
            LINK_BITS.contains(&(32 - range.prefix())) && !NEVER.iter().any(|it| it.touches(*range))
        });
        if good.is_none() {
            let allowed = "a range such as \"198.18.0.0/16\" that hosts may have is";
            wrong.push(("network.links", format!("{:?} is not allowed; {allowed}", self.links)));
        }
        good
    }

    fn servers(&self, wrong: &mut Vec<Wrong>) -> Vec<Ipv4Addr> {
        if self.dns.len() > DNS_SERVERS_MAX {
            wrong.push(("network.dns", format!("at most {DNS_SERVERS_MAX} servers are allowed")));
        }
        let mut servers = Vec::new();
        for text in &self.dns {
            match text.parse::<Ipv4Addr>() {
                Ok(address) if !is_never(Range::of(address)) => servers.push(address),
                _ => {
                    let allowed = "an IPv4 address that a microVM may reach is";
                    wrong.push(("network.dns", format!("{text:?} is not allowed; {allowed}")));
                }
            }
        }
        servers
    }
}

fn is_never(range: Range) -> bool {
    NEVER.iter().any(|never| never.contains(range))
}

fn is_link_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=votive_tap::NAME_MAX).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with('.')
}

fn ranges(field: &'static str, texts: &[String], wrong: &mut Vec<Wrong>) -> Vec<Range> {
    if texts.len() > RANGES_MAX {
        wrong.push((field, format!("at most {RANGES_MAX} ranges are allowed")));
    }
    let mut read = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(range) => read.push(range),
            Err(error) => wrong.push((field, format!("{text:?} is not allowed: {error}"))),
        }
    }
    read
}

#[cfg(test)]
mod tests;
