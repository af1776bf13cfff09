//! What values a configuration may have, as far as no file needs to be looked at.

use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use votive_artifact::cache::CACHE_BYTES_MIN;
use votive_artifact::keys::KeysSpec;

use super::value::{HumanDuration, HumanSize, Listen, SocketPath};
use super::{Config, LeaseSource, Problem, VCPUS_OF_LARGEST};
use crate::limits::{
    ARTIFACT_READ_TIMEOUT_MAX, LEASE_DRAIN_MARGIN, LEASE_KILL_MARGIN, LEASE_MAX, SHUTDOWN_TIMEOUT,
    TIMEOUT_MAX_S,
};
use crate::shells::SIZES_MAX;

/// The most environments of a worker: each costs it a task, a process and a dozen descriptors.
const ENVIRONMENTS_MAX: u32 = 10_000;
/// The most shells of a size: more environments are not started at once on one host.
const SHELLS_MAX: u32 = 64;
/// The most vCPUs: those of the largest function in every environment.
const VCPUS_MAX: u32 = VCPUS_OF_LARGEST * ENVIRONMENTS_MAX;
/// The least memory: one microVM of the smallest function, with what its kernel takes.
const MEMORY_MIN: HumanSize = HumanSize(192 << 20);
/// The least memory for images: one function's largest code would find no room for a part of it otherwise.
const ARTIFACT_MEMORY_MIN: HumanSize = HumanSize(64 << 20);
const ID_MAX: usize = 64;

/// Collects what is wrong.
struct Judge(Vec<Problem>);

impl Judge {
    fn wrong(&mut self, field: &str, message: String) {
        self.0.push(Problem { line: None, field: field.to_owned(), message });
    }

    fn within<T: PartialOrd + std::fmt::Display>(&mut self, field: &str, value: T, min: T, max: T) {
        if value < min || value > max {
            self.wrong(field, format!("{value} is not allowed; {min} to {max} are"));
        }
    }

    fn duration(&mut self, field: &str, value: HumanDuration, min: Duration, max: Duration) {
        self.within(field, value, HumanDuration(min), HumanDuration(max));
    }

    fn absolute(&mut self, field: &str, path: Option<&Path>) {
        if let Some(path) = path.filter(|path| !path.is_absolute()) {
            self.wrong(field, format!("{path:?} is not allowed; an absolute path is"));
        }
    }
}

