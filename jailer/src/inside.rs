//! Inside the jail: from the new namespaces to the program's first instruction.
//!
//! The order matters. Mounts and names need the capabilities of the new user namespace, which go next; a change of user takes the
//! death signal away, and Landlock the right to mount.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};
use rustix::fs::Mode;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid};

use crate::jail::{Ended, JailError, Word, hear, refused, say};
use crate::spec::{JailSpec, Limits};
use crate::system;

/// What every host is called in a jail.
const HOST_NAME: &[u8] = b"votive";
/// The newest Landlock that is asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V9;
/// The capabilities' numbers end where the kernel says so, and here.
const CAPABILITIES_MAX: u32 = 64;
/// The only folder of the jail's file system.
const FOLDER: &str = "jail";
/// Nobody may write it.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o555);
/// Signals that wait: the VMM's timers have one each.
const SIGPENDING: u64 = 64;

/// What the process in the jail has.
pub(crate) struct Inside<'a> {
    pub(crate) spec: &'a JailSpec,
    pub(crate) program: Option<OwnedFd>,
    pub(crate) outside: OwnedFd,
}

/// Becomes the program; returns only if that failed, or if there is none.
pub(crate) fn enter(inside: Inside<'_>) -> Ended {
    match become_program(&inside) {
        Ok(()) => Ended::Checked,
        // The jailer is gone, and so is the reason to go on.
        Err(None) => Ended::Reported,
        Err(Some(error)) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            let line = format!("votive-jailer: {error}{cause}\n");
            // Whoever would read either may be gone.
            let _ = io::stderr().write_all(line.as_bytes());
            let _ = say(&inside.outside, Word::Failed);
            Ended::Reported
        }
    }
}

fn become_program(inside: &Inside<'_>) -> Result<(), Option<JailError>> {
    let Inside { spec, program, outside } = inside;
    wait_for(outside, Word::Mapped)?;
    confine(spec, program.as_ref(), outside)?;
    say(outside, Word::Settled).map_err(|_| None)?;
    wait_for(outside, Word::Go)?;
    let Some(program) = program else { return Ok(()) };
    let mut arguments = vec![spec.name.clone()];
    arguments.extend(spec.arguments.iter().cloned());
    let error = system::execute(program.as_fd(), &arguments);
    Err(Some(refused::<io::Error>("execute the program")(error)))
}

/// Nothing else is ever said than what is waited for, but by the end of the jailer.
fn wait_for(outside: &OwnedFd, word: Word) -> Result<(), Option<JailError>> {
    match hear(outside) {
        Ok(Some(heard)) if heard == word as u8 => Ok(()),
        _ => Err(None),
    }
}

/// Everything between the namespaces and the program.
fn confine(spec: &JailSpec, program: Option<&OwnedFd>, outside: &OwnedFd) -> Result<(), JailError> {
    // A terminal of whoever started this is nobody's here.
    rustix::process::setsid().map_err(refused("leave the session"))?;
    system::leave_keyring().map_err(refused("leave the keyring"))?;
    become_user(spec)?;
    system::hide_other_cgroups().map_err(refused("make the cgroup namespace"))?;
    rustix::system::sethostname(HOST_NAME).map_err(refused("set the host's name"))?;
    rustix::system::setdomainname(HOST_NAME).map_err(refused("set the domain's name"))?;
    empty_root()?;
    set_limits(&spec.limits).map_err(refused("set resource limits"))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    close_the_rest(spec, program, outside).map_err(refused("close descriptors"))?;
    drop_capabilities().map_err(refused("drop capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(refused("set no_new_privs"))?;
    restrict_files(spec, program)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(refused("be killed with the parent"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(refused("forbid core dumps"))
}

fn become_user(spec: &JailSpec) -> Result<(), JailError> {
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(refused("change the group"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(refused("change the user"))
}

/// Makes an empty file system that nobody can write the root, and takes everything else away.
///
/// The root is a folder of it, and not all of it: who is not at the root of the mount namespace can make no user namespace
/// (`create_user_ns` in kernel/user_namespace.c), in which all capabilities would be had anew.
fn empty_root() -> Result<(), JailError> {
    let act = "make the empty root";
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused(act))?;
    for (key, value) in [("size", "4k"), ("nr_inodes", "2"), ("mode", "0555")] {
        fsconfig_set_string(system.as_fd(), key, value).map_err(refused(act))?;
    }
    fsconfig_create(system.as_fd()).map_err(refused(act))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root =
        fsmount(system.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refused(act))?;
    rustix::fs::mkdirat(root.as_fd(), FOLDER, FOLDER_MODE).map_err(refused(act))?;
    // Over the old root, which no path leads to the top of: the descriptor does.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root.as_fd(), "", rustix::fs::CWD, "/", flags)
        .map_err(refused("mount the empty root"))?;
    rustix::process::fchdir(root.as_fd()).map_err(refused("enter the empty root"))?;
    // The old root ends up on top of the new one, from where it is taken away with all that is mounted below.
    rustix::process::pivot_root(".", ".").map_err(refused("change the root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(refused("leave the old root"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount("/", flags | MountFlags::NOEXEC, "").map_err(refused("forbid to write"))?;
    rustix::process::chroot(FOLDER).map_err(refused("enter the new root"))?;
    rustix::process::chdir("/").map_err(refused("enter the new root"))
}

fn set_limits(limits: &Limits) -> io::Result<()> {
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Fsize, limits.fsize),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nice, 0),
        (Resource::Nofile, limits.nofile),
        (Resource::Nproc, limits.nproc),
        (Resource::Rtprio, 0),
        (Resource::Sigpending, SIGPENDING),
    ] {
        // What the jailer itself may not exceed is no higher for who comes after.
        let highest = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(limit.min(highest));
        rustix::process::setrlimit(resource, Rlimit { current: limit, maximum: limit })?;
    }
    Ok(())
}

fn close_the_rest(spec: &JailSpec, program: Option<&OwnedFd>, outside: &OwnedFd) -> io::Result<()> {
    let own = program.into_iter().chain([outside]).map(AsRawFd::as_raw_fd);
    let mut kept: Vec<RawFd> = (0..=2).chain(spec.kept()).chain(own).collect();
    kept.sort_unstable();
    system::close_all_but(&kept)
}

fn drop_capabilities() -> rustix::io::Result<()> {
    for number in 0..CAPABILITIES_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            removed => removed?,
        }
    }
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits)?;
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)
}

/// Allows nothing of what Landlock knows but to execute the program.
fn restrict_files(spec: &JailSpec, program: Option<&OwnedFd>) -> Result<(), JailError> {
    let failed = |error: landlock::RulesetError| {
        refused::<io::Error>("restrict files with Landlock")(io::Error::other(error))
    };
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|rules| rules.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create);
    let mut rules = rules.map_err(failed)?;
    if let Some(program) = program {
        let allowed = AccessFs::Execute | AccessFs::ReadFile;
        rules = rules.add_rule(PathBeneath::new(program, allowed)).map_err(failed)?;
    }
    let status = rules.restrict_self().map_err(failed)?;
    if status.ruleset == RulesetStatus::NotEnforced && spec.landlock {
        let error = io::Error::new(io::ErrorKind::Unsupported, "the kernel has no Landlock");
        return Err(refused::<io::Error>("restrict files")(error));
    }
    Ok(())
}
