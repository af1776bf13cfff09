//! The probe's words, judged.

use super::*;

const VIRTUAL: &str = "processor\t: 0\nflags\t\t: fpu svm hypervisor lm\n";
const BARE: &str = "processor\t: 0\nflags\t\t: fpu vmx lm\n";

fn said(line: &str, cpuinfo: &str) -> (KvmKind, String) {
    judge(&Probe::Said(String::from(line)), cpuinfo)
}

#[test]
fn each_kind_is_told_with_its_reason() {
    for (line, cpuinfo, kind, reason) in [
        ("kvm=native loop_ns=4200", BARE, KvmKind::Hardware, "took 0.004 ms"),
        ("kvm=native loop_ns=4200", VIRTUAL, KvmKind::Nested, "nested virtualization"),
        ("kvm=emulated loop_ns=24000000", VIRTUAL, KvmKind::Emulated, "took 24.000 ms"),
        ("kvm=absent", BARE, KvmKind::Absent, "there is no /dev/kvm"),
        ("kvm=no-permission", BARE, KvmKind::NoPermission, "may not be opened"),
        ("kvm=failed error=KVM_RUN: Bad address", BARE, KvmKind::Unknown, "KVM_RUN: Bad address"),
        ("nonsense", BARE, KvmKind::Unknown, "nonsense"),
        ("", BARE, KvmKind::Unknown, "the probe failed"),
    ] {
        let (found, text) = said(line, cpuinfo);
        assert_eq!(found, kind, "{line}");
        assert!(text.contains(reason), "{line}: {text}");
    }
}

#[test]
fn only_kinds_that_boot_linux_can_run_guests() {
    let can = [KvmKind::Hardware, KvmKind::Nested];
    let cannot = [KvmKind::Emulated, KvmKind::NoPermission, KvmKind::Absent, KvmKind::Unknown];
    assert!(can.into_iter().all(KvmKind::can_run_guests));
    assert!(!cannot.into_iter().any(KvmKind::can_run_guests));
}

#[test]
fn a_vmm_that_is_missing_is_a_finding_with_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::find(Some(folder.path()), None).unwrap();
    let diagnosis = diagnose(&images);
    assert_eq!(diagnosis.kind, KvmKind::Unknown);
    assert!(diagnosis.findings.iter().all(|finding| finding.ok != finding.fix.is_some()));
    let object = diagnosis.to_json();
    assert_eq!(object["can_run_guests"], false);
    assert_eq!(object["kind"], "unknown");
    assert!(object["reason"].as_str().unwrap().contains("cannot be asked"));
    assert!(diagnosis.to_text().contains("This host cannot run guests"));
}

#[test]
fn available_memory_is_read_in_mib() {
    assert_eq!(available_mib("MemTotal: 1 kB\nMemAvailable:   524288 kB\n"), Some(512));
    assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
}

#[test]
fn a_probe_that_fails_is_told_with_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let vmm = folder.path().join("votive-vmm");
    let script = "#!/bin/sh\necho \"$1: no such option\" >&2\nexit 2\n";
    std::fs::write(&vmm, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&vmm, mode).unwrap();
    let Probe::Failed(why) = probe_kvm(&vmm) else { panic!("it said something") };
    assert!(why.ends_with("failed: --probe-kvm: no such option"), "{why}");
}
