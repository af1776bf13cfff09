//! Rules on what each crate may rest on: the trust boundaries of ARCHITECTURE.md, as far as a dependency list shows them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::subprocess;
use crate::workspace;

/// A crate and what must not be among its dependencies, however deep.
struct Boundary {
    package: &'static str,
    without: &'static [&'static str],
    why: &'static str,
}

const BOUNDARIES: &[Boundary] = &[
    Boundary {
        package: "votive-vmm",
        without: &[
            "tokio",
            "hyper",
            "httparse",
            "serde_json",
            "rustls",
            "ring",
            "aws-lc-rs",
            "openssl",
            "aes-gcm",
            "sha2",
            "votive-agent",
            "votive-artifact",
            "votive-protocol",
        ],
        why: "the VMM knows no invocation, no HTTP, no JSON, and is given no key",
    },
    Boundary {
        package: "votive-agent",
        without: &["kvm-ioctls", "kvm-bindings", "vm-memory", "votive-vmm", "openssl", "ring"],
        why: "the agent never opens /dev/kvm and never maps guest memory",
    },
    Boundary {
        package: "votive-jailer",
        without: &["tokio", "serde", "serde_json", "kvm-ioctls", "votive-agent", "votive-vmm"],
        why: "the jailer parses its command line and nothing else",
    },
    Boundary {
        package: "votive-init",
        without: &["libc", "tokio", "serde_json", "votive-agent"],
        why: "PID 1 has no libc and no heap",
    },
    Boundary {
        package: "votive-protocol",
        without: &["libc", "tokio", "serde_json", "rustix"],
        why: "frames are data, whatever carries them",
    },
];

/// The crates that run without the standard library.
const NO_STD: &[&str] =
    &["protocol/src/lib.rs", "guest-init/src/lib.rs", "tests/hostile/guest/src/lib.rs"];

/// The complaints about the workspace in `root`.
pub(super) fn complaints(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for boundary in BOUNDARIES {
        let mut tree = workspace::cargo(root);
        tree.args(["tree", "--quiet", "--locked", "--package", boundary.package]);
        tree.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
        found.extend(judge(boundary, &subprocess::output(&mut tree)?));
    }
    for name in NO_STD {
        let text = fs::read_to_string(root.join(name)).with_context(|| (*name).to_owned())?;
        if !text.lines().any(|line| line.starts_with("#![") && line.contains("no_std")) {
            found.push(format!("{name}: not `no_std`"));
        }
    }
    Ok(found)
}

/// Judges the output of `cargo tree`: one `name version` a line, the crate itself first, repeats possible.
fn judge(boundary: &Boundary, tree: &str) -> Vec<String> {
    let names: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != boundary.package)
        .collect();
    boundary
        .without
        .iter()
        .filter(|name| names.contains(*name))
        .map(|name| format!("{} depends on {name}: {}", boundary.package, boundary.why))
        .collect()
}

#[cfg(test)]
mod tests;
