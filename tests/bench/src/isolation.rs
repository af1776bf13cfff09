//! What isolation costs a cold boot: everything on, beside everything off, the same guest with the same devices.
//!
//! On: votive-jailer starts the VMM in a new control group and in all its namespaces; its threads have filters; the scratch disk is
//! encrypted, disk and network are limited. The network's namespace with its tap is made before, as a worker's pool has it.
//! From a shell: the same, but all that no tenant has a say in was made before, and the boot begins with the assignment.
//! Off: a VMM without filters, started plainly, with the same disk and a tap of the host's namespace.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::boot::{Group, Launch, Started, run_until};
use crate::report::{Figure, Series};
use crate::subject::Guest;
use crate::tracefs::Event;

/// The programs that take part.
pub struct Programs {
    /// `votive-vmm`.
    pub vmm: PathBuf,
    /// The same without filters.
    pub unfiltered: PathBuf,
    /// `votive-jailer`.
    pub jailer: PathBuf,
}

/// The lab's control groups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// An environment's limits; docs/jail.md says how they follow from its memory.
const LIMITS: [(&str, &str); 3] =
    [("cpu.max", "100000 100000"), ("memory.max", "268435456"), ("pids.max", "64")];
/// The clock that a shell is given until it waits.
const SHELL_PATIENCE: Duration = Duration::from_millis(300);
/// A user that nobody is.
const USER: &str = "3000000000";
/// The scratch disk of a function that asks for no other.
const SCRATCH_BYTES: u64 = 512 << 20;
/// What limits a disk and a network; docs/devices.md.
const DISK_LIMITS: &str = ",bandwidth=104857600/16777216,operations=10000/1000";
const NET_LIMITS: &str = ",rx-bandwidth=12500000/2500000,tx-bandwidth=12500000/2500000";

/// The number of the VMM's first descriptor: of kernel, initrd, scratch disk and tap, in this order.
const FIRST: i32 = 3;
/// Boots `guest` `count` times in each way, after one boot that warms the page cache.
///
/// # Errors
/// A boot fails or takes too long, or this is not root in a host of its own.
pub fn measure(programs: &Programs, guest: &Guest, count: usize) -> anyhow::Result<Vec<Figure>> {
    let enable = Path::new(CGROUPS).join("cgroup.subtree_control");
    std::fs::write(&enable, "+cpu +memory +pids").context("the lab's control groups")?;
    let off = || Ok(Plain { programs, guest, tap: votive_tap::open("vt-plain")? });
    let on = || Ok(Jailed { programs, guest, network: Network::new()? });
    let shell = || Ok(Shell { jailed: on()?, waiting: None });
    let off = boots(count, off)?;
    let mut figures = boots(count, on)?.figures("isolation", "votive");
    figures.extend(off.figures("isolation", "nothing-on"));
    figures.extend(boots(count, shell)?.figures("isolation.shell", "votive"));
    // Beside which both stand.
    figures.extend(off.figures("isolation.shell", "nothing-on"));
    Ok(figures)
}

/// What boots took, in instructions.
struct Boots {
    first_instruction: Series,
    pid1: Series,
}

/// Boots of what `launch` makes.
fn boots<L: Launch>(count: usize, launch: impl Fn() -> anyhow::Result<L>) -> anyhow::Result<Boots> {
    run_until(launch()?, Event::Mark, |_| Ok(()))?;
    let series = || Series::new("instructions");
    let mut boots = Boots { first_instruction: series(), pid1: series() };
    for _ in 0..count {
        boots.first_instruction.push(run_until(launch()?, Event::GuestEntry, |_| Ok(()))?);
        boots.pid1.push(run_until(launch()?, Event::Mark, |_| Ok(()))?);
    }
    Ok(boots)
}

impl Boots {
    fn figures(&self, name: &str, subject: &str) -> Vec<Figure> {
        let first = self.first_instruction.figure(&format!("{name}.first_instruction"), subject);
        let pid1 = self.pid1.figure(&format!("{name}.pid1"), subject);
        [first, pid1].into_iter().flatten().collect()
    }
}

/// A namespace with a tap.
struct Network {
    namespace: OwnedFd,
    tap: File,
}

impl Network {
    /// One that a thread makes, which ends.
    fn new() -> anyhow::Result<Self> {
        let made = std::thread::spawn(|| -> anyhow::Result<Self> {
            votive_tap::enter_new_namespace()?;
            let namespace = File::open("/proc/thread-self/ns/net")?.into();
            Ok(Self { namespace, tap: votive_tap::open("vt-jailed")? })
        });
        made.join().map_err(|_| anyhow::anyhow!("the network's thread panicked"))?
    }
}

/// Everything on.
struct Jailed<'a> {
    programs: &'a Programs,
    guest: &'a Guest,
    network: Network,
}

