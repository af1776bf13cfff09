//! Jails: that no two share anything, and that a VMM which somebody has taken over gets nowhere in one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::timeout;
use votive_agent::cgroup::{CgroupSpec, Cgroups, EnvironmentCgroup};
use votive_agent::jail::{Ended, Execution, Jail, Jailed, Jails, UidRange};

use super::Case;
use super::pauses::block_on;
use crate::harness::images;

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_hundred_jails_share_no_user_no_namespace_and_no_group", hundred),
    ("a_vmm_that_was_taken_over_is_refused_everything", compromised),
    ("each_thread_of_a_vmm_that_was_taken_over_is_killed_by_its_filters", filtered),
    ("a_vmm_that_was_taken_over_exhausts_nothing_but_itself", exhausting),
];

const PROGRAM: &str = "votive-compromised";
const JAILS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
const MOUNT: &str = "/sys/fs/cgroup";
const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
/// What a jail's process may have open: the standard three, and the opened `/dev/kvm`, whose number comes after the jailer's own
/// three.
const DESCRIPTORS: [&str; 4] = ["0", "1", "2", "6"];

/// The jails of a test, and where their groups are.
struct Place {
    root: PathBuf,
    cgroups: Option<Cgroups>,
    jails: Jails,
}

impl Place {
    /// Users are the test's own: tests run at once.
    fn new(name: &str, uids: &str) -> Result<Self> {
        let root = Path::new(MOUNT).join(format!("e2e-{name}-{}", std::process::id()));
        let cgroups = Some(Cgroups::open(Some(&root))?);
        let jails = Jails::new(&images()?.join("bin/votive-jailer"), uids.parse::<UidRange>()?);
        jails.check()?;
        Ok(Self { root, cgroups, jails })
    }

    fn group(&self, name: &str) -> Result<EnvironmentCgroup> {
        let spec = CgroupSpec {
            name: name.to_owned(),
            memory_mb: 128,
            guest_memory_mib: 16,
            vcpus: 1,
            disks: 1,
        };
        Ok(self.cgroups.as_ref().context("no groups")?.create(&spec)?)
    }

    /// Executes the program in a jail in `group`; gives its process and what it writes.
    async fn start(
        &self,
        group: &EnvironmentCgroup,
        tries: &[String],
    ) -> Result<(Jailed, OwnedFd)> {
        let (reader, writer) = std::io::pipe()?;
        let program = std::env::current_exe()?.with_file_name(PROGRAM);
        let execution = Execution {
            program: &program,
            arguments: tries.iter().map(OsString::from).collect(),
            descriptors: Vec::new(),
            stderr: writer.into(),
            threads: 10,
            userfaultfd: false,
        };
        let jail = Jail::new(self.jails.clone(), Some(group.folder()?));
        Ok((jail.execute(execution).await?, reader.into()))
    }

    /// Executes it, and waits for its end; gives that and every line that it wrote.
    async fn run(
        &self,
        name: &str,
        tries: &[String],
    ) -> Result<(Ended, String, EnvironmentCgroup)> {
        let group = self.group(name)?;
        let (mut jailed, reader) = self.start(&group, tries).await?;
        let said = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            fs::File::from(reader).read_to_string(&mut said).map(|_| said)
        });
        let ended = timeout(PATIENCE, jailed.ended()).await??;
        // What it has forked still has the pipe; it ends with its process namespace.
        let said = timeout(PATIENCE, said).await???;
        Ok((ended, said, group))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cgroups = None;
        // A group that is still there is in the way of nobody.
        let _ = fs::remove_dir(self.root.join("votive-environments"));
        let _ = fs::remove_dir(&self.root);
    }
}

/// What tells a process in a jail apart.
#[derive(Debug, Default)]
struct Seen {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    namespaces: [BTreeSet<PathBuf>; 7],
}

impl Seen {
    fn look_at(&mut self, id: u32) -> Result<()> {
        let process = PathBuf::from(format!("/proc/{id}"));
        let status = fs::read_to_string(process.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("no {name} in {status}"))
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(field(set)? == "0000000000000000", "{set}: {}", field(set)?);
        }
        ensure!(field("NoNewPrivs")? == "1", "no_new_privs is not set");
        ensure!(field("Groups")?.is_empty(), "groups: {}", field("Groups")?);
        ensure!(field("Uid")? == field("Gid")?, "{} is not {}", field("Uid")?, field("Gid")?);
        let user = field("Uid")?;
        let mut ids: Vec<&str> = user.split_whitespace().collect();
        ids.dedup();
        ensure!(ids.len() == 1, "several users: {user}");
        ensure!(self.users.insert(user.to_owned()), "{user} is shared");

