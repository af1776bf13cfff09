//! Facts about threads that wait for work.

use std::io;
use std::sync::mpsc;

use super::spawn;
use crate::seccomp::{Filter, Install};

const NO_FILTER: Install = |_| Ok(());
const STACK_BYTES: usize = 128 << 10;

#[test]
fn a_thread_does_its_work_once_it_is_given() {
    let act = |work: &mut (mpsc::Sender<u32>, u32)| work.0.send(work.1).unwrap();
    let waiting = spawn("work".into(), STACK_BYTES, (Filter::Disk, NO_FILTER), act).unwrap();
    let id = waiting.is_ready().unwrap();
    assert_eq!(waiting.is_ready().unwrap(), id);
    let name = std::fs::read_to_string(format!("/proc/self/task/{}/comm", id.thread)).unwrap();
    assert_eq!(name, "work\n");
    let (back, came) = mpsc::channel();
    waiting.start((back, 7));
    assert_eq!(came.recv().unwrap(), 7);
    // The thread stays, and so does what it worked with.
    assert_eq!(came.try_recv(), Err(mpsc::TryRecvError::Empty));
    assert!(std::path::Path::new(&format!("/proc/self/task/{}", id.thread)).exists());
}

#[test]
fn a_thread_without_its_filter_says_so() {
    let refused: Install = |_| Err(io::ErrorKind::Unsupported.into());
    let waiting =
        spawn("work".into(), STACK_BYTES, (Filter::Vcpu, refused), |(): &mut ()| {}).unwrap();
    assert_eq!(waiting.is_ready().unwrap_err().kind(), io::ErrorKind::Unsupported);
}