impl Jailed<'_> {
    /// Starts the VMM in its jail, with these arguments and descriptors.
    fn jail(
        &self,
        arguments: Vec<String>,
        mut descriptors: Vec<OwnedFd>,
        log: &File,
    ) -> anyhow::Result<Started> {
        let path = Path::new(CGROUPS).join("votive-bench");
        let group = Group::new(&path, &LIMITS)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let kept = FIRST + i32::try_from(descriptors.len())?;
        descriptors.extend([
            File::open(&self.programs.vmm)?.into(),
            rustix::fs::open(&path, flags, Mode::empty())?,
            self.network.namespace.try_clone()?,
        ]);
        let mut command = Command::new(&self.programs.jailer);
        command.args(["--uid", USER, "--gid", USER, "--keep", &format!("{FIRST}-{}", kept - 1)]);
        let named = |(option, fd): (&str, i32)| [option.to_owned(), format!("fd:{fd}")];
        command.args(["--program", "--cgroup", "--netns"].into_iter().zip(kept..).flat_map(named));
        // It opens them under numbers that nothing else has.
        let devices: Vec<String> =
            ["--kvm", "--userfaultfd"].into_iter().zip(kept + 3..).flat_map(named).collect();
        command.args(&devices).arg("--").args(arguments).args(&devices);
        start(command, descriptors, log, Some(group))
    }

    /// The arguments for the tenant's guest, with descriptors from `first` on.
    fn assignment(&self, first: i32) -> Vec<String> {
        arguments(first, &format!(",encrypted{DISK_LIMITS}"), NET_LIMITS)
    }
}

impl Launch for Jailed<'_> {
    fn start(&mut self, log: &File) -> anyhow::Result<Started> {
        let arguments = [shape(self.guest), self.assignment(FIRST)].concat();
        self.jail(arguments, descriptors(self.guest, &self.network.tap)?.into(), log)
    }
}

/// Everything on, all but the guest made before.
struct Shell<'a> {
    jailed: Jailed<'a>,
    waiting: Option<(Started, UnixStream)>,
}

impl Launch for Shell<'_> {
    fn prepare(&mut self, log: &File) -> anyhow::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut arguments = shape(self.jailed.guest);
        arguments.extend([String::from("--shell"), format!("fd:{FIRST}")]);
        arguments.extend([String::from("--disks"), String::from("1")]);
        let started = self.jailed.jail(arguments, vec![theirs.into()], log)?;
        // Nothing tells from outside that it waits.
        std::thread::sleep(SHELL_PATIENCE);
        self.waiting = Some((started, ours));
        Ok(())
    }

    /// Sends the assignment: docs/vmm.md, "Shells".
    fn start(&mut self, _log: &File) -> anyhow::Result<Started> {
        let (mut started, mut socket) = self.waiting.take().context("it was prepared")?;
        let jailed = &self.jailed;
        let options = jailed.assignment(0);
        let text: Vec<u8> = options.iter().flat_map(|it| [it.as_bytes(), b"\0"].concat()).collect();
        let mut message = vec![b'a'];
        message.extend(u32::try_from(text.len())?.to_le_bytes());
        message.extend(text);
        let descriptors = descriptors(jailed.guest, &jailed.network.tap)?;
        let descriptors = descriptors.each_ref().map(|descriptor| descriptor.as_fd());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        rights.push(SendAncillaryMessage::ScmRights(&descriptors));
        let (first, rest) = message.split_at(1);
        sendmsg(&socket, &[IoSlice::new(first)], &mut rights, SendFlags::empty())?;
        socket.write_all(rest)?;
        started.control = Some(socket);
        Ok(started)
    }
}

/// Everything off.
struct Plain<'a> {
    programs: &'a Programs,
    guest: &'a Guest,
    tap: File,
}

impl Launch for Plain<'_> {
    fn start(&mut self, log: &File) -> anyhow::Result<Started> {
        let mut command = Command::new(&self.programs.unfiltered);
        command.args(shape(self.guest)).args(arguments(FIRST, "", ""));
        start(command, descriptors(self.guest, &self.tap)?.into(), log, None)
    }
}

/// The VMM's arguments that no tenant has a say in.
fn shape(guest: &Guest) -> Vec<String> {
    texts(&[("--vcpus", "1"), ("--memory-mib", &guest.memory_mib.to_string())])
}

/// The others: kernel, initrd, scratch disk and tap, in descriptors from `first` on, and what is said of the last two.
fn arguments(first: i32, scratch: &str, network: &str) -> Vec<String> {
    let [initrd, disk, tap] = [first + 1, first + 2, first + 3];
    texts(&[
        ("--kernel", &format!("fd:{first}")),
        ("--initrd", &format!("fd:{initrd}")),
        ("--disk", &format!("path=fd:{disk}{scratch}")),
        ("--net", &format!("tap=fd:{tap},mac=02:00:00:00:00:01{network}")),
    ])
}

fn texts(options: &[(&str, &str)]) -> Vec<String> {
    options.iter().flat_map(|(option, value)| [*option, *value]).map(String::from).collect()
}

/// The descriptors that those arguments name.
fn descriptors(guest: &Guest, tap: &File) -> anyhow::Result<[OwnedFd; 4]> {
    let initrd = guest.initrd.as_ref().context("this guest has an initrd")?;
    let scratch = tempfile::tempfile()?;
    scratch.set_len(SCRATCH_BYTES)?;
    let files = [File::open(&guest.kernel)?, File::open(initrd)?, scratch, tap.try_clone()?];
    Ok(files.map(OwnedFd::from))
}

fn start(
    mut command: Command,
    descriptors: Vec<OwnedFd>,
    log: &File,
    group: Option<Group>,
) -> anyhow::Result<Started> {
    let mappings = (FIRST..)
        .zip(descriptors)
        .map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd })
        .collect();
    command.fd_mappings(mappings)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    Ok(Started { child, group, control: None })
}