        let group = fs::read_to_string(process.join("cgroup"))?;
        ensure!(self.groups.insert(group.clone()), "{group} is shared");
        for (name, seen) in NAMESPACES.iter().zip(&mut self.namespaces) {
            let namespace = fs::read_link(process.join("ns").join(name))?;
            let own = fs::read_link(Path::new("/proc/self/ns").join(name))?;
            ensure!(namespace != own, "{} is the host's", namespace.display());
            ensure!(seen.insert(namespace.clone()), "{} is shared", namespace.display());
        }

        let left: Vec<_> = fs::read_dir(process.join("root"))?.collect();
        ensure!(left.is_empty(), "the root holds {left:?}");
        let mounts = fs::read_to_string(process.join("mountinfo"))?;
        // The only one is read-only and above the root, where the process cannot see it.
        ensure!(mounts.is_empty(), "mounts: {mounts}");
        let limits = fs::read_to_string(process.join("limits"))?;
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap_or_default().split_whitespace().skip(4).take(2).collect();
        ensure!(core == ["0", "0"], "{limits}");
        let mut open: Vec<_> = fs::read_dir(process.join("fd"))?.collect::<Result<_, _>>()?;
        open.sort_by_key(fs::DirEntry::file_name);
        let names: Vec<_> = open.iter().map(|entry| entry.file_name()).collect();
        ensure!(names == DESCRIPTORS, "descriptors: {names:?}");
        ensure!(fs::read(process.join("environ"))?.is_empty(), "it has an environment");
        Ok(())
    }
}

fn hundred() -> Result<()> {
    let place = Place::new("jails", "2000100000-2000100099")?;
    block_on(async {
        let mut running = Vec::new();
        let names: Vec<String> = (0..JAILS).map(|number| format!("jail-{number}")).collect();
        let groups = names.iter().map(|name| place.group(name)).collect::<Result<Vec<_>>>()?;
        let wait = [String::from("wait")];
        // All at once: each jailer waits for its turn at the processor, not for another.
        let mut jails = JoinSet::new();
        let begun = Instant::now();
        for group in &groups {
            let (reader, writer) = std::io::pipe()?;
            let jail = Jail::new(place.jails.clone(), Some(group.folder()?));
            let program = std::env::current_exe()?.with_file_name(PROGRAM);
            let arguments = wait.iter().map(OsString::from).collect();
            jails.spawn(async move {
                let execution = Execution {
                    program: &program,
                    arguments,
                    descriptors: Vec::new(),
                    stderr: writer.into(),
                    threads: 10,
                    userfaultfd: false,
                };
                jail.execute(execution).await.map(|jailed| (jailed, reader))
            });
        }
        while let Some(made) = jails.join_next().await {
            running.push(made??);
        }
        let mut seen = Seen::default();
        for (jailed, _) in &running {
            seen.look_at(jailed.id())?;
        }
        eprintln!(
            "{JAILS} jails in {:?}: {} users, {} groups, namespaces {:?}",
            begun.elapsed(),
            seen.users.len(),
            seen.groups.len(),
            NAMESPACES
                .iter()
                .zip(seen.namespaces.each_ref().map(BTreeSet::len))
                .collect::<Vec<_>>(),
        );
        ensure!(seen.users.len() == JAILS, "{} users", seen.users.len());
        // Every user is taken: there is no jail without one.
        let group = place.group("one-more")?;
        let error = place.start(&group, &wait).await.err().context("one user too many")?;
        ensure!(error.to_string().contains("no user is left"), "{error:#}");
        group.remove().await?;
        for (mut jailed, _) in running {
            jailed.kill();
            let ended = timeout(PATIENCE, jailed.ended()).await??;
            ensure!(ended == Ended { code: None, signal: Some(9) }, "{ended:?}");
        }
        for group in groups {
            group.remove().await?;
        }
        // All are free again.
        place.jails.check()?;
        Ok(())
    })
}

