//! Facts about assignments.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use event_manager::{EventManager, SubscriberOps};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;

fn message(text: &[u8]) -> Vec<u8> {
    [&[b'a'][..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text].concat()
}

fn options(text: &[u8]) -> Vec<String> {
    let parsed = parse(&message(text)).unwrap().unwrap();
    parsed.into_iter().map(|option| option.into_string().unwrap()).collect()
}

#[test]
fn options_are_split_at_zero_bytes_with_or_without_the_last() {
    assert_eq!(options(b"--kernel\0fd:0\0--rng\0"), ["--kernel", "fd:0", "--rng"]);
    assert_eq!(options(b"--kernel\0fd:0"), ["--kernel", "fd:0"]);
    assert_eq!(options(b"--cmdline\0\0"), ["--cmdline", ""]);
    assert_eq!(options(b""), [""; 0]);
}

#[test]
fn a_part_of_a_message_is_none_yet_and_nonsense_is_refused_at_once() {
    let whole = message(b"--kernel\0fd:0\0");
    for end in 0..whole.len() {
        assert_eq!(parse(&whole[..end]), Ok(None), "{end}");
    }
    assert_eq!(parse(b"p"), Err(AssignmentError::Other));
    let longest = message(&[b'x'; MAX_ASSIGNMENT_BYTES]);
    assert_eq!(parse(&longest).unwrap().unwrap()[0].len(), MAX_ASSIGNMENT_BYTES);
    let bytes = MAX_ASSIGNMENT_BYTES + 1;
    assert_eq!(parse(&message(&vec![b'x'; bytes])[..5]), Err(AssignmentError::Length { bytes }));
    let more = [message(b"--rng\0"), b"p".to_vec()].concat();
    assert_eq!(parse(&more), Err(AssignmentError::Length { bytes: 7 }));
}

struct Post {
    events: EventManager<Mailbox>,
    outcome: Outcome,
    exit: Arc<Exit>,
    peer: UnixStream,
}

fn post() -> Post {
    let (ours, peer) = UnixStream::pair().unwrap();
    let (outcome, exit) = (Outcome::default(), Arc::new(Exit::new().unwrap()));
    let socket = Arc::new(File::from(OwnedFd::from(ours)));
    let mut events = EventManager::new().unwrap();
    events.add_subscriber(Mailbox::new(socket, Arc::clone(&exit), Rc::clone(&outcome)));
    Post { events, outcome, exit, peer }
}

impl Post {
    fn send(&self, bytes: &[u8], files: usize) {
        let file = tempfile::tempfile().unwrap();
        let fds = vec![file.as_fd(); files];
        let mut space = vec![std::mem::MaybeUninit::uninit(); 4096];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(files == 0 || control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent =
            sendmsg(&self.peer, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), bytes.len());
    }

    fn turn(&mut self) -> Option<Result<Assigned, AssignmentError>> {
        self.events.run_with_timeout(10_000).unwrap();
        self.outcome.take()
    }
}

#[test]
fn an_assignment_brings_its_descriptors_in_one_piece_or_in_many() {
    let mut post = post();
    let longest = message(&[b'x'; MAX_ASSIGNMENT_BYTES]);
    post.send(&longest[..1], MAX_ASSIGNMENT_DESCRIPTORS);
    assert!(post.turn().is_none());
    (&post.peer).write_all(&longest[1..]).unwrap();
    let assigned = post.turn().unwrap().unwrap();
    assert_eq!(assigned.descriptors.len(), MAX_ASSIGNMENT_DESCRIPTORS);
    assert_eq!(assigned.options[0].len(), MAX_ASSIGNMENT_BYTES);
}

#[test]
fn too_many_descriptors_and_late_ones_are_refused() {
    let mut many = post();
    many.send(&message(b"--rng"), MAX_ASSIGNMENT_DESCRIPTORS + 1);
    assert_eq!(many.turn().unwrap().unwrap_err(), AssignmentError::Descriptors);
    let mut late = post();
    late.send(b"a", 0);
    assert!(late.turn().is_none());
    late.send(&message(b"--rng")[1..], 1);
    assert_eq!(late.turn().unwrap().unwrap_err(), AssignmentError::Descriptors);
}

#[test]
fn a_peer_that_goes_before_is_the_end() {
    let mut post = post();
    post.send(b"a", 2);
    assert!(post.turn().is_none());
    post.peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(post.turn().is_none());
    assert_eq!(post.exit.reason(), Some(ExitReason::ControlClosed));
}
