//! A vCPU's thread: run the guest, hand each exit to the bus, do what comes back.
//!
//! ```text
//!          KVM_RUN                match                  Action
//!  guest ----------> VcpuExit ------------> Bus, Step ------------> guest, or Exit::end and the thread ends
//!    ^                  |
//!    +---- Gate::wait --+ interrupted
//! ```
//! A vCPU's death in any form is a reason that is not a power-off, stored before anyone is woken.
#![expect(unsafe_code, reason = "reading the details of KVM's internal errors")]

use std::fmt::Write;
use std::sync::Arc;

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

use crate::bus::{Action, Bus};
use crate::exit::{Exit, ExitReason};
use crate::pause::Gate;

/// One vCPU before it runs.
#[derive(Debug)]
pub struct Vcpu {
    index: u8,
    fd: VcpuFd,
    bus: Arc<Bus>,
    exit: Arc<Exit>,
    gate: Option<Arc<Gate>>,
}

/// What an exit means, without a borrow of what KVM shares.
enum Step {
    Act(Action),
    Interrupted,
    InternalError,
    Failed(String),
}

impl Vcpu {
    /// vCPU `index`, which pauses at `gate` if there is one.
    #[must_use]
    pub fn new(
        index: u8,
        fd: VcpuFd,
        bus: Arc<Bus>,
        exit: Arc<Exit>,
        gate: Option<Arc<Gate>>,
    ) -> Self {
        Self { index, fd, bus, exit, gate }
    }

    /// Runs the vCPU on this thread until there is a reason to end.
    pub fn run(&mut self) {
        if self.index == 0 {
            self.bus.marks().run();
        }
        loop {
            let step = step(self.fd.run(), self.index, &self.bus);
            let reason = match step {
                Step::Act(Action::Continue) => continue,
                Step::Act(Action::End(reason)) => reason,
                Step::Interrupted => {
                    self.pause();
                    continue;
                }
                Step::InternalError => {
                    let failure = internal_error(&mut self.fd);
                    self.failed(failure)
                }
                Step::Failed(failure) => self.failed(failure),
            };
            self.exit.end(reason);
            return;
        }
    }

    /// Waits out a pause, if that is why the guest was left, and has the guest's watchdogs forgive it.
    fn pause(&self) {
        if self.gate.as_ref().is_some_and(|gate| gate.wait(self.index)) {
            // A guest without KVM's clock has nobody to tell, which KVM reports as an error.
            let _ = self.fd.kvmclock_ctrl();
        }
    }

    fn failed(&self, failure: String) -> ExitReason {
        ExitReason::VcpuFailed { vcpu: self.index, failure }
    }
}

/// The whole dispatch of exits.
fn step(exit: Result<VcpuExit<'_>, errno::Error>, vcpu: u8, bus: &Bus) -> Step {
    match exit {
        Ok(VcpuExit::IoOut(port, data)) => return Step::Act(bus.write_port(port, data)),
        Ok(VcpuExit::IoIn(port, data)) => bus.read_port(port, data),
        Ok(VcpuExit::MmioWrite(gpa, data)) => bus.write_memory(gpa, data),
        Ok(VcpuExit::MmioRead(gpa, data)) => bus.read_memory(gpa, data),
        Ok(VcpuExit::Intr) => return Step::Interrupted,
        Ok(VcpuExit::Shutdown) => return Step::Act(Action::End(ExitReason::TripleFault { vcpu })),
        Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
            return Step::Act(Action::End(ExitReason::PoweredOff));
        }
        Ok(VcpuExit::InternalError) => return Step::InternalError,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            return Step::Failed(format!("entry failed with reason {reason:#x} on cpu {cpu}"));
        }
        Ok(other) => return Step::Failed(format!("unexpected exit {other:?}")),
        Err(error) => match error.errno() {
            libc::EINTR => return Step::Interrupted,
            libc::EAGAIN => {}
            libc::EFAULT => {
                return Step::Failed("guest memory cannot be read; was a file cut short?".into());
            }
            _ => return Step::Failed(format!("KVM_RUN: {error}")),
        },
    }
    Step::Act(Action::Continue)
}

/// What KVM tells about an error of its own: its kind, where the guest was, and for an instruction that it
/// cannot emulate, that instruction.
fn internal_error(fd: &mut VcpuFd) -> String {
    let rip = fd.get_regs().map(|registers| registers.rip).unwrap_or_default();
    // SAFETY: KVM said KVM_EXIT_INTERNAL_ERROR, for which this is the union's field; it is plain data.
    let internal = unsafe { fd.get_kvm_run().__bindgen_anon_1.internal };
    let mut text = format!("KVM internal error {} at {rip:#x}", internal.suberror);
    if internal.suberror == KVM_INTERNAL_ERROR_EMULATION {
        text.push_str(", cannot emulate");
        // The instruction's length and bytes follow a word of flags, when KVM has them.
        let [_, first, second, ..] = internal.data;
        let words = if internal.ndata >= 3 { [first, second] } else { [0; 2] };
        let [length, bytes @ ..] =
            words.map(u64::to_le_bytes).concat().try_into().unwrap_or([0; 16]);
        for byte in bytes.iter().take(usize::from(length)) {
            // Writing to a String cannot fail.
            let _ = write!(text, " {byte:02x}");
        }
    }
    text
}
