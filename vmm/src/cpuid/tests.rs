//! Facts about the leaves.

use kvm_bindings::kvm_cpuid_entry2;

use super::leaves;

fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

/// A host that supports everything it can be asked about.
fn host() -> Vec<kvm_cpuid_entry2> {
    let all = [u32::MAX; 4];
    let mut host: Vec<_> =
        [1, 7, 0xa, 0xb, 0x1f, 0x4000_0000, 0x8000_0001, 0x8000_0008, 0x8000_001e, 0x8000_0022]
            .map(|function| leaf(function, 0, all))
            .into();
    host.push(leaf(0, 0, [0x1f, 1, 2, 3]));
    host.extend(
        [0x121, 0x143, 0x163, 0].iter().zip(0..).map(|(eax, n)| leaf(4, n, [*eax, 0, 0, 0])),
    );
    host
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found: Vec<_> =
        leaves.iter().filter(|leaf| (leaf.function, leaf.index) == (function, index)).collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
    *found[0]
}

#[test]
fn every_vcpu_has_its_own_apic_id_in_every_leaf_that_tells_it() {
    for (index, vcpus, bits) in [(0, 1, 0), (1, 2, 1), (2, 3, 2), (31, 32, 5)] {
        let leaves = leaves(&host(), true, index, vcpus);
        let (id, count) = (u32::from(index), u32::from(vcpus));
        assert_eq!(find(&leaves, 1, 0).ebx >> 24, id);
        assert_eq!(find(&leaves, 1, 0).ebx >> 16 & 0xff, count);
        assert_eq!(find(&leaves, 1, 0).edx >> 28 & 1 == 1, vcpus > 1);
        for level in 0..3 {
            assert_eq!(find(&leaves, 0xb, level).edx, id);
        }
        assert_eq!(find(&leaves, 0xb, 0).ebx, 1, "threads of a core");
        assert_eq!(find(&leaves, 0xb, 1).ebx, count, "cores of the package");
        assert_eq!(find(&leaves, 0xb, 1).eax, bits);
        assert_eq!(find(&leaves, 0x8000_001e, 0).eax, id);
        assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, (count - 1) | bits << 12);
    }
}

#[test]
fn nested_virtualisation_and_counters_are_hidden_and_the_hypervisor_is_not() {
    let leaves = leaves(&host(), true, 0, 1);
    let features = find(&leaves, 1, 0).ecx;
    assert_eq!(features & (1 << 5 | 1 << 15), 0, "VMX and performance capabilities");
    assert_eq!(features & (1 << 24 | 1 << 31), 1 << 24 | 1 << 31, "deadline timer, hypervisor");
    assert_eq!(find(&leaves, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
    let counters = find(&leaves, 0xa, 0);
    assert_eq!([counters.eax, counters.ebx, counters.ecx, counters.edx], [0; 4]);
    assert!(leaves.iter().all(|leaf| !matches!(leaf.function, 0x1f | 0x8000_0022)));
    assert_eq!(find(&leaves, 0x4000_0000, 0).eax, u32::MAX, "KVM's own leaves stay");
}

#[test]
fn only_the_last_cache_is_shared() {
    let leaves = leaves(&host(), false, 0, 4);
    let sharing = |index| find(&leaves, 4, index).eax >> 14 & 0xfff;
    assert_eq!([sharing(0), sharing(1), sharing(2)], [0, 0, 3]);
    assert_eq!(find(&leaves, 4, 3).eax, 0, "the end of the list stays its end");
}

#[test]
fn a_host_without_the_topology_leaf_gets_none() {
    let old = [leaf(0, 0, [7, 0, 0, 0]), leaf(1, 0, [0; 4])];
    assert!(leaves(&old, false, 0, 2).iter().all(|leaf| leaf.function != 0xb));
}
