//! Every hostile guest against the real program, with few repetitions and fixed seeds. Needs /dev/kvm, of any kind.

#[cfg(test)]
mod cases {
    use std::time::Duration;

    use votive_hostile::plan::Plan;

    #[test]
    fn every_hostile_guest_leaves_devices_that_answer_or_ends_with_its_reason() {
        let plan = Plan {
            votive: env!("CARGO_BIN_EXE_votive-vmm").into(),
            firecracker: None,
            filter: String::new(),
            seed: 1,
            seeds: 3,
            steps: 1000,
            scale: 3,
            limit: Duration::from_secs(300),
            deadline: Duration::from_secs(1),
            jobs: 2,
            json: false,
            shard: (0, 1),
        };
        let mut table = Vec::new();
        let counts = plan.run(&mut table).unwrap();
        assert_eq!(counts.failed, 0, "{}", String::from_utf8_lossy(&table));
        assert!(counts.passed > 60, "{counts:?}");
    }
}