/// A try, and what must come of it: one of these.
struct Try(String, &'static [&'static str]);

/// Everything that is tried but exhaustion. `victim` is another VMM, `host` a process of the host's.
fn tries(victim: u32, host: u32, path: &str, name: &str, port: u16) -> Vec<Try> {
    let refused = |what: &str, outcomes: &'static [&'static str]| Try(what.to_owned(), outcomes);
    let mut tries = vec![
        refused("open=/", &["EACCES"]),
        refused("open=/etc/passwd", &["ENOENT"]),
        refused("open=/proc/self/status", &["ENOENT"]),
        refused("open=/dev/kvm", &["ENOENT"]),
        refused("open=/dev/mem", &["ENOENT"]),
        refused("open=/sys/fs/cgroup/cgroup.procs", &["ENOENT"]),
        refused("open=/../../../../etc/passwd", &["ENOENT"]),
        refused("create=/x", &["EACCES", "EROFS"]),
        refused("mkdir=/x", &["EACCES", "EROFS"]),
        refused("mknod=/x", &["EACCES", "EROFS", "EPERM"]),
        Try(format!("connect-path={path}"), &["ENOENT"]),
        Try(format!("connect-abstract={name}"), &["ECONNREFUSED"]),
        Try(format!("connect-tcp={port}"), &["ENETUNREACH", "EACCES"]),
        // AF_PACKET and a raw IP socket.
        refused("socket=17,3,768", &["EPERM"]),
        refused("socket=2,3,255", &["EPERM"]),
        refused("add-link", &["EPERM"]),
        refused("mount=tmpfs", &["EPERM"]),
        refused("mount=proc", &["EPERM"]),
        refused("mount=cgroup2", &["EPERM"]),
        refused("remount", &["EPERM"]),
        refused("umount=/", &["EPERM"]),
        refused("fsopen=tmpfs", &["EPERM"]),
        refused("pivot=/", &["EPERM"]),
        refused("chroot=/", &["EPERM"]),
        refused("setuid=0", &["EINVAL", "EPERM"]),
        refused("setgid=0", &["EINVAL", "EPERM"]),
        refused("setgroups", &["EPERM"]),
        refused("capset", &["EPERM"]),
        refused("new-privileges", &["EINVAL"]),
        refused("hostname=mine", &["EPERM"]),
        // User, mount, network and process namespaces.
        refused("unshare=268435456", &["EPERM"]),
        refused("unshare=131072", &["EPERM"]),
        refused("unshare=1073741824", &["EPERM"]),
        refused("unshare=536870912", &["EPERM"]),
        refused("clone-user", &["EPERM"]),
        refused("bpf", &["EPERM"]),
        refused("perf", &["EPERM", "EACCES", "ENOENT"]),
        refused("userfaultfd", &["EPERM"]),
        refused("module", &["EPERM", "ENOSYS"]),
        refused("kexec", &["EPERM", "ENOSYS"]),
        refused("reboot", &["EPERM"]),
        refused("syslog", &["EPERM"]),
        refused("clock", &["EPERM"]),
        refused("swap=/x", &["EPERM"]),
        refused("priority", &["EACCES", "EPERM"]),
        refused("limit", &["EPERM"]),
        refused("lock-memory", &["EPERM", "ENOMEM"]),
        // Everybody that there is: nobody.
        refused("kill=-1", &["ESRCH"]),
        refused("execute=/bin/sh", &["ENOENT"]),
    ];
    for process in [victim, host] {
        for what in ["kill", "pidfd", "ptrace", "read-memory"] {
            tries.push(Try(format!("{what}={process}"), &["ESRCH"]));
        }
    }
    tries
}

