//! Control groups on plain folders that look like the kernel's. That the kernel does as it is told is shown in the lab.

use super::*;

/// A folder in the place of a group, with the files that the kernel would make.
fn group(path: &Path, controllers: &str) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("cgroup.controllers"), controllers).unwrap();
    for file in ["cgroup.subtree_control", "cgroup.procs", "cgroup.kill"] {
        fs::write(path.join(file), "").unwrap();
    }
}

/// A delegated root with the groups that [`Cgroups::open`] makes.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    group(root.path(), "cpuset cpu io memory hugetlb pids\n");
    group(&root.path().join(ENVIRONMENTS), "cpu memory pids\n");
    root
}

fn spec(name: &str) -> CgroupSpec {
    CgroupSpec { name: name.into(), memory_mb: 128, guest_memory_mib: 194, vcpus: 1, disks: 3 }
}

/// What the kernel makes in a new group, before `limit` looks.
fn files_of(path: &Path) {
    fs::create_dir_all(path).unwrap();
    for file in ["memory.max", "memory.oom.group", "pids.max", "cpu.max", "cgroup.procs"] {
        fs::write(path.join(file), "").unwrap();
    }
}

fn read(path: &Path, file: &str) -> String {
    fs::read_to_string(path.join(file)).unwrap()
}

#[test]
fn the_share_is_in_proportion_to_the_memory() {
    assert_eq!(quota_us(1769), PERIOD_US);
    assert_eq!(quota_us(2 * 1769), 2 * PERIOD_US);
    assert_eq!(quota_us(128), 1447);
    assert_eq!(quota_us(10_240), 115_772);
    for memory_mb in 128..=10_240 {
        let exact = f64::from(memory_mb) / 1769.0;
        let given = quota_us(memory_mb) as f64 / PERIOD_US as f64;
        assert!((given / exact - 1.0).abs() < 0.001, "{memory_mb} MB: {given} of {exact}");
    }
    // Sizes that no function has still make a quota that the kernel takes.
    assert_eq!(quota_us(0), QUOTA_MIN_US);
    assert!(quota_us(u32::MAX) > QUOTA_MIN_US);
}

#[test]
fn a_root_gives_its_controllers_on_and_so_do_its_environments() {
    let root = root();
    let cgroups = Cgroups::open(Some(root.path())).unwrap();
    assert_eq!(read(root.path(), "cgroup.subtree_control"), "+cpu +memory +pids");
    assert_eq!(read(&cgroups.environments, "cgroup.subtree_control"), "+cpu +memory +pids");
    assert_eq!(read(root.path(), "cgroup.procs"), "", "nobody needed to move");
}

#[test]
fn what_is_given_on_already_is_left_alone() {
    let root = root();
    fs::write(root.path().join("cgroup.subtree_control"), "cpuset cpu memory pids\n").unwrap();
    Cgroups::open(Some(root.path())).unwrap();
    assert_eq!(read(root.path(), "cgroup.subtree_control"), "cpuset cpu memory pids\n");
}

#[test]
fn a_missing_controller_is_named() {
    let root = root();
    fs::write(root.path().join(ENVIRONMENTS).join("cgroup.controllers"), "cpu pids\n").unwrap();
    let error = Cgroups::open(Some(root.path())).unwrap_err();
    let CgroupError::NoController { group, controller } = error else { panic!("{error:?}") };
    assert_eq!((group, controller), (root.path().join(ENVIRONMENTS), "memory"));
}

#[test]
fn a_folder_that_is_no_group_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = Cgroups::open(Some(folder.path())).unwrap_err();
    assert!(matches!(error, CgroupError::NoCgroup2), "{error:?}");
}

#[test]
fn two_agents_do_not_share_a_root() {
    let root = root();
    let first = Cgroups::open(Some(root.path())).unwrap();
    let error = Cgroups::open(Some(root.path())).unwrap_err();
    assert!(matches!(error, CgroupError::InUse { .. }), "{error:?}");
    drop(first);
    Cgroups::open(Some(root.path())).unwrap();
}

#[test]
fn leftovers_are_removed_at_the_start() {
    let root = root();
    let left = root.path().join(ENVIRONMENTS).join("left");
    fs::create_dir(&left).unwrap();
    Cgroups::open(Some(root.path())).unwrap();
    assert!(!left.exists());
}

