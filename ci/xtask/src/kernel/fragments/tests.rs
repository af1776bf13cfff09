//! Tests of fragments: the project's own files, and the check against a final configuration.

use super::{Fragment, read_folder, setting, unmet};
use crate::workspace;

fn fragment(text: &str) -> Vec<Fragment> {
    vec![Fragment { name: "a.config".to_owned(), text: text.to_owned() }]
}

#[test]
fn options_that_did_not_take_are_named() {
    let wanted =
        fragment("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\n# CONFIG_D is not set\n");
    assert_eq!(unmet(&wanted, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=32\n"), [""; 0]);
    assert_eq!(
        unmet(&wanted, "CONFIG_B=y\nCONFIG_C=64\n"),
        [
            "a.config: A should be y, is n",
            "a.config: B should be n, is y",
            "a.config: C should be 32, is 64"
        ]
    );
}

#[test]
fn the_last_word_on_an_option_counts() {
    let mut wanted = fragment("CONFIG_A=y\n");
    wanted.push(Fragment { name: "b.config".into(), text: "# CONFIG_A is not set\n".into() });
    assert_eq!(unmet(&wanted, ""), [""; 0]);
    assert_eq!(unmet(&wanted, "CONFIG_A=y\n"), ["b.config: A should be n, is y"]);
}

#[test]
fn every_option_of_the_project_has_its_why_and_stands_once() {
    let folder = workspace::root().unwrap().join("kernel-config");
    let fragments = read_folder(&folder).unwrap();
    assert!(fragments.len() >= 5, "too few fragments in {}", folder.display());
    let mut seen = std::collections::BTreeMap::new();
    for fragment in &fragments {
        let mut explained = false;
        for line in fragment.text.lines() {
            if let Some((option, _)) = setting(line) {
                assert!(explained, "{}: {line} has no comment above it", fragment.name);
                let before = seen.insert(option.to_owned(), fragment.name.clone());
                assert_eq!(before, None, "{option} stands twice, again in {}", fragment.name);
            } else {
                // A blank line ends what a comment explains.
                explained = line.starts_with("# ");
                assert!(explained || line.is_empty(), "{}: odd line {line}", fragment.name);
            }
        }
    }
}
