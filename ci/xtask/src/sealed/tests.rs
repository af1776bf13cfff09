//! Tests of judging programs by their budgets.

use super::{Budget, Measured, PROGRAMS, has_no_interpreter, judge};

#[test]
fn what_is_over_its_budget_is_named() {
    let budget = Budget { name: "votive-x".to_owned(), bytes: 100, crates: 2 };
    let within = Measured { bytes: 100, crates: 2, is_static: true };
    assert_eq!(judge(&budget, &within), [""; 0]);
    let over = Measured { bytes: 101, crates: 3, is_static: false };
    assert_eq!(
        judge(&budget, &over),
        [
            "votive-x has 101 bytes, at most 100",
            "votive-x consists of 3 crates, at most 2",
            "votive-x is not static: it names an interpreter",
        ]
    );
}

#[test]
fn a_dynamic_program_is_told_from_a_static_one() {
    let program = |kind: u8| {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (file[32], file[54], file[56]) = (64, 56, 2);
        (file[64], file[64 + 56]) = (1, kind);
        file
    };
    assert_eq!(has_no_interpreter(&program(1)), Some(true));
    assert_eq!(has_no_interpreter(&program(3)), Some(false));
    assert_eq!(has_no_interpreter(&program(3)[..80]), None);
    assert_eq!(has_no_interpreter(b"#!/bin/sh\n"), None);
}

#[test]
fn the_goals_of_the_project_stand_in_the_budgets() {
    let text = include_str!("../../../budgets.toml");
    let budgets: super::Budgets = toml::from_str(text).unwrap();
    let names: Vec<&str> = budgets.program.iter().map(|budget| budget.name.as_str()).collect();
    assert_eq!(names, PROGRAMS.map(|program| program.name()));
    let budget = |name| budgets.program.iter().find(|budget| budget.name == name).unwrap();
    let vmm = budget("votive-vmm");
    assert!(vmm.bytes <= 1_500_000 && vmm.crates <= 40);
    assert!(budget("votive-init").bytes <= 200_000);
}
