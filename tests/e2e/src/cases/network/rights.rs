//! What makes networks needs two capabilities, and no root.

use std::os::unix::fs::chown;

use anyhow::{Result, anyhow, ensure};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use votive_agent::network::{Network, NetworkSpec};

use super::cable::{bridge, nat};
use super::{alone, left};
use crate::cases::Case;
use crate::cases::pauses::block_on;
use crate::harness::Internet;

pub(crate) const CASES: &[(&str, Case)] =
    &[("networks_are_made_by_a_user_with_two_capabilities", two_capabilities)];

const USER: u32 = 65_534;
const NEEDED: [CapabilitySet; 2] = [CapabilitySet::NET_ADMIN, CapabilitySet::SYS_ADMIN];

/// Has this thread, and what it starts, go on as another user with nothing but [`NEEDED`].
fn give_up_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
    rustix::thread::set_keep_capabilities(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let needed = NEEDED.into_iter().collect();
    let sets = CapabilitySets { effective: needed, permitted: needed, inheritable: needed };
    rustix::thread::set_capabilities(None, sets)?;
    for capability in NEEDED {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn make(spec: &NetworkSpec) -> Result<()> {
    give_up_root()?;
    ensure!(std::fs::write("/proc/sys/kernel/hostname", "x").is_err(), "it is root still");
    let network = Network::open(spec)?;
    let taken = block_on(async { Ok(network.take().await?) })?;
    ensure!(left()?.iter().any(|name| name.starts_with("vtv")), "no link");
    drop(taken);
    network.close();
    Ok(())
}

fn two_capabilities() -> Result<()> {
    let _alone = alone();
    let (internet, lan) = (Internet::new()?, Internet::bridged()?);
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    for folder in &folders {
        chown(folder.path(), Some(USER), Some(USER))?;
    }
    let specs = [nat(folders[0].path(), &internet.uplink, 0)?, bridge(folders[1].path(), &lan)?];
    for spec in &specs {
        // Capabilities are a thread's own.
        let made = std::thread::scope(|scope| scope.spawn(|| make(spec)).join());
        made.map_err(|_| anyhow!("a thread failed"))??;
        ensure!(left()?.is_empty(), "{:?}", left()?);
    }
    Ok(())
}
