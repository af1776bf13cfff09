//! Facts about marks.

use std::io::{Read, Seek};

use super::{Marks, monotonic_ns};

fn lines(act: impl FnOnce(&Marks)) -> Vec<(String, u64)> {
    let mut file = tempfile::tempfile().unwrap();
    let marks = Marks::new(monotonic_ns(), Some(file.try_clone().unwrap()));
    act(&marks);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let line = |line: &str| {
        let (name, ns) = line.split_once(' ').unwrap();
        (name.to_owned(), ns.parse().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn marks_are_in_the_order_of_time() {
    let before = monotonic_ns();
    let lines = lines(|marks| {
        marks.machine();
        marks.run();
        marks.guest(1);
        marks.guest(0xfe);
    });
    let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["start", "machine", "run", "guest-0x01", "guest-0xfe"]);
    assert!(lines.is_sorted_by_key(|(_, ns)| *ns));
    assert!(lines[0].1 >= before && lines[4].1 <= monotonic_ns());
}

#[test]
fn a_guest_that_never_stops_marking_gets_sixty_four_lines() {
    assert_eq!(lines(|marks| (0..1000).for_each(|_| marks.guest(7))).len(), 64);
}
