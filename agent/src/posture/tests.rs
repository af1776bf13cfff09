//! Postures of hosts that are folders.

use super::{Files, Flaw, Posture, version};
use crate::fixture::folder;

fn posture(entries: &[(&str, &str)]) -> Posture {
    Posture::of(&Files::below(folder(entries).path()))
}

const SWAPS: &str = "Filename Type Size Used Priority\n";
const CPU: &str = "sys/devices/system/cpu/vulnerabilities";

#[test]
fn a_host_as_it_should_be_has_no_flaw() {
    let good = posture(&[
        ("sys/kernel/mm/ksm/run", "2\n"),
        ("sys/devices/system/cpu/smt/active", "0\n"),
        ("proc/swaps", SWAPS),
        ("proc/sys/kernel/core_pattern", "core\n"),
        ("proc/sys/kernel/osrelease", "6.1.0-28-cloud-amd64\n"),
        (&format!("{CPU}/tsa"), "Not affected\n"),
        (&format!("{CPU}/mds"), "Mitigation: Clear CPU buffers; SMT vulnerable\n"),
        (&format!("{CPU}/l1tf"), "Mitigation: PTE Inversion; VMX: cache flushes, SMT disabled\n"),
        (&format!("{CPU}/itlb_multihit"), "KVM: Mitigation: Split huge pages\n"),
    ]);
    assert_eq!(good.flaws, []);
    assert!(good.findings().iter().all(|finding| finding.ok && finding.fix.is_none()));
    // A kernel that tells nothing.
    assert_eq!(posture(&[]).flaws, []);
}

#[test]
fn each_flaw_is_told_with_what_was_seen_and_what_to_do() {
    let bad = posture(&[
        ("sys/kernel/mm/ksm/run", "1\n"),
        ("sys/devices/system/cpu/smt/active", "1\n"),
        ("proc/swaps", &format!("{SWAPS}/dev/sda2 partition 8 0 -2\n")),
        ("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n"),
        ("proc/sys/kernel/osrelease", "5.15.0-generic\n"),
        (&format!("{CPU}/mds"), "Vulnerable: no microcode\n"),
        (&format!("{CPU}/l1tf"), "Mitigation: PTE Inversion; VMX: vulnerable\n"),
        (&format!("{CPU}/tsa"), "Not affected\n"),
    ]);
    let flaws: Vec<_> = bad.flaws.iter().map(|(flaw, _)| *flaw).collect();
    assert_eq!(flaws, Flaw::ALL);
    let findings = bad.findings();
    assert!(findings.iter().all(|finding| !finding.ok && finding.fix.is_some()));
    let text = |flaw: Flaw| &findings.iter().find(|f| f.subject == flaw.name()).unwrap().text;
    assert_eq!(
        text(Flaw::Processor),
        "l1tf: Mitigation: PTE Inversion; VMX: vulnerable; mds: Vulnerable: no microcode"
    );
    assert_eq!(text(Flaw::Kernel), "Linux 5.15.0-generic");
    assert!(text(Flaw::CoreDumps).ends_with("|/usr/lib/systemd/systemd-coredump %P"));
}

#[test]
fn only_what_is_accepted_by_name_is_accepted() {
    let bad =
        posture(&[("sys/kernel/mm/ksm/run", "1\n"), ("sys/devices/system/cpu/smt/active", "1\n")]);
    let left = |accepted: &[Flaw]| -> Vec<_> {
        bad.unaccepted(accepted).into_iter().map(|finding| finding.subject).collect()
    };
    assert_eq!(left(&[]), ["same-page-merging", "sibling-threads"]);
    assert_eq!(left(&[Flaw::SiblingThreads, Flaw::Swap]), ["same-page-merging"]);
    assert_eq!(left(&Flaw::ALL), Vec::<&str>::new());
}

#[test]
fn a_dump_that_goes_nowhere_is_no_flaw() {
    for pattern in ["core", "/var/crash/%p", "|/bin/false", ""] {
        assert_eq!(posture(&[("proc/sys/kernel/core_pattern", pattern)]).flaws, [], "{pattern}");
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    assert_eq!(version("6.1.0-28-cloud-amd64"), Some((6, 1)));
    assert_eq!(version("6.18.44-fc"), Some((6, 18)));
    assert!(version("10.0") > version("6.18"));
    for text in ["", "6", "six.one"] {
        assert_eq!(version(text), None, "{text}");
    }
}

#[test]
fn names_are_those_of_the_configuration() {
    for flaw in Flaw::ALL {
        let name = serde_json::to_value(flaw).unwrap();
        assert_eq!(name, flaw.name());
    }
}
