//! What a guest's CPUID says: what the host's KVM supports, less what a function must not have, with
//! the topology of this machine: one package, one core a vCPU, no hyper-threads, APIC id = index.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const VENDOR: u32 = 0;
const FEATURES: u32 = 1;
const INTEL_CACHES: u32 = 4;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const EXTENDED_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_PERFORMANCE: u32 = 0x8000_0022;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

const ECX_VMX: u32 = 1 << 5;
const ECX_PDCM: u32 = 1 << 15;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HYPER_THREADING: u32 = 1 << 28;
const CLFLUSH_QUADWORDS: u32 = 8;

const ECX_SVM: u32 = 1 << 2;
/// Extended performance counters of a core, of the northbridge, of time stamps and of the last cache.
const ECX_AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 27 | 1 << 28;

const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
const CACHE_OF_ALL: u32 = 3;

/// The leaves of vCPU `index` of a machine with `vcpus` vCPUs, from what KVM supports.
///
/// Nested virtualisation and performance counters are left out: a function needs neither, and both
/// are ways to look at or lean on its neighbours.
#[must_use]
pub fn leaves(
    supported: &[kvm_cpuid_entry2],
    tsc_deadline: bool,
    index: u8,
    vcpus: u8,
) -> Vec<kvm_cpuid_entry2> {
    let kept = |entry: &&kvm_cpuid_entry2| {
        !matches!(entry.function, TOPOLOGY | TOPOLOGY_V2 | AMD_TOPOLOGY_V2 | AMD_PERFORMANCE)
    };
    let mut leaves: Vec<_> = supported.iter().filter(kept).copied().collect();
    for leaf in &mut leaves {
        shape(leaf, tsc_deadline, u32::from(index), u32::from(vcpus));
    }
    let has_topology =
        supported.iter().any(|entry| entry.function == VENDOR && entry.eax >= TOPOLOGY);
    if has_topology {
        leaves.extend(topology(u32::from(index), u32::from(vcpus)));
    }
    leaves
}

fn shape(leaf: &mut kvm_cpuid_entry2, tsc_deadline: bool, index: u32, vcpus: u32) {
    match leaf.function {
        FEATURES => {
            leaf.ebx = leaf.ebx & 0xff | CLFLUSH_QUADWORDS << 8 | vcpus << 16 | index << 24;
            leaf.ecx = leaf.ecx & !(ECX_VMX | ECX_PDCM) | ECX_HYPERVISOR;
            if tsc_deadline {
                leaf.ecx |= ECX_TSC_DEADLINE;
            }
            leaf.edx &= !EDX_HYPER_THREADING;
            if vcpus > 1 {
                leaf.edx |= EDX_HYPER_THREADING;
            }
        }
        INTEL_CACHES if leaf.eax & 0x1f != 0 => {
            leaf.eax = leaf.eax & 0x3fff | sharing(leaf.eax, vcpus) << 14 | (vcpus - 1) << 26;
        }
        PERFORMANCE => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0, 0),
        EXTENDED_FEATURES => leaf.ecx &= !(ECX_SVM | ECX_AMD_COUNTERS),
        EXTENDED_SIZES => leaf.ecx = (vcpus - 1) | id_bits(vcpus) << 12,
        AMD_CACHES if leaf.eax & 0x1f != 0 => {
            leaf.eax = leaf.eax & 0x3fff | sharing(leaf.eax, vcpus) << 14;
        }
        AMD_TOPOLOGY => (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (index, index, 0, 0),
        _ => {}
    }
}

/// How many vCPUs besides oneself share the cache that a leaf's EAX describes.
fn sharing(eax: u32, vcpus: u32) -> u32 {
    if eax >> 5 & 7 >= CACHE_OF_ALL { vcpus - 1 } else { 0 }
}

/// Bits of an APIC id.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: a level of threads, a level of cores, and the end.
fn topology(index: u32, vcpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |level: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: TOPOLOGY,
        index: level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | level,
        edx: index,
        ..Default::default()
    };
    [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, id_bits(vcpus), vcpus), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests;
