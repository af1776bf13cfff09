//! Tests of the list of packages: everything that is started or named by a recipe is in one of them.

use super::{TOOLS, package_of};
use crate::rootfs::recipe::Recipe;
use crate::workspace;

/// What every Debian has.
const ESSENTIAL: &[&str] = &[
    "apt-get",
    "cp",
    "dpkg-deb",
    "dpkg-query",
    "find",
    "gzip",
    "mkfifo",
    "sh",
    "tar",
    "timeout",
    "unshare",
];

/// Programs that are looked for before they are started, each with another way where they are missing.
const OPTIONAL: &[&str] = &["sudo", "cargo", "cargo-deny", "cargo-nextest"];

/// What runs in the lab or in a guest finds the programs that are there.
const ELSEWHERE: &[&str] = &["lab-init.rs", "warm-guest.rs"];

#[test]
fn packages_are_listed_once_and_in_order() {
    assert!(TOOLS.is_sorted_by(|one, next| one.package < next.package));
}

#[test]
fn every_program_that_is_started_by_name_is_in_a_package() {
    let root = workspace::root().unwrap();
    let mut seen = 0;
    for folder in ["agent", "artifact", "ci", "guest-init", "tests", "vmm"] {
        for item in walkdir::WalkDir::new(root.join(folder)) {
            let item = item.unwrap();
            let path = item.path();
            if path.extension().is_none_or(|it| it != "rs")
                || ELSEWHERE.iter().any(|file| path.ends_with(file))
            {
                continue;
            }
            let text = std::fs::read_to_string(item.path()).unwrap();
            for started in text.split(concat!("Command::", "new(\"")).skip(1) {
                let program = started.split('"').next().unwrap();
                let known = package_of(program).is_some()
                    || ESSENTIAL.contains(&program)
                    || OPTIONAL.contains(&program);
                assert!(known, "{} starts {program}, of no package", item.path().display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "the search finds what it looks for");
}

#[test]
fn every_tool_that_a_recipe_names_is_installed() {
    let folder = workspace::root().unwrap().join("rootfs");
    let recipe = Recipe::read(&folder, "nodejs24").unwrap();
    let tools = recipe.node.unwrap().tools;
    assert!(tools.len() > 3);
    for wanted in tools {
        assert!(TOOLS.iter().any(|tool| tool.package == wanted), "{wanted}");
    }
}
