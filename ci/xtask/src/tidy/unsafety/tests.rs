//! Tests of the list of files that may hold `unsafe`.

use super::{SUSPENDS, judge};

#[test]
fn the_list_and_the_files_must_agree() {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let suspended = format!("#![{SUSPENDS}, reason = \"why\")]\n");
    let files = [file("a.rs", &suspended), file("b.rs", "//! Safe.\n"), file("c.md", &suspended)];
    assert_eq!(judge(&["a.rs"], &files), [""; 0]);
    let found = judge(&["b.rs"], &files);
    assert!(found.len() == 2 && found[0].starts_with("a.rs: ") && found[1].starts_with("b.rs: "));
}
