//! Commands and answers, with vCPUs that pause when the test says so.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Answer, Answerer, Control, ControlSocket, Vcpus};
use crate::exit::{Exit, ExitReason};

/// vCPUs that pause when the test says so.
#[derive(Clone)]
struct Fake(Rc<FakeState>);

struct FakeState {
    answerer: Answerer,
    event: EventFd,
    asked: Cell<u32>,
    resumed: Cell<u32>,
    paused: Cell<bool>,
    answer: Cell<Answer>,
    /// Whether somebody asked for the event.
    watched: Cell<bool>,
    /// Whether the vCPUs have not yet noticed that they may go on.
    linger: Cell<bool>,
}

impl Vcpus for Fake {
    fn pause(&self) -> bool {
        if self.0.linger.get() || self.0.paused.get() {
            return false;
        }
        self.0.asked.set(self.0.asked.get() + 1);
        self.0.answer.set(Answer::Outstanding);
        true
    }

    fn resume(&self) {
        self.0.resumed.set(self.0.resumed.get() + 1);
        self.0.paused.set(false);
    }

    fn answer(&self) -> Answer {
        self.0.watched.set(self.0.answer.get() == Answer::Outstanding);
        self.0.answer.get()
    }

    fn paused_event(&self) -> &EventFd {
        &self.0.event
    }
}

impl Fake {
    /// All vCPUs have come to wait.
    fn arrive(&self) {
        self.0.paused.set(true);
        let answer = if self.0.answerer.paused() { Answer::Given } else { Answer::Refused };
        self.0.answer.set(answer);
        if self.0.watched.take() || answer == Answer::Refused {
            self.0.event.write(1).unwrap();
        }
    }
}

/// A channel on an event loop, and its peer.
struct Channel {
    peer: UnixStream,
    vcpus: Fake,
    exit: Arc<Exit>,
    events: EventManager<Box<dyn MutEventSubscriber>>,
}

impl Channel {
    fn new() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let socket = ControlSocket::new(ours.into()).unwrap();
        let vcpus = Fake(Rc::new(FakeState {
            answerer: socket.answerer(),
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
            asked: Cell::new(0),
            resumed: Cell::new(0),
            paused: Cell::new(false),
            answer: Cell::new(Answer::Given),
            watched: Cell::new(false),
            linger: Cell::new(false),
        }));
        let exit = Arc::new(Exit::new().unwrap());
        let control = Control::new(socket, vcpus.clone(), Arc::clone(&exit));
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(Box::new(control) as Box<dyn MutEventSubscriber>);
        Self { peer, vcpus, exit, events }
    }

    fn send(&self, commands: &[u8]) {
        (&self.peer).write_all(commands).unwrap();
    }

    /// Runs the loop until there is nothing to do. Says in how many turns.
    fn settle(&mut self) -> u32 {
        let mut turns = 0;
        while self.events.run_with_timeout(0).unwrap() > 0 {
            turns += 1;
            assert!(turns < 10_000, "the loop does not come to rest");
        }
        turns
    }

    /// What has been answered since the last time.
    fn answers(&self) -> String {
        let mut answers = Vec::new();
        // Ends with an error: there is no more for now.
        let _ = (&self.peer).read_to_end(&mut answers);
        String::from_utf8(answers).unwrap()
    }
}

#[test]
fn a_pause_is_answered_when_all_vcpus_wait_and_not_before() {
    let mut channel = Channel::new();
    channel.send(b"p");
    channel.settle();
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.asked.get()), ("", 1));
    channel.vcpus.arrive();
    assert_eq!(channel.answers(), "p");
    assert_eq!(channel.settle(), 0, "the main thread has nothing to do with the answer");
    channel.send(b"r");
    channel.settle();
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.resumed.get()), ("r", 1));
}

#[test]
fn what_is_so_already_is_answered_at_once() {
    let mut channel = Channel::new();
    channel.send(b"rr");
    channel.settle();
    assert_eq!(channel.answers(), "rr");
    channel.send(b"p");
    channel.settle();
    channel.vcpus.arrive();
    channel.send(b"pp");
    channel.settle();
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.asked.get()), ("ppp", 1));
}

