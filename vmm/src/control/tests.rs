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
use crate::virtio::block::{Block, BlockSpec};
use crate::virtio::driver::{DATA, GuestDriver, ram, readable, writable};
use crate::virtio::net::{Net, NetSpec};
use crate::virtio::{MmioDevice, VirtioDevice};

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
        Self::with(Vec::new())
    }

    fn with(devices: Vec<Arc<MmioDevice>>) -> Self {
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
        let control = Control::new(socket, vcpus.clone(), Arc::clone(&exit), devices);
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

/// A disk of one sector, a disk of two, and a network device.
fn devices() -> Vec<GuestDriver> {
    let disk = |sectors: u64| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(sectors * 512).unwrap();
        Box::new(Block::new(BlockSpec::new(file, false, "d")).unwrap())
    };
    let (tap, _) = UnixStream::pair().unwrap();
    let (receive, send) = Default::default();
    let tap = std::os::fd::OwnedFd::from(tap).into();
    let net = Net::new(NetSpec { tap, mac: [2; 6], mtu: 1500, receive, send }).unwrap();
    let devices: [Box<dyn VirtioDevice>; 3] = [disk(1), disk(2), Box::new(net)];
    devices.map(|device| GuestDriver::new(device, ram().unwrap()).unwrap()).into()
}

fn record(what: u8, which: u8, numbers: [u64; 4]) -> Vec<u8> {
    let mut bytes = vec![b'l', what, which, 0, 0, 0, 0, 0, 0];
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

#[test]
fn limits_are_set_of_the_queue_that_is_named_and_of_no_other() {
    let mut drivers = devices();
    let mut channel = Channel::with(drivers.iter().map(|it| Arc::clone(it.device())).collect());
    channel.send(&record(0, 1, [1, 1, 0, 0]));
    channel.settle();
    assert_eq!(channel.answers(), "l");
    let mut served = drivers[..2].iter_mut().map(|driver| {
        assert!(driver.start(1 << 32));
        driver.write(DATA, &[0; 16]);
        for _ in 0..2 {
            driver.offer(0, &[readable(DATA, 16), writable(DATA + 16, 513)]);
            driver.kick(0);
            driver.run(0);
        }
        std::iter::from_fn(|| driver.used(0)).count()
    });
    assert_eq!([served.next(), served.next()], [Some(2), Some(1)]);
}

#[test]
fn a_record_may_come_byte_by_byte_and_what_follows_it_is_a_command() {
    let drivers = devices();
    let mut channel = Channel::with(drivers.iter().map(|it| Arc::clone(it.device())).collect());
    for byte in record(1, 0, [1 << 20, 0, 1000, 1000]) {
        assert_eq!(channel.answers(), "");
        channel.send(&[byte]);
        channel.settle();
    }
    assert_eq!(channel.answers(), "l");
    channel.send(&[record(2, 0, [0; 4]), record(0, 0, [0, 0, 5, 0]), b"rx".to_vec()].concat());
    channel.settle();
    assert_eq!(channel.answers(), "llr?");
}

#[test]
fn records_that_make_no_sense_are_answered_so_and_change_nothing() {
    let wrong = [
        record(3, 0, [0; 4]),
        record(0, 2, [0; 4]),
        record(1, 1, [0; 4]),
        record(255, 255, [u64::MAX; 4]),
        record(0, 0, [0, 1, 0, 0]),
        record(0, 0, [0, 0, 0, 1]),
        record(0, 0, [100, 4, 0, 0]),
        record(0, 0, [0, 0, (1 << 40) + 1, 0]),
        record(0, 0, [1, u64::MAX, 0, 0]),
        [&[b'l', 0, 0, 1], &[0; 37][..]].concat(),
        [&[b'l', 0, 0, 0, 0, 0, 0, 0, 1], &[0; 32][..]].concat(),
    ];
    let drivers = devices();
    let mut channel = Channel::with(drivers.iter().map(|it| Arc::clone(it.device())).collect());
    for record in &wrong {
        channel.send(record);
        channel.settle();
        assert_eq!(channel.answers(), "?", "{record:?}");
    }
    let mut none = Channel::new();
    none.send(&record(0, 0, [0; 4]));
    none.settle();
    assert_eq!(none.answers(), "?");
}

#[test]
fn a_peer_that_goes_away_inside_of_a_record_ends_the_machine() {
    let mut channel = Channel::new();
    channel.send(&record(0, 0, [0; 4])[..20]);
    channel.settle();
    assert_eq!(channel.exit.reason(), None);
    drop(std::mem::replace(&mut channel.peer, UnixStream::pair().unwrap().0));
    channel.events.run_with_timeout(0).unwrap();
    assert_eq!(channel.exit.reason(), Some(ExitReason::ControlClosed));
}
