//! The host's posture: whether tenants could learn of each other through the host, or a tenant's memory could outlive it.
//!
//! A worker refuses to serve on a host with a flaw, unless the configuration accepts it by name (`host.accept`) or only asks to be
//! warned (`host.posture`). What was found is told in the log, by `votive doctor`, and as the metric `votive_host_flaws`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::doctor::Finding;

#[cfg(test)]
mod tests;

/// What a host can have wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// the kernel merges equal pages of microVMs: how long a write takes tells what others hold
    SamePageMerging,
    /// what microVMs hold can reach a disk that outlives them
    Swap,
    /// two tenants run on one core's threads at once and see each other's use of its caches
    SiblingThreads,
    /// the processor has a flaw that the kernel does not mitigate
    Processor,
    /// core dumps go to a program, whatever limit a process has
    CoreDumps,
    /// the kernel is too old for what isolates microVMs
    Kernel,
}

impl Flaw {
    /// Every one, in the order in which they are told.
    pub const ALL: [Self; 6] = [
        Self::SamePageMerging,
        Self::Swap,
        Self::SiblingThreads,
        Self::Processor,
        Self::CoreDumps,
        Self::Kernel,
    ];

    /// Its name in the configuration, in `votive doctor` and as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SamePageMerging => "same-page-merging",
            Self::Swap => "swap",
            Self::SiblingThreads => "sibling-threads",
            Self::Processor => "processor",
            Self::CoreDumps => "core-dumps",
            Self::Kernel => "kernel",
        }
    }

    fn fix(self) -> &'static str {
        match self {
            Self::SamePageMerging => "echo 2 > /sys/kernel/mm/ksm/run",
            Self::Swap => "swapoff -a",
            Self::SiblingThreads => "nosmt on the kernel's command line",
            Self::Processor => "update kernel and microcode; mitigations=auto,nosmt",
            Self::CoreDumps => "sysctl kernel.core_pattern=core",
            Self::Kernel => "Linux 6.1 or newer",
        }
    }
}

/// The oldest kernel that has all that isolates a microVM: `/dev/userfaultfd` came last (Linux 6.1).
const KERNEL_MIN: (u32, u32) = (6, 1);
const VULNERABILITIES: &str = "sys/devices/system/cpu/vulnerabilities";

/// Where the kernel tells.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Those of this host.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// Those below another root.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn read(&self, path: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }
}

/// The host's posture: for each flaw what was found of it, nothing where the host is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posture {
    /// Each flaw that the host has, and how that is known.
    pub flaws: Vec<(Flaw, String)>,
}

impl Posture {
    /// Looks at a host. What its kernel does not tell of is no flaw: a kernel without same-page merging has no file for it.
    #[must_use]
    pub fn of(files: &Files) -> Self {
        let look = |flaw| seen(files, flaw).map(|text| (flaw, text));
        Self { flaws: Flaw::ALL.into_iter().filter_map(look).collect() }
    }

    /// A finding for each thing that was looked at.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        Flaw::ALL.into_iter().map(|flaw| self.finding(flaw)).collect()
    }

    /// Findings of the flaws that the host has and that are not in `accepted`.
    #[must_use]
    pub fn unaccepted(&self, accepted: &[Flaw]) -> Vec<Finding> {
        let flaws = self.flaws.iter().map(|(flaw, _)| *flaw);
        flaws.filter(|flaw| !accepted.contains(flaw)).map(|flaw| self.finding(flaw)).collect()
    }

    fn finding(&self, flaw: Flaw) -> Finding {
        let seen = self.flaws.iter().find(|(other, _)| *other == flaw).map(|(_, text)| text);
        Finding {
            subject: flaw.name(),
            ok: seen.is_none(),
            text: seen.cloned().unwrap_or_else(|| String::from("as it should be")),
            fix: seen.map(|_| flaw.fix().to_owned()),
        }
    }
}

/// How it is known that the host has `flaw`, if it has.
fn seen(files: &Files, flaw: Flaw) -> Option<String> {
    match flaw {
        Flaw::SamePageMerging => (files.read("sys/kernel/mm/ksm/run")? == "1").then(|| {
            String::from(
                "the kernel merges equal pages: the time of a write tells what others hold",
            )
        }),
        Flaw::Swap => {
            // The first line of /proc/swaps is its heading.
            let count = files.read("proc/swaps")?.lines().skip(1).count();
            (count > 0).then(|| String::from("there is swap: payloads can reach a disk"))
        }
        Flaw::SiblingThreads => (files.read("sys/devices/system/cpu/smt/active")? == "1")
            .then(|| String::from("microVMs of several tenants share a core's threads")),
        Flaw::Processor => processor_flaws(files),
        Flaw::CoreDumps => {
            let pattern = files.read("proc/sys/kernel/core_pattern")?;
            // A program is given a dump even of a process whose limit is 0 (core(5)).
            let program = pattern.strip_prefix('|').is_some_and(|path| !path.ends_with("/false"));
            program.then(|| format!("core dumps go to a program: {pattern}"))
        }
        Flaw::Kernel => {
            let release = files.read("proc/sys/kernel/osrelease")?;
            (version(&release)? < KERNEL_MIN).then(|| format!("Linux {release}"))
        }
    }
}

/// The flaws of the processor that are open, in one line.
fn processor_flaws(files: &Files) -> Option<String> {
    let entries = std::fs::read_dir(files.root.join(VULNERABILITIES)).ok()?;
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let open = names.into_iter().filter_map(|name| {
        let state = files.read(&format!("{VULNERABILITIES}/{name}"))?;
        is_open(&state).then(|| format!("{name}: {state}"))
    });
    let open: Vec<_> = open.collect();
    (!open.is_empty()).then(|| open.join("; "))
}

/// Whether a line of the kernel's says that guests can use a flaw: as a whole, or as far as KVM goes (`l1tf` and
/// `itlb_multihit` tell that apart). What is open between sibling threads alone is [`Flaw::SiblingThreads`].
fn is_open(state: &str) -> bool {
    let guests = ["KVM: Vulnerable", "VMX: vulnerable"];
    state.starts_with("Vulnerable") || guests.into_iter().any(|words| state.contains(words))
}

/// The first two numbers of a kernel's release, such as `6.1.0-28-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
