//! One guest's end of a network in our hands, and what is counted of what it sends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use votive_agent::network::addresses::PRIVATE;
use votive_agent::network::rules::Reach;
use votive_agent::network::{Egress, Lease, Network, NetworkDevice, NetworkSpec};

use super::packet::{Datagram, HEADER};
use crate::cases::pauses::block_on;
use crate::harness::{Internet, SERVER_PORT, counters, in_namespace};

/// The links of networks by address translation.
pub(super) const LINKS: &str = "198.18.0.0/24";
/// How long anything may take that must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What networks by address translation are made of.
pub(super) fn nat(folder: &Path, uplink: &str, ready: usize) -> Result<NetworkSpec> {
    spec(folder, Egress::Nat { uplink: Some(uplink.to_owned()) }, LINKS, ready)
}

/// What networks on a bridge are made of.
pub(super) fn bridge(folder: &Path, internet: &Internet) -> Result<NetworkSpec> {
    let name = internet.bridge()?.to_owned();
    spec(folder, Egress::Bridge { name, gateway: internet.server }, &internet.links(), 0)
}

fn spec(folder: &Path, egress: Egress, links: &str, ready: usize) -> Result<NetworkSpec> {
    Ok(NetworkSpec {
        state_dir: folder.to_owned(),
        egress,
        links: links.parse()?,
        reach: Reach { deny: PRIVATE.to_vec(), ..Reach::default() },
        ready,
    })
}

/// A network with one guest's end.
pub(super) struct Cable {
    pub(super) network: Network,
    pub(super) internet: Internet,
    pub(super) namespace: OwnedFd,
    /// Who the internet believes to hear.
    outside: Ipv4Addr,
    tap: File,
    _lease: Lease,
    _folder: tempfile::TempDir,
}

impl Cable {
    /// Out with the host's address.
    pub(super) fn by_nat() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let internet = Internet::new()?;
        let network = Network::open(&nat(folder.path(), &internet.uplink, 0)?)?;
        let outside = internet.host;
        Self::of(network, internet, outside, folder)
    }

    /// Out with its link's own address.
    pub(super) fn by_bridge() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let internet = Internet::bridged()?;
        let spec = bridge(folder.path(), &internet)?;
        let outside = spec.links.nth(1).context("no address")?;
        let network = Network::open(&spec)?;
        Self::of(network, internet, outside, folder)
    }

    fn of(
        network: Network,
        internet: Internet,
        outside: Ipv4Addr,
        _folder: tempfile::TempDir,
    ) -> Result<Self> {
        let attachment = block_on(async { Ok(network.take().await?) })?;
        let NetworkDevice { tap, namespace } = attachment.device;
        rustix::io::ioctl_fionbio(&tap, true)?;
        let _lease = attachment.lease;
        Ok(Self { network, internet, namespace, outside, tap, _lease, _folder })
    }

    pub(super) fn send(&self, frame: &[u8]) -> Result<()> {
        let written = (&self.tap).write(frame)?;
        ensure!(written == frame.len(), "{written} bytes of {}", frame.len());
        Ok(())
    }

    /// The next frame for the guest.
    pub(super) fn receive(&self) -> Result<Vec<u8>> {
        let started = Instant::now();
        let mut buffer = vec![0; 2048];
        loop {
            match (&self.tap).read(&mut buffer) {
                Ok(len) => return Ok(buffer.get(HEADER..len).context("no header")?.to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            ensure!(started.elapsed() < PATIENCE, "no frame came");
            std::thread::yield_now();
        }
    }

    /// What was dropped so far: in the namespace, and on the host behind `host/`.
    pub(super) fn dropped(&self) -> Result<BTreeMap<String, u64>> {
        let mut all = in_namespace(&self.namespace, counters)?;
        all.extend(counters()?.into_iter().map(|(name, count)| (format!("host/{name}"), count)));
        Ok(all)
    }

    /// Does something that one more packet must be dropped for, under this name.
    pub(super) fn expect_drop(
        &self,
        what: &str,
        name: &str,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let count = || Ok::<_, anyhow::Error>(self.dropped()?.get(name).copied().unwrap_or(0));
        let (before, started) = (count()?, Instant::now());
        act()?;
        while count()? <= before {
            ensure!(
                started.elapsed() < PATIENCE,
                "{what}: not counted as {name}: {:?}",
                self.dropped()?
            );
        }
        println!("{what:<44} dropped as {name}");
        Ok(())
    }

    /// Checks that the internet hears this, and heard nothing else before it.
    pub(super) fn expect_heard(&self, text: &str) -> Result<SocketAddr> {
        self.send(&Datagram::to(self.internet.server, SERVER_PORT, text).frame())?;
        let (from, heard) = self.internet.hear()?;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        ensure!(heard == text, "{heard:?} came before {text:?}");
        ensure!(from.ip() == self.outside, "it came from {from}");
        Ok(from)
    }
}
