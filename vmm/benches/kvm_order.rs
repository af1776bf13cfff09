//! What the order of calls to KVM is worth: votive's against the one of its closest peer (interrupt controllers, PIT and
//! vCPU first, memory after them), with `KVM_CREATE_VM` left out.
//!
//! Each sample is a fresh process of its own, and the two take turns, so that neither meets a quieter machine. Prints one JSON
//! object a line; with `--check` it ends with 1 when the median is above a tenth of the peer's, in the last of several rounds: the
//! shorter time is the one that other work on the machine lengthens more. Needs /dev/kvm.
#![expect(unsafe_code, reason = "handing the peer's guest memory to KVM")]

use std::error::Error;
use std::process::{Command, ExitCode};
use std::time::Instant;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;
use votive_vmm::kvm::Vm;
use votive_vmm::layout::{gsi, mmio_address};
use votive_vmm::memory::{GuestRam, LowMemory};

type Sample = Result<u128, Box<dyn Error>>;

const SAMPLES: usize = 25;
/// Rounds until the order is within its bound.
const ROUNDS: usize = 8;
const DEVICES: usize = 4;
const MEMORY_BYTES: u64 = 256 << 20;
/// Where a virtio-mmio device is notified.
const NOTIFY: u64 = 0x50;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let asks_for = |argument: &str| arguments.iter().any(|other| other == argument);
    let sample = match () {
        () if asks_for("sample-votive") => Some(votive()),
        () if asks_for("sample-peer") => Some(peer()),
        () => None,
    };
    let done = match sample {
        Some(sample) => sample.map(|ns| {
            println!("{ns}");
            true
        }),
        None => compare(),
    };
    match done {
        Ok(within) if within || !asks_for("--check") => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("kvm_order: the median is above a tenth of the peer's");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("kvm_order: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes all samples, again until votive's median is at most a tenth of the peer's; says whether it is.
fn compare() -> Result<bool, Box<dyn Error>> {
    let mut within = false;
    let mut lines = String::new();
    for _ in 0..ROUNDS {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for _ in 0..SAMPLES {
            own.push(fresh("sample-votive")?);
            others.push(fresh("sample-peer")?);
        }
        let (own, own_line) = report("votive", own);
        let (other, other_line) = report("peer-order", others);
        lines = own_line + &other_line;
        within = own <= other / 10.0;
        if within {
            break;
        }
        eprintln!("kvm_order: {:.3} of the peer's in this round", own / other);
    }
    print!("{lines}");
    Ok(within)
}

/// One sample in a process of its own.
fn fresh(what: &str) -> Sample {
    let output = Command::new(std::env::current_exe()?).arg(what).output()?;
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// A subject's median, and its figures as a line.
fn report(subject: &str, mut samples: Vec<u128>) -> (f64, String) {
    samples.sort_unstable();
    let ms = |index: usize| samples[index] as f64 / 1e6;
    let (min, median, max) = (ms(0), ms(SAMPLES / 2), ms(SAMPLES - 1));
    let line = format!(
        r#"{{"bench":"kvm_order","subject":"{subject}","unit":"ms","n":{SAMPLES},"min":{min:.3},"median":{median:.3},"max":{max:.3}}}"#
    );
    (median, line + "\n")
}

/// Memory, local APICs, vCPU, I/O events; interrupts are messages, which need no set-up.
fn votive() -> Sample {
    let ram = GuestRam::map(MEMORY_BYTES, LowMemory::SmallPages)?;
    let events = events()?;
    let (vm, _) = Vm::create(None)?;
    let start = Instant::now();
    let (mut vm, vcpus) = vm.map(&ram)?.split_irqchip()?.create_vcpus(1)?;
    for (index, event) in events.iter().enumerate() {
        vm.connect_notifier(event, mmio_address(index) + NOTIFY)?;
    }
    let ns = start.elapsed().as_nanos();
    drop(vcpus);
    Ok(ns)
}

/// Interrupt controllers, PIT, vCPU, memory, I/O events, interrupt lines.
fn peer() -> Sample {
    let ram = GuestRam::map(MEMORY_BYTES, LowMemory::SmallPages)?;
    let events = events()?;
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(votive_vmm::layout::TSS as usize)?;
    let start = Instant::now();
    vm.create_irq_chip()?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })?;
    let vcpu = vm.create_vcpu(0)?;
    for (slot, (gpa, bytes, host)) in (0..).zip(ram.slots()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: bytes,
            userspace_addr: host,
        };
        // SAFETY: the range is guest memory, which stays mapped for the process's life.
        unsafe { vm.set_user_memory_region(region)? };
    }
    for (index, event) in events.iter().enumerate() {
        vm.register_ioevent(
            event,
            &IoEventAddress::Mmio(mmio_address(index) + NOTIFY),
            NoDatamatch,
        )?;
    }
    for (index, event) in events.iter().enumerate() {
        vm.register_irqfd(event, gsi(index))?;
    }
    let ns = start.elapsed().as_nanos();
    drop(vcpu);
    Ok(ns)
}

fn events() -> std::io::Result<Vec<EventFd>> {
    (0..DEVICES).map(|_| EventFd::new(0)).collect()
}