impl Config {
    /// Everything that is wrong with the values; nothing if they are allowed.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut judge = Judge(Vec::new());
        self.judge_worker(&mut judge);
        self.judge_lease(&mut judge);
        self.judge_environments(&mut judge);
        self.judge_isolation(&mut judge);
        self.judge_artifacts(&mut judge);
        self.judge_sockets(&mut judge);
        for (field, message) in self.network.read(Path::new("/")).err().unwrap_or_default() {
            // It repeats what was given, which may be anything.
            judge.wrong(field, message.replace(char::is_control, " "));
        }
        if let Err(error) = EnvFilter::try_new(&self.log.level) {
            let level = &self.log.level;
            let allowed = "off, error, warn, info, debug, trace or directives are";
            judge.wrong("log.level", format!("{level:?} is not allowed ({error}); {allowed}"));
        }
        judge.0
    }

    fn judge_worker(&self, judge: &mut Judge) {
        let worker = &self.worker;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if let Some(id) = &worker.id
            && (id.is_empty() || id.len() > ID_MAX || !id.chars().all(plain))
        {
            let allowed = "1 to 64 letters, digits, '.', '-' or '_' are";
            judge.wrong("worker.id", format!("{id:?} is not allowed; {allowed}"));
        }
        judge.absolute("worker.state_dir", worker.state_dir.as_deref());
        judge.absolute("worker.images", worker.images.as_deref());
        judge.absolute("worker.vmm", worker.vmm.as_deref());
    }

    fn judge_lease(&self, judge: &mut Judge) {
        let lease = &self.lease;
        let second = Duration::from_secs(1);
        let longest = Duration::from_secs(u64::from(TIMEOUT_MAX_S));
        judge.duration("lease.duration", lease.duration, second, LEASE_MAX);
        judge.duration("lease.longest_invocation", lease.longest_invocation, second, longest);
        let reserved = self.environments.reservation_lifetime.0;
        let margins = LEASE_DRAIN_MARGIN + SHUTDOWN_TIMEOUT + LEASE_KILL_MARGIN;
        let needed = lease.longest_invocation.0.saturating_add(reserved).saturating_add(margins);
        if lease.source == LeaseSource::SelfIssued && lease.duration.0 <= needed {
            let message = format!(
                "{} is not allowed: a lease must last longer than the longest invocation, a reservation and the \
                 shutdown, {} in all",
                lease.duration,
                HumanDuration(needed)
            );
            judge.wrong("lease.duration", message);
        }
    }

    fn judge_environments(&self, judge: &mut Judge) {
        let capacity = &self.capacity;
        judge.within("capacity.environments", capacity.environments, 1, ENVIRONMENTS_MAX);
        let per_version = capacity.environments_per_function_version;
        let field = "capacity.environments_per_function_version";
        judge.within(field, per_version, 1, ENVIRONMENTS_MAX);
        if let Some(memory) = capacity.memory {
            judge.within("capacity.memory", memory, MEMORY_MIN, HumanSize(1 << 50));
        }
        if let Some(boots) = capacity.boots {
            judge.within("capacity.boots", boots, 1, ENVIRONMENTS_MAX);
        }
        if let Some(vcpus) = capacity.vcpus {
            judge.within("capacity.vcpus", vcpus, 1, VCPUS_MAX);
        }
        let environments = &self.environments;
        let second = Duration::from_secs(1);
        let idle = environments.idle_timeout;
        judge.duration("environments.idle_timeout", idle, second, LEASE_MAX);
        let field = "environments.reservation_lifetime";
        let lifetime = environments.reservation_lifetime;
        judge.duration(field, lifetime, second / 10, Duration::from_secs(60));
        let hang = environments.hang_timeout;
        judge.duration("environments.hang_timeout", hang, second / 10, Duration::from_secs(60));
        judge.absolute("environments.cgroup_root", environments.cgroup_root.as_deref());
    }

    fn judge_isolation(&self, judge: &mut Judge) {
        let isolation = &self.isolation;
        judge.absolute("isolation.jailer", isolation.jailer.as_deref());
        judge.within("isolation.shells", isolation.shells, 0, SHELLS_MAX);
        let (uids, environments) = (isolation.uids.0.count(), self.capacity.environments);
        let shells = isolation.shells.saturating_mul(u32::try_from(SIZES_MAX).unwrap_or(u32::MAX));
        if uids <= environments.saturating_add(shells) {
            let and = if shells > 0 { format!(" and {shells} shells") } else { String::new() };
            let message = format!(
                "{uids} users are not enough for capacity.environments = {environments}{and}"
            );
            judge.wrong("isolation.uids", message);
        }
        if let Some(line) = isolation.io_max.as_deref().filter(|line| !is_io_max(line)) {
            let allowed = "MAJOR:MINOR and then rbps=, wbps=, riops= or wiops= with a number is";
            judge.wrong("isolation.io_max", format!("{line:?} is not allowed; {allowed}"));
        }
    }

    fn judge_artifacts(&self, judge: &mut Judge) {
        let artifacts = &self.artifacts;
        // What has no scheme is a folder.
        let store = artifacts.store.as_deref().filter(|store| !store.contains("://"));
        judge.absolute("artifacts.store", store.map(Path::new));
        match artifacts.keys.as_deref().map(KeysSpec::parse) {
            Some(Ok(KeysSpec::Folder(folder))) => judge.absolute("artifacts.keys", Some(&folder)),
            Some(Err(error)) => {
                // It repeats what was given, which may be anything.
                let message = error.to_string().replace(char::is_control, " ");
                judge.wrong("artifacts.keys", message);
            }
            _ => {}
        }
        if artifacts.store.is_some() && artifacts.keys.is_none() {
            let message = "it is missing: nothing of artifacts.store can be read without it";
            judge.wrong("artifacts.keys", message.to_owned());
        }
        judge.absolute("artifacts.cache", artifacts.cache.as_deref());
        let most = HumanSize(1 << 50);
        let least = HumanSize(CACHE_BYTES_MIN);
        judge.within("artifacts.cache_size", artifacts.cache_size, least, most);
        if let Some(memory) = artifacts.memory {
            judge.within("artifacts.memory", memory, ARTIFACT_MEMORY_MIN, most);
        }
        let second = Duration::from_secs(1);
        let idle = artifacts.idle_timeout;
        judge.duration("artifacts.idle_timeout", idle, second, LEASE_MAX);
        let read = artifacts.read_timeout;
        judge.duration("artifacts.read_timeout", read, second, ARTIFACT_READ_TIMEOUT_MAX);
    }

    fn judge_sockets(&self, judge: &mut Judge) {
        let control = &self.control;
        judge.absolute("control.keys", control.keys.as_deref());
        if control.unix_socket == Some(SocketPath::Off) && control.tcp == Listen::Off {
            let message =
                "\"off\" is not allowed when control.tcp is off too: nobody could drive the worker";
            judge.wrong("control.unix_socket", message.to_owned());
        }
    }
}

/// Whether a text is a line of `io.max` (cgroup-v2.rst, IO Interface Files).
fn is_io_max(line: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = line.split(' ');
    let device = words.next().and_then(|word| word.split_once(':'));
    let mut limits = words.peekable();
    device.is_some_and(|(major, minor)| number(major) && number(minor))
        && limits.peek().is_some()
        && limits.all(|word| {
            let limit = word.split_once('=');
            limit.is_some_and(|(name, value)| {
                ["rbps", "wbps", "riops", "wiops"].contains(&name) && number(value)
            })
        })
}
