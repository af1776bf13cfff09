//! Workplaces of the living stay, those of the dead go.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Barrier;

use super::{PREFIX, Workplace};

/// Set in a process that makes a workplace in the folder this names, and dies in it.
const DIE: &str = "VOTIVE_TEST_DIE_IN";

#[test]
fn a_killed_process_leaves_a_folder_until_the_next_start() {
    if let Some(parent) = std::env::var_os(DIE) {
        let workplace = Workplace::new_in(parent.as_ref()).unwrap();
        fs::create_dir(workplace.path().join("files")).unwrap();
        fs::write(workplace.path().join("files/half"), "written").unwrap();
        let own = std::process::id().to_string();
        Command::new("kill").args(["-s", "KILL", &own]).status().unwrap();
        unreachable!("nothing runs after SIGKILL");
    }
    let parent = tempfile::tempdir().unwrap();
    let left = || fs::read_dir(parent.path()).unwrap().count();
    let name = "workplace::tests::a_killed_process_leaves_a_folder_until_the_next_start";
    let mut dying = Command::new(std::env::current_exe().unwrap());
    dying.args(["--exact", name]).env(DIE, parent.path());
    let status = dying.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    assert_eq!(left(), 1, "SIGKILL left what nobody could remove");
    let living = Workplace::new_in(parent.path()).unwrap();
    assert_eq!(left(), 1, "only the living one's is there");
    drop(living);
    assert_eq!(left(), 0);
}

#[test]
fn what_is_not_a_dead_workplace_stays() {
    let parent = tempfile::tempdir().unwrap();
    let living = Workplace::new_in(parent.path()).unwrap();
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("file"), "kept").unwrap();
    let link = parent.path().join(format!("{PREFIX}link"));
    std::os::unix::fs::symlink(target.path(), &link).unwrap();
    fs::create_dir(parent.path().join("other")).unwrap();
    fs::write(parent.path().join(format!("{PREFIX}file")), "kept").unwrap();
    let second = Workplace::new_in(parent.path()).unwrap();
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 5);
    assert!(target.path().join("file").exists());
    drop((living, second));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 3);
}

#[test]
fn many_that_start_at_once_do_not_take_each_other_for_dead() {
    let parent = tempfile::tempdir().unwrap();
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    let workplace = Workplace::new_in(parent.path()).unwrap();
                    fs::write(workplace.path().join("file"), "here").unwrap();
                    assert_eq!(fs::read(workplace.path().join("file")).unwrap(), b"here");
                }
            });
        }
    });
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
}
