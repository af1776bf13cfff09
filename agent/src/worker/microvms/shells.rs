//! Shells of this host: each in a control group and a jail of its own, as an environment's VMM is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DISKS_MAX, HostParts};
use crate::causes::with_causes;
use crate::cgroup::{CgroupSpec, EnvironmentCgroup};
use crate::microvm::{ProcessSpec, Shell};
use crate::shells::{Maker, Size, Waiting};

/// A shell with the control group that it is in.
#[derive(Debug)]
pub struct HostShell {
    pub(super) shell: Shell,
    pub(super) group: Option<EnvironmentCgroup>,
}

/// Makes shells of a VMM.
#[derive(Debug)]
pub(super) struct ShellMaker {
    vmm: PathBuf,
    host: HostParts,
    /// How many were made: their groups' names.
    made: AtomicU64,
}

impl ShellMaker {
    pub(super) fn new(vmm: PathBuf, host: HostParts) -> Self {
        Self { vmm, host, made: AtomicU64::new(0) }
    }
}

impl Maker for ShellMaker {
    type Shell = HostShell;

    async fn make(&self, size: Size) -> Result<HostShell, String> {
        let group = CgroupSpec {
            name: format!("shell-{}", self.made.fetch_add(1, Ordering::Relaxed)),
            memory_mb: size.memory_mb,
            guest_memory_mib: size.guest_memory_mib,
            vcpus: size.vcpus,
            disks: DISKS_MAX,
        };
        let host = self.host.clone();
        let held = tokio::task::spawn_blocking(move || host.hold(&group)).await;
        let held = held.map_err(|error| error.to_string())?;
        let held = held.map_err(|error| with_causes(&error))?;
        let spec = ProcessSpec {
            vmm: self.vmm.clone(),
            vcpus: size.vcpus,
            memory_mib: size.guest_memory_mib,
            disks: DISKS_MAX,
            kernel_memory: self.host.kernel_memory(),
            cgroup: held.procs,
            jail: held.jail,
        };
        match Shell::start(spec).await {
            Ok(shell) => Ok(HostShell { shell, group: held.group }),
            Err(error) => {
                remove(held.group).await;
                Err(with_causes(&error))
            }
        }
    }
}

impl Waiting for HostShell {
    async fn ended(&mut self) {
        self.shell.ended().await;
    }

    async fn end(self) -> String {
        let reason = self.shell.end().await;
        remove(self.group).await;
        reason
    }
}

async fn remove(group: Option<EnvironmentCgroup>) {
    if let Some(group) = group
        && let Err(error) = group.remove().await
    {
        tracing::warn!(error = with_causes(&error), "a control group stays until the next start");
    }
}
