//! Where environments' groups go, and what that group must be able to do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CONTROLLERS, CgroupError, failed, make, write};

/// The controller of disks' time, which not every host delegates.
const IO: &str = "io";
/// Where the agent goes when its own group gets children with controllers.
const AGENT: &str = "votive-agent";

/// The group to use: `given`, made if its parent is there, or this process's own.
pub(super) fn find(given: Option<&Path>) -> Result<PathBuf, CgroupError> {
    let Some(given) = given else {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        return own(&mounts, &groups).ok_or(CgroupError::NoCgroup2);
    };
    make(given)?;
    if !given.join("cgroup.controllers").exists() {
        return Err(CgroupError::NoCgroup2);
    }
    // A group that was just made has what its parent gives on, and often nobody has asked the parent to.
    if missing(given)?.is_some()
        && let Some(parent) = given.parent()
    {
        delegate(parent)?;
    }
    Ok(given.to_owned())
}

/// This process's own group of cgroup v2, as a path.
pub(super) fn own(mountinfo: &str, groups: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Fields of a line (proc_pid_mountinfo(5)): id, parent, device, root, mount point, options, tags, a dash, type, ...
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if !after.starts_with("cgroup2 ") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let inside = Path::new(group).strip_prefix(root).ok()?;
        Some(Path::new(&unescaped(mount_point)).join(inside))
    })
}

/// A path as mountinfo writes it: space, tab, newline and backslash are octal.
fn unescaped(path: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}

/// Has `group` give its controllers on to its children.
pub(super) fn delegate(group: &Path) -> Result<(), CgroupError> {
    if let Some(controller) = missing(group)? {
        return Err(CgroupError::NoController { group: group.to_owned(), controller });
    }
    let control = group.join("cgroup.subtree_control");
    let given = fs::read_to_string(&control).map_err(failed("read", &control))?;
    if CONTROLLERS.iter().all(|controller| has(&given, controller)) {
        return Ok(());
    }
    let wanted = CONTROLLERS.map(|controller| format!("+{controller}")).join(" ");
    match write(&control, &wanted) {
        // Only a group without processes may do this. When the one process is this one, it moves.
        Err(CgroupError::Io { source, .. }) if source.kind() == ErrorKind::ResourceBusy => {
            let own = group.join(AGENT);
            make(&own)?;
            write(&own.join("cgroup.procs"), "0")?;
            write(&control, &wanted)
        }
        written => written,
    }
}

/// Has `group` give the controller `io` on to its children, if it has it; tells whether.
pub(super) fn delegate_io(group: &Path) -> Result<bool, CgroupError> {
    let path = group.join("cgroup.controllers");
    let controllers = fs::read_to_string(&path).map_err(failed("read", &path))?;
    if !has(&controllers, IO) {
        return Ok(false);
    }
    write(&group.join("cgroup.subtree_control"), &format!("+{IO}"))?;
    Ok(true)
}

/// The first controller that `group` does not have.
fn missing(group: &Path) -> Result<Option<&'static str>, CgroupError> {
    let path = group.join("cgroup.controllers");
    let controllers = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(CgroupError::NoCgroup2),
        controllers => controllers.map_err(failed("read", &path))?,
    };
    Ok(CONTROLLERS.into_iter().find(|controller| !has(&controllers, controller)))
}

fn has(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|word| word == name)
}