#[test]
fn a_command_waits_for_the_answer_to_the_one_before_it_and_keeps_nobody_busy() {
    let mut channel = Channel::new();
    channel.send(b"prpr");
    assert!(channel.settle() < 10, "a command that waits must not spin the loop");
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.resumed.get()), ("", 0));
    channel.vcpus.arrive();
    channel.settle();
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.asked.get()), ("pr", 2));
    channel.vcpus.arrive();
    channel.settle();
    assert_eq!(channel.answers(), "pr");
    assert_eq!(channel.exit.reason(), None);
}

#[test]
fn a_word_that_comes_late_is_no_answer_to_a_later_pause() {
    let mut channel = Channel::new();
    channel.vcpus.0.event.write(1).unwrap();
    channel.send(b"p");
    channel.settle();
    assert_eq!(channel.answers(), "");
}

#[test]
fn vcpus_that_have_not_left_yet_are_paused_again_at_once() {
    let mut channel = Channel::new();
    channel.vcpus.0.linger.set(true);
    channel.send(b"prp");
    channel.settle();
    assert_eq!((channel.answers().as_str(), channel.vcpus.0.asked.get()), ("prp", 0));
}

#[test]
fn unknown_commands_change_nothing_and_are_answered() {
    let mut channel = Channel::new();
    channel.send(&[0, b'P', 0xff, b'\n']);
    channel.settle();
    assert_eq!(channel.answers(), "????");
    assert_eq!((channel.vcpus.0.asked.get(), channel.vcpus.0.resumed.get()), (0, 0));
}

#[test]
fn a_peer_that_never_reads_holds_up_itself_alone_and_loses_nothing() {
    let mut channel = Channel::new();
    let mut sent = 0;
    // Until both directions are full.
    loop {
        while (&channel.peer).write(b"x").is_ok() {
            sent += 1;
        }
        if channel.settle() == 0 {
            break;
        }
    }
    let mut answers = 0;
    loop {
        answers += channel.answers().len();
        if channel.settle() == 0 {
            break;
        }
    }
    assert!(sent > 200, "{sent}: the sockets were never full");
    assert_eq!(answers, sent);
    assert_eq!(channel.exit.reason(), None);
}

#[test]
fn an_answer_that_the_socket_refuses_comes_once_it_is_read_from() {
    for pipelined in [false, true] {
        let mut channel = Channel::new();
        // Every place for an answer is taken, and no command waits.
        let mut unread = 0;
        while channel.vcpus.0.answerer.paused() {
            unread += 1;
        }
        channel.send(if pipelined { b"pr" } else { b"p" });
        channel.settle();
        channel.vcpus.arrive();
        assert_eq!(channel.vcpus.0.answer.get(), Answer::Refused);
        assert!(channel.settle() < 10, "the loop waits for the peer");
        let mut answers = 0;
        loop {
            answers += channel.answers().len();
            if channel.settle() == 0 {
                break;
            }
        }
        let owed = if pipelined { 2 } else { 1 };
        assert_eq!(answers + channel.answers().len(), unread + owed);
        assert_eq!(channel.vcpus.0.resumed.get(), u32::from(pipelined));
    }
}

#[test]
fn the_end_of_the_peer_is_the_end_in_every_state() {
    let commands: [&[u8]; 4] = [b"", b"p", b"pp", b"prx"];
    for commands in commands {
        for half in [false, true] {
            let mut channel = Channel::new();
            channel.send(commands);
            channel.settle();
            if half {
                channel.peer.shutdown(std::net::Shutdown::Both).unwrap();
            } else {
                channel.peer = UnixStream::pair().unwrap().0;
            }
            channel.events.run_with_timeout(0).unwrap();
            assert_eq!(channel.exit.reason(), Some(ExitReason::ControlClosed), "{commands:?}");
        }
    }
}

#[test]
fn what_is_no_connected_socket_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(ControlSocket::new(file.into()).is_err());
    let folder = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    assert!(ControlSocket::new(listener.into()).is_err());
}
