//! Names and the order of what they lead to.

use super::*;

fn file() -> Inode {
    Inode { attributes: Attributes::of_root(0o644), kind: Kind::File { size: 0 } }
}

fn folder(parent: InodeId) -> Inode {
    Inode { attributes: Attributes::of_root(0o755), kind: Kind::folder(parent) }
}

#[test]
fn folders_come_before_what_is_in_them_and_names_are_counted() {
    let mut tree = Tree::new(Attributes::of_root(0o755));
    let hidden = tree.add(file());
    let b = tree.add(folder(Tree::ROOT));
    let twice = tree.add(file());
    let inner = tree.add(folder(b));
    for (parent, name, child) in
        [(Tree::ROOT, "b", b), (b, "z", twice), (Tree::ROOT, "c", twice), (b, "a", inner)]
    {
        tree.children_mut(parent).unwrap().insert(name.into(), child);
    }
    assert_eq!(tree.in_path_order(), [Tree::ROOT, b, inner, twice]);
    let links = tree.link_counts();
    for (id, expect) in [(Tree::ROOT, 3), (b, 3), (inner, 2), (twice, 2), (hidden, 0)] {
        assert_eq!(links[id.index()], expect, "{id:?}");
    }
}
