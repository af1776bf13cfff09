//! Names, targets and what becomes of them in a tree.

use proptest::prelude::*;

use super::*;

#[test]
fn names_that_leave_or_confuse_are_refused() {
    let long = "a".repeat(256);
    let deep = "a/".repeat(65);
    let endless = "ab/".repeat(1400);
    for (raw, expect) in [
        (&b"../x"[..], BadName::Parent),
        (b"a/../x", BadName::Parent),
        (b"a/..", BadName::Parent),
        (b"/etc/passwd", BadName::Absolute),
        (b"//x", BadName::Absolute),
        (b"", BadName::Empty),
        (b"a\0b", BadName::Nul),
        (b"\xff\xfe", BadName::NotUtf8),
        (long.as_bytes(), BadName::TooLong),
        (deep.as_bytes(), BadName::TooLong),
        (endless.as_bytes(), BadName::TooLong),
    ] {
        assert_eq!(Name::parse(raw).unwrap_err(), expect, "{}", raw.escape_ascii());
    }
}

#[test]
fn harmless_names_keep_their_parts() {
    for (raw, parts, folder) in [
        ("a.py", &["a.py"][..], false),
        ("./a//b/./c", &["a", "b", "c"], false),
        ("a/", &["a"], true),
        ("./", &[], true),
        ("..a/b..", &["..a", "b.."], false),
        ("über/\\x", &["über", "\\x"], false),
    ] {
        let name = Name::parse(raw.as_bytes()).unwrap();
        assert_eq!((&name.parts[..], name.folder), (parts, folder), "{raw}");
    }
}

fn file() -> Node {
    Node::File { entry: 0, mode: 0o644 }
}

fn add(root: &mut Node, raw: &str, node: Node) -> Result<usize, BadName> {
    let mut made = 0;
    insert(root, &Name::parse(raw.as_bytes())?, node, &mut made).map(|()| made)
}

#[test]
fn implied_folders_are_counted_once() {
    let mut root = Node::implied();
    assert_eq!(add(&mut root, "a/b/c", file()), Ok(3));
    assert_eq!(add(&mut root, "a/b/d", file()), Ok(1));
    assert_eq!(add(&mut root, "a/", Node::implied()), Ok(0));
    assert_eq!(add(&mut root, "./", Node::implied()), Ok(0));
}

#[test]
fn one_name_has_one_meaning() {
    let mut root = Node::implied();
    add(&mut root, "a", file()).unwrap();
    assert_eq!(add(&mut root, "./a", file()), Err(BadName::Duplicate));
    assert_eq!(add(&mut root, "a/b", file()), Err(BadName::Conflict));
    assert_eq!(add(&mut root, "a/", Node::implied()), Err(BadName::Conflict));
    add(&mut root, "l", Node::Link { target: "a".into() }).unwrap();
    assert_eq!(add(&mut root, "l/x", file()), Err(BadName::Conflict));
    add(&mut root, "d/x", file()).unwrap();
    assert_eq!(add(&mut root, "d", file()), Err(BadName::Conflict));
}

#[test]
fn links_stay_inside() {
    for (target, depth, inside) in [
        ("x", 0, true),
        ("../x", 1, true),
        ("../x", 0, false),
        ("../../x", 1, false),
        ("/etc", 5, false),
        // `a` could itself be a link to the root.
        ("a/../x", 3, false),
        ("./../x", 1, true),
        ("..", 1, true),
        ("..", 0, false),
    ] {
        assert_eq!(check_target(target.as_bytes(), depth).is_ok(), inside, "{target} at {depth}");
    }
    assert_eq!(check_target(b"", 0), Err(BadTarget::NotAPath));
    assert_eq!(check_target(b"a\0", 0), Err(BadTarget::NotAPath));
    assert_eq!(check_target(&[b'a'; 1025], 0), Err(BadTarget::NotAPath));
}

proptest! {
    /// Whatever a name holds, its parts are plain file names.
    #[test]
    fn parts_are_plain(raw in "[a./\\PC]{0,40}") {
        if let Ok(name) = Name::parse(raw.as_bytes()) {
            for part in &name.parts {
                prop_assert!(!part.is_empty() && *part != "." && *part != ".." && !part.contains('/'));
            }
            prop_assert!(name.parts.len() <= DEPTH);
        }
    }
}
