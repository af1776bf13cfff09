//! Tests of the rules on names and texts.

use super::{LINES_MAX, complaints, missing_paths};

#[test]
fn a_plain_file_has_no_complaints() {
    assert_eq!(complaints("vmm/src/memory.rs", "//! Guest memory.\n"), [""; 0]);
    assert_eq!(complaints("docs/kernel.md", "# The kernel\n"), [""; 0]);
}

#[test]
fn each_rule_finds_its_offender() {
    let long = "//! Long.\n".repeat(LINES_MAX + 1);
    assert!(complaints("vmm/src/a.rs", &long)[0].contains("601 lines"));
    assert_eq!(complaints("vmm/src/a/tests.rs", &long), [""; 0]);
    assert!(complaints("vmm/src/a.rs", "fn f() {}\n")[0].contains("does not open"));
    assert!(complaints("vmm/src/utils.rs", "//! All.\n")[0].contains("`utils`"));
    assert!(complaints("vmm/src/a/mod.rs", "//! All.\n")[0].contains("`mod`"));
    let mark = format!("//! A.\n// {}: later\n", concat!("TO", "DO"));
    assert!(complaints("vmm/src/a.rs", &mark)[0].starts_with("vmm/src/a.rs:2: "));
    let host = format!("fetch https://{}/simple\n", concat!("pypi", ".org"));
    assert_eq!(complaints("docs/a.md", &host).len(), 1);
    assert_eq!(complaints("tests/fuzz/Cargo.lock", &host), [""; 0]);
    let folder = format!("see {}build\n", concat!("/wo", "rk/"));
    assert_eq!(complaints("docs/a.md", &folder).len(), 1);
}

#[test]
fn paths_in_documents_must_lead_somewhere() {
    let exists = |path: &str| ["vmm", "vmm/src/bus.rs", "README.md"].contains(&path);
    let good =
        "`vmm/`, `vmm/src/bus.rs`, `README.md`, `/dev/kvm`, `cargo xtask test`, `GET /next`, `a/b`";
    assert_eq!(missing_paths("README.md", good, &exists), [""; 0]);
    let bad = "one\n`vmm/src/gone.rs` and `gone.toml`\n";
    assert_eq!(
        missing_paths("README.md", bad, &exists),
        ["README.md:2: there is no `vmm/src/gone.rs`", "README.md:2: there is no `gone.toml`"]
    );
}
