//! `votive doctor`: whether this host can run guests, by which kind of KVM, and what to do where something is missing.
//!
//! The agent never opens `/dev/kvm`: it asks `votive-vmm --probe-kvm`, which answers in one line of `key=value` words.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::causes::with_causes;
use crate::clock::Moment;
use crate::images::Images;
use crate::jail::{Jails, UidRange};

#[cfg(test)]
mod tests;

/// What kind of KVM a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmKind {
    /// The processor runs guests, this host is the outermost.
    Hardware,
    /// The processor runs guests, this host is a guest itself.
    Nested,
    /// Guest kernels are emulated instruction by instruction (PVM is one such KVM): Linux does not boot.
    Emulated,
    /// `/dev/kvm` is there, but not for this user.
    NoPermission,
    /// There is no `/dev/kvm`.
    Absent,
    /// It was not found out.
    Unknown,
}

impl KvmKind {
    /// The name in `--json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Nested => "nested",
            Self::Emulated => "emulated",
            Self::NoPermission => "no-permission",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }

    /// Whether guests can boot.
    #[must_use]
    pub fn can_run_guests(self) -> bool {
        matches!(self, Self::Hardware | Self::Nested)
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub text: String,
    /// What to do, if it is not.
    pub fix: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind of KVM.
    pub kind: KvmKind,
    /// How that is known.
    pub reason: String,
    /// Everything, KVM first.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// The diagnosis as JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|f| json!({ "subject": f.subject, "ok": f.ok, "text": f.text, "fix": f.fix }))
            .collect();
        json!({
            "can_run_guests": self.kind.can_run_guests(),
            "kind": self.kind.name(),
            "reason": self.reason,
            "findings": findings,
        })
    }

    /// The diagnosis as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            let sign = if finding.ok { "ok " } else { "NO " };
            lines.push(format!("{sign} {:<18} {}", finding.subject, finding.text));
            if let Some(fix) = &finding.fix {
                lines.push(format!("    {:<18} fix: {fix}", ""));
            }
        }
        let verdict = if self.kind.can_run_guests() {
            "This host can run guests."
        } else {
            "This host cannot run guests; the lab can (cargo xtask demo uses it by itself)."
        };
        lines.push(String::from(verdict));
        lines.join("\n")
    }
}

/// Looks at everything.
#[must_use]
pub fn diagnose(images: &Images) -> Diagnosis {
    let probe = probe_kvm(images.vmm());
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let (kind, reason) = judge(&probe, &cpuinfo);
    let mut findings = vec![kvm_finding(kind, &reason)];
    findings.push(images_finding(images));
    findings.push(memory_finding());
    findings.push(cgroup_finding());
    findings.push(jail_finding(&Jails::new(&images.jailer(), UidRange::default())));
    Diagnosis { kind, reason, findings }
}

/// What `votive-vmm --probe-kvm` said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Its line.
    Said(String),
    /// There is no such line.
    Failed(String),
}

/// How long the probe may take. It takes milliseconds; a KVM that hangs must not hang the doctor.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

