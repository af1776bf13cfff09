//! Counts, and how much of them is told.

use super::*;

#[test]
fn each_reason_has_its_own_count_and_name() {
    let tally = Tally::default();
    for (index, cut) in Cut::ALL.iter().enumerate() {
        assert_eq!(*cut as usize, index);
        for _ in 0..=index {
            tally.cut(*cut, None, &"test");
        }
    }
    for (index, cut) in Cut::ALL.iter().enumerate() {
        assert_eq!(tally.count(*cut), index as u64 + 1);
        let same = Cut::ALL.iter().filter(|other| other.name() == cut.name()).count();
        assert_eq!(same, 1, "{}", cut.name());
    }
}

#[test]
fn a_flood_fills_no_log() {
    let mut lines = Lines::default();
    let start = Moment::from_nanoseconds(5_000_000_000);
    let told = (0..1000).filter(|_| lines.admit(start).is_some()).count();
    assert_eq!(told as u64, LINES_MAX);
    assert_eq!(lines.admit(start + WINDOW), Some(1000 - LINES_MAX));
    assert_eq!(lines.admit(start + WINDOW), Some(0));
}

#[test]
fn the_page_names_every_reason_and_every_call() {
    let page = include_str!("../../../../docs/control-channel.md");
    let (_, counted) = page.split_once("## What is counted and told").unwrap();
    for cut in Cut::ALL {
        assert!(counted.contains(&format!("`{}`", cut.name())), "{}", cut.name());
    }
    for call in crate::control::calls::CALLS {
        let row = page.lines().find(|line| line.starts_with(&format!("| {} |", call.role)));
        assert!(row.unwrap().contains(&format!("`{}`", call.name)), "{}", call.name);
    }
}
