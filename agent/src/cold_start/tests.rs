//! The table from a known timeline.

use super::*;

fn at(ms: u64) -> Moment {
    Moment::from_nanoseconds(ms * 1_000_000)
}

#[test]
fn each_phase_ends_where_the_next_begins() {
    let mark = |name: &str, ms| Mark { name: String::from(name), at: at(ms) };
    let mut timeline = Timeline {
        command: Some(at(1)),
        spawned: Some(at(11)),
        marks: vec![
            mark("start", 13),
            mark("machine", 14),
            mark("run", 16),
            mark("guest-0x01", 21),
        ],
        invoked: Some(at(41)),
        finished: Some(at(48)),
        ..Timeline::default()
    };
    timeline.note_phase(PhaseName::Configured, at(22));
    timeline.note_phase(PhaseName::RuntimeStarted, at(27));
    timeline.note_phase(PhaseName::InitOver, at(40));
    // A second start of the runtime is no part of the cold start's first phases.
    timeline.note_phase(PhaseName::RuntimeStarted, at(99));
    let figures: Vec<_> = timeline.phases().iter().map(|p| (p.name, p.duration)).collect();
    let ms = |ms| Some(Duration::from_millis(ms));
    assert_eq!(
        figures,
        [
            ("images", ms(10)),
            ("process start", ms(2)),
            ("KVM set-up", ms(3)),
            ("kernel", ms(5)),
            ("PID 1", ms(6)),
            ("runtime init", ms(13)),
            ("handler", ms(7)),
        ]
    );
    assert_eq!(timeline.total(), ms(37));
    assert!(timeline.table().contains("  KVM set-up          3.00 ms"), "{}", timeline.table());
    assert_eq!(timeline.to_json()["phases"][3]["ms"], 5.0);
}

#[test]
fn what_was_not_seen_is_not_made_up() {
    let timeline = Timeline { spawned: Some(at(5)), ..Timeline::default() };
    assert!(timeline.phases().iter().all(|phase| phase.duration.is_none()));
    assert!(timeline.table().contains("kernel                 - ms"), "{}", timeline.table());
}