fn probe_kvm(vmm: &Path) -> Probe {
    match bounded_output(Command::new(vmm).arg("--probe-kvm")) {
        Ok(output) if output.status.success() => {
            Probe::Said(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            Probe::Failed(format!("{} failed: {}", vmm.display(), stderr.trim()))
        }
        Err(error) => Probe::Failed(format!("{} cannot be asked: {error}", vmm.display())),
    }
}

/// Runs a command that says little, no longer than [`PROBE_TIMEOUT`].
pub(crate) fn bounded_output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let started = Moment::now();
    while child.try_wait()?.is_none() {
        if Moment::now().since(started) > PROBE_TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output()
}

/// Tells the kind of KVM from the probe's words and the processor's flags.
#[must_use]
pub fn judge(probe: &Probe, cpuinfo: &str) -> (KvmKind, String) {
    let line = match probe {
        Probe::Said(line) => line,
        Probe::Failed(why) => return (KvmKind::Unknown, why.clone()),
    };
    let word = |key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let loop_time = word("loop_ns").and_then(|ns| ns.parse::<u64>().ok());
    let took = loop_time.map_or_else(String::new, |ns| {
        format!("a kernel-mode loop of 10,000 iterations took {:.3} ms", ns_to_ms(ns))
    });
    match word("kvm") {
        Some("absent") => (KvmKind::Absent, String::from("there is no /dev/kvm")),
        Some("no-permission") => {
            (KvmKind::NoPermission, String::from("/dev/kvm may not be opened by this user"))
        }
        Some("emulated") => {
            let reason = format!("this KVM emulates guest kernel code (PVM or the like): {took}");
            (KvmKind::Emulated, reason)
        }
        Some("native") if is_guest(cpuinfo) => (
            KvmKind::Nested,
            format!("nested virtualization: {took}, on a processor that is virtual"),
        ),
        Some("native") => (KvmKind::Hardware, format!("hardware virtualization: {took}")),
        Some(_) | None => {
            let error = line.split_once("error=").map_or(line.as_str(), |(_, error)| error);
            (KvmKind::Unknown, format!("the probe failed: {error}"))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people, far below 2^53")]
fn ns_to_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// A hypervisor announces itself to its guests in this flag (CPUID 1, ECX bit 31).
fn is_guest(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn kvm_finding(kind: KvmKind, reason: &str) -> Finding {
    let fix = match kind {
        KvmKind::Hardware | KvmKind::Nested => None,
        KvmKind::Emulated => Some(
            "use a host with VMX or SVM, or a virtual machine with nested virtualization; \
             here, cargo xtask demo and test run in the lab",
        ),
        KvmKind::NoPermission => {
            Some("run as root, or join the group of /dev/kvm: usermod -aG kvm $USER")
        }
        KvmKind::Absent => Some(
            "load kvm_intel or kvm_amd (modprobe), and switch virtualization on in the firmware \
             or, on a virtual machine, nested virtualization",
        ),
        KvmKind::Unknown => Some("build votive-vmm (cargo xtask image), or name it with --vmm"),
    };
    Finding {
        subject: "KVM",
        ok: kind.can_run_guests(),
        text: reason.to_owned(),
        fix: fix.map(str::to_owned),
    }
}

fn images_finding(images: &Images) -> Finding {
    let folder = images.folder().display();
    let missing: Vec<_> = [images.kernel(), images.initrd(), images.vmm().to_owned()]
        .into_iter()
        .filter(|path| !path.is_file())
        .map(|path| path.display().to_string())
        .collect();
    let runtimes = images.runtimes();
    let (ok, text) = if missing.is_empty() && !runtimes.is_empty() {
        (true, format!("{folder}: {}", runtimes.join(", ")))
    } else if missing.is_empty() {
        (false, format!("{folder} holds no runtime image"))
    } else {
        (false, format!("missing: {}", missing.join(", ")))
    };
    let fix = (!ok).then(|| String::from("cargo xtask image, or name a folder with --images"));
    Finding { subject: "images", ok, text, fix }
}

/// The least memory that a function of 128 MB and its VMM want, in MiB.
const MEMORY_WANTED_MIB: u64 = 256;

fn memory_finding() -> Finding {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available_mib(&meminfo);
    let ok = available.is_some_and(|mib| mib >= MEMORY_WANTED_MIB);
    let text = available.map_or_else(
        || String::from("/proc/meminfo does not tell what is available"),
        |mib| format!("{mib} MiB available"),
    );
    let fix =
        (!ok).then(|| format!("free some: the smallest function wants {MEMORY_WANTED_MIB} MiB"));
    Finding { subject: "memory", ok, text, fix }
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn cgroup_finding() -> Finding {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let (ok, text, fix) = match controllers {
        Ok(controllers) => (true, format!("version 2: {}", controllers.trim()), None),
        Err(_) => (
            false,
            String::from(
                "version 2 is not mounted at /sys/fs/cgroup; microVMs are not capped by it",
            ),
            Some(String::from("boot with systemd.unified_cgroup_hierarchy=1")),
        ),
    };
    Finding { subject: "cgroup", ok, text, fix }
}

/// Whether a VMM can be jailed, found out by making a jail.
fn jail_finding(jails: &Jails) -> Finding {
    match jails.check() {
        Ok(()) => Finding {
            subject: "jail",
            ok: true,
            text: String::from("a jail of namespaces, Landlock and a user of its own can be made"),
            fix: None,
        },
        Err(error) => Finding {
            subject: "jail",
            ok: false,
            text: with_causes(&error),
            fix: Some(String::from(
                "run as root, or with CAP_SETUID and CAP_SETGID, on Linux 5.13 or later with user namespaces",
            )),
        },
    }
}