#[test]
fn limits_are_written_and_the_share_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e");
    files_of(&path);
    let group = limit(&path, &spec("e")).unwrap();
    assert_eq!(read(&path, "memory.max"), ((194_u64 << 20) * 65 / 64 + (32 << 20)).to_string());
    assert_eq!(read(&path, "memory.oom.group"), "1");
    assert_eq!(read(&path, "pids.max"), "12");
    assert_eq!(read(&path, "cpu.max"), "", "unthrottled at first");
    group.cpu_max().throttle().unwrap();
    assert_eq!(read(&path, "cpu.max"), "1447 20000");
    fs::write(path.join("cpu.max"), "").unwrap();
    group.cpu_max().unthrottle().unwrap();
    assert_eq!(read(&path, "cpu.max"), "max 20000");
    fs::write(path.join("cpu.stat"), "usage_usec 1500\nuser_usec 7\nnr_throttled 3\n").unwrap();
    let usage = CpuUsage { used: Duration::from_micros(1500), throttled_periods: 3 };
    assert_eq!(group.usage().unwrap(), usage);
}

#[test]
fn a_group_that_cannot_be_limited_is_not_left() {
    let root = root();
    let cgroups = Cgroups::open(Some(root.path())).unwrap();
    // A folder has none of the kernel's files.
    let error = cgroups.create(&spec("e")).unwrap_err();
    assert!(matches!(&error, CgroupError::Io { act: "open", .. }), "{error:?}");
    assert!(!cgroups.environments.join("e").exists());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let root = root();
    let cgroups = Cgroups::open(Some(root.path())).unwrap();
    for name in ["", ".", "..", "a/b", "../x", "a b", "\0", &"x".repeat(65)] {
        let error = cgroups.create(&spec(name)).unwrap_err();
        assert!(matches!(error, CgroupError::Name { .. }), "{name:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_busy_group_is_killed_and_removed_when_it_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e");
    files_of(&path);
    fs::write(path.join("cgroup.kill"), "").unwrap();
    let group = limit(&path, &spec("e")).unwrap();
    let emptied = {
        let path = path.clone();
        tokio::spawn(async move {
            while read(&path, "cgroup.kill") != "1" {
                tokio::task::yield_now().await;
            }
            for file in fs::read_dir(&path).unwrap() {
                fs::remove_file(file.unwrap().path()).unwrap();
            }
        })
    };
    group.remove().await.unwrap();
    emptied.await.unwrap();
    assert!(!path.exists());
}

#[test]
fn the_own_group_is_found_where_it_is_mounted() {
    let mounts = "22 1 0:20 / /proc rw - proc proc rw\n\
                  30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let own = |mounts, groups| place::own(mounts, groups);
    let service = "0::/system.slice/votive.service\n";
    assert_eq!(
        own(mounts, service),
        Some(PathBuf::from("/sys/fs/cgroup/system.slice/votive.service"))
    );
    assert_eq!(own(mounts, "0::/\n"), Some(PathBuf::from("/sys/fs/cgroup")));
    // Both versions, and a mount of a part of the tree.
    let both = "12:cpu:/x\n0::/a/b\n";
    let part = "30 23 0:26 /a /mnt/my\\040groups rw - cgroup2 none rw\n";
    assert_eq!(own(part, both), Some(PathBuf::from("/mnt/my groups/b")));
    assert_eq!(own(part, "0::/elsewhere\n"), None);
    assert_eq!(own("30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", both), None);
    assert_eq!(own(mounts, "4:cpu:/x\n"), None);
}

#[test]
fn a_line_of_io_max_is_every_groups_if_there_is_the_controller() {
    let root = root();
    let line = "8:0 rbps=1000000";
    // The group of environments does not have it.
    let cgroups = Cgroups::open_with(Some(root.path()), Some(line)).unwrap();
    assert_eq!(cgroups.io_max, None);
    drop(cgroups);
    let environments = root.path().join(ENVIRONMENTS);
    fs::write(environments.join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
    let cgroups = Cgroups::open_with(Some(root.path()), Some(line)).unwrap();
    assert_eq!(cgroups.io_max.as_deref(), Some(line));
    // A plain file keeps what is longer.
    assert!(read(&environments, "cgroup.subtree_control").starts_with("+io"));
}