fn compromised() -> Result<()> {
    let place = Place::new("compromised", "2000110000-2000110009")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let _by_path = UnixListener::bind(&path)?;
    let name = format!("votive-e2e-{}", std::process::id());
    let _by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    block_on(async {
        let group = place.group("victim")?;
        let (mut victim, _reader) = place.start(&group, &[String::from("wait")]).await?;
        let path = path.to_str().context("no text")?;
        let tries = tries(victim.id(), std::process::id(), path, &name, port);
        let words: Vec<String> = tries.iter().map(|Try(what, _)| what.clone()).collect();
        let (ended, said, own) = place.run("compromised", &words).await?;
        own.remove().await?;
        let mut wrong = Vec::new();
        eprintln!("{:<44} {:<16} got", "case", "expected");
        for Try(what, expected) in &tries {
            let got = said.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix('\t'));
            let got = got.unwrap_or("nothing");
            eprintln!("{what:<44} {:<16} {got}", expected.join(" or "));
            if !expected.contains(&got) {
                wrong.push(format!("{what}: {got}"));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:?}");
        ensure!(ended.code == Some(0), "{ended:?}");
        // The other one has noticed nothing.
        ensure!(timeout(Duration::ZERO, victim.ended()).await.is_err(), "the victim has ended");
        victim.kill();
        timeout(PATIENCE, victim.ended()).await??;
        group.remove().await?;
        Ok(())
    })
}

/// What no jail refuses, and is left to the filters.
const LEFT_TO_FILTERS: [&str; 9] = [
    "thread",
    "code",
    "protect",
    "machine",
    "type-ahead",
    "io-uring",
    "memory-file",
    "descriptors",
    "processes",
];

fn filtered() -> Result<()> {
    let place = Place::new("filtered", "2000130000-2000130009")?;
    let own = std::process::id();
    let all = tries(own, own, "/nowhere", "nobody", 9);
    let all: Vec<_> = all.iter().map(|Try(what, _)| what.as_str()).chain(LEFT_TO_FILTERS).collect();
    block_on(async {
        eprintln!("{:<10} {:>5} {:>8} else", "thread", "tries", "SIGSYS");
        for filter in ["vcpu", "disk", "set-up", "main"] {
            let mut words: Vec<String> =
                all.iter().map(|what| format!("{filter}::{what}")).collect();
            // That which is allowed kills nobody.
            words.push(format!("{filter}::heap"));
            let (ended, said, group) = place.run(filter, &words).await?;
            group.remove().await?;
            let got = |word: &str| {
                let got = said.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix('\t'));
                got.unwrap_or("nothing").to_owned()
            };
            ensure!(ended.code == Some(0), "{ended:?} {said}");
            let heap = got(&format!("{filter}::heap"));
            ensure!(heap.starts_with("allowed "), "{filter}: {heap}");
            words.pop();
            let left: Vec<_> = words
                .iter()
                .map(|word| format!("{word}: {}", got(word)))
                .filter(|line| !line.ends_with(": SIGSYS"))
                .collect();
            eprintln!("{filter:<10} {:>5} {:>8} {left:?}", words.len(), words.len() - left.len());
            ensure!(left.is_empty(), "{left:?}");
        }
        Ok(())
    })
}

fn exhausting() -> Result<()> {
    let place = Place::new("exhausting", "2000120000-2000120009")?;
    block_on(async {
        let group = place.group("neighbour")?;
        let (mut neighbour, _reader) = place.start(&group, &[String::from("wait")]).await?;
        eprintln!("{:<16} {:<30} got", "case", "expected");
        for (what, expected) in [("descriptors", "EMFILE"), ("processes", "EAGAIN")] {
            let (ended, said, own) = place.run(what, &[what.to_owned()]).await?;
            own.remove().await?;
            eprintln!("{what:<16} {expected:<30} {}", said.trim());
            ensure!(
                ended.code == Some(0) && said == format!("{what}\t{expected}\n"),
                "{ended:?} {said}"
            );
        }
        // Far more than the group may have, which is 48 MiB.
        let (ended, said, own) = place.run("memory", &[String::from("memory=512")]).await?;
        let events = place.root.join("votive-environments/memory/memory.events");
        let events = fs::read_to_string(events)?;
        let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        own.remove().await?;
        eprintln!("{:<16} {:<30} {ended:?}, oom_kill {killed:?}", "memory", "killed in its group");
        ensure!(ended.signal == Some(9) && said.is_empty(), "{ended:?} {said}");
        ensure!(killed.is_some_and(|count| count != "0"), "{events}");
        if timeout(Duration::ZERO, neighbour.ended()).await.is_ok() {
            bail!("the neighbour has ended");
        }
        neighbour.kill();
        timeout(PATIENCE, neighbour.ended()).await??;
        group.remove().await?;
        Ok(())
    })
}
