//! Whether tenants of this host could learn of each other through it.

use std::path::{Path, PathBuf};

use crate::doctor::Finding;

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

const FLAWS: &str = "sys/devices/system/cpu/vulnerabilities";

/// Everything that was looked at. What the kernel does not tell is not there.
#[must_use]
pub fn findings(files: &Files) -> Vec<Finding> {
    let same_page = files.read("sys/kernel/mm/ksm/run");
    let threads = files.read("sys/devices/system/cpu/smt/active");
    // The first line of /proc/swaps is its heading.
    let swaps = files.read("proc/swaps").map(|text| text.lines().skip(1).count());
    let mut findings = vec![
        finding(
            "KSM",
            same_page.as_deref() == Some("1"),
            "the kernel merges equal pages of microVMs: the time of a write tells what others hold",
            "echo 2 > /sys/kernel/mm/ksm/run",
        ),
        finding(
            "swap",
            swaps.is_some_and(|count| count > 0),
            "there is swap: payloads can reach a disk",
            "swapoff -a, or encrypt it",
        ),
        finding(
            "SMT",
            threads.as_deref() == Some("1"),
            "microVMs of several tenants share a core's threads",
            "nosmt on the kernel's command line",
        ),
    ];
    findings.extend(processor_flaws(files));
    findings
}

fn finding(subject: &'static str, flaw: bool, text: &str, fix: &str) -> Finding {
    Finding {
        subject,
        ok: !flaw,
        text: if flaw { text.to_owned() } else { String::from("as it should be") },
        fix: flaw.then(|| fix.to_owned()),
    }
}

fn processor_flaws(files: &Files) -> Vec<Finding> {
    let entries = std::fs::read_dir(files.root.join(FLAWS)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    let flaws = names.into_iter().filter_map(|name| {
        let state = files.read(&format!("{FLAWS}/{name}"))?;
        let text = format!("{name}: {state}");
        state.starts_with("Vulnerable").then(|| {
            finding("processor", true, &text, "update kernel and microcode; mitigations=auto")
        })
    });
    flaws.collect()
}
