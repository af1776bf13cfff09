//! Guests' networks: what a namespace and the host let through, and what microVMs reach.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::harness::{counters, ip};

pub(super) mod bridge;
mod cable;
pub(super) mod frames;
pub(super) mod microvms;
mod packet;
pub(super) mod rights;

/// These tests look at the host's links and rules, of which there is one set: one of them runs at a time, without what one that
/// failed has left.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let tables = Command::new("nft").args(["list", "tables"]).output();
    let tables = tables.map(|output| output.stdout).unwrap_or_default();
    for line in String::from_utf8_lossy(&tables).lines().filter(|line| line.contains(" votive_")) {
        // What stays, the test itself will tell.
        let _ = Command::new("nft").arg("delete").args(line.split(' ')).status();
    }
    alone
}

/// What agents have on the host: links, and rules by their names.
fn left() -> Result<Vec<String>> {
    let links = ip("-oneline link show")?;
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    let names = names.filter(|name| name.starts_with("vtv")).map(str::to_owned);
    Ok(names.chain(counters()?.into_keys()).collect())
}
