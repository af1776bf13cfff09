//! Shells that are played: which are made, given, replaced and ended; and the pool that decides it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::pool::{MAKING_MAX, PAUSE};
use super::*;

fn size(memory_mb: u32) -> Size {
    Size { memory_mb, guest_memory_mib: memory_mb + 32, vcpus: 1 }
}

/// What is seen of all shells of a test.
#[derive(Debug, Default)]
struct World {
    begun: AtomicUsize,
    making: AtomicUsize,
    most_at_once: AtomicUsize,
    alive: Mutex<Vec<(usize, Size)>>,
    fails: std::sync::atomic::AtomicBool,
    changed: Notify,
}

impl World {
    fn alive(&self) -> Vec<(usize, Size)> {
        self.alive.lock().unwrap().clone()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&World) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if is_so(self) {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(3600), wait).await;
        assert!(waited.is_ok(), "{what}: {self:?}");
    }

    fn died(&self, number: usize) {
        self.alive.lock().unwrap().retain(|(alive, _)| *alive != number);
        self.changed.notify_waiters();
    }
}

/// Makes shells when the test says so.
#[derive(Clone)]
struct Played {
    world: Arc<World>,
    /// One for each that may be made.
    leave: Arc<Semaphore>,
    killed: Arc<Mutex<HashMap<usize, Arc<Notify>>>>,
}

struct PlayedShell {
    number: usize,
    size: Size,
    world: Arc<World>,
    killed: Arc<Notify>,
}

impl Played {
    fn new(leave: usize) -> Self {
        let leave = Arc::new(Semaphore::new(leave));
        Self { world: Arc::default(), leave, killed: Arc::default() }
    }

    fn kill(&self, number: usize) {
        self.killed.lock().unwrap()[&number].notify_one();
    }
}

impl Maker for Played {
    type Shell = PlayedShell;

    async fn make(&self, size: Size) -> Result<PlayedShell, String> {
        let (world, number) = (&self.world, self.world.begun.fetch_add(1, Ordering::SeqCst));
        let now = world.making.fetch_add(1, Ordering::SeqCst) + 1;
        world.most_at_once.fetch_max(now, Ordering::SeqCst);
        self.leave.acquire().await.unwrap().forget();
        world.making.fetch_sub(1, Ordering::SeqCst);
        if world.fails.load(Ordering::SeqCst) {
            world.changed.notify_waiters();
            return Err(String::from("it is so"));
        }
        let killed = Arc::new(Notify::new());
        self.killed.lock().unwrap().insert(number, Arc::clone(&killed));
        world.alive.lock().unwrap().push((number, size));
        world.changed.notify_waiters();
        Ok(PlayedShell { number, size, world: Arc::clone(world), killed })
    }
}

impl Waiting for PlayedShell {
    async fn ended(&mut self) {
        self.killed.notified().await;
        // Whoever asks again hears the same.
        self.killed.notify_one();
    }

    async fn end(self) -> String {
        self.world.died(self.number);
        String::from("ended")
    }
}

const PLENTY: usize = 1000;

#[tokio::test(start_paused = true)]
async fn the_first_finds_none_the_next_find_what_was_made_ahead() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 2));
    assert!(shells.take(size(128)).await.is_none());
    world.until("two are made", |world| world.alive().len() == 2).await;
    let first = shells.take(size(128)).await.unwrap();
    let second = shells.take(size(128)).await.unwrap();
    assert_eq!((first.number, first.size, second.number), (0, size(128), 1));
    // They are replaced, and those that were taken are nobody else's.
    world.until("two more are made", |world| world.alive().len() == 4).await;
    assert_eq!(shells.take(size(128)).await.unwrap().number, 2);
    assert!(shells.take(size(256)).await.is_none(), "a shell of another size was given");
    // No more than are wanted, whatever time passes.
    world.until("all are made", |world| world.alive().len() == 7).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.begun.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn a_shell_is_replaced_once_its_environment_has_had_time_to_start() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 2));
    let begun = || world.begun.load(Ordering::SeqCst);
    assert!(shells.take(size(128)).await.is_none());
    tokio::time::sleep(PAUSE - Duration::from_millis(2)).await;
    assert_eq!(begun(), 0);
    world.until("two are made", |world| world.alive().len() == 2).await;
    let _first = shells.take(size(128)).await.unwrap();
    tokio::time::sleep(PAUSE / 2).await;
    let _second = shells.take(size(128)).await.unwrap();
    assert_eq!(begun(), 2);
    // However many are taken after it, the first is replaced in its time.
    tokio::time::sleep(PAUSE / 2 + Duration::from_millis(2)).await;
    assert_eq!(begun(), 3);
    tokio::time::sleep(PAUSE / 2).await;
    assert_eq!(begun(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_shell_that_ends_is_given_to_nobody_and_replaced() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 1));
    assert!(shells.take(size(128)).await.is_none());
    world.until("one is made", |world| world.alive().len() == 1).await;
    let before = Instant::now();
    maker.kill(0);
    world.until("it is gone", |world| world.alive().is_empty()).await;
    world.until("another is made", |world| world.alive().len() == 1).await;
    assert!(Instant::now() - before >= Duration::from_millis(100), "no rest");
    assert_eq!(shells.take(size(128)).await.unwrap().number, 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_tried_less_and_less_often() {
    let maker = Played::new(PLENTY);
    maker.world.fails.store(true, Ordering::SeqCst);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 1));
    assert!(shells.take(size(128)).await.is_none());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // 100 ms, doubled ten times, is more than a minute; once a minute from then on.
    let tried = world.begun.load(Ordering::SeqCst);
    assert!((60..=71).contains(&tried), "{tried}");
    world.fails.store(false, Ordering::SeqCst);
    world.until("one is made", |world| world.alive().len() == 1).await;
    assert!(shells.take(size(128)).await.is_some());
    // One that was taken is a new beginning.
    world.until("another is made", |world| world.alive().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn few_are_made_at_once() {
    let maker = Played::new(0);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 20));
    for memory in [128, 256, 512] {
        assert!(shells.take(size(memory)).await.is_none());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.begun.load(Ordering::SeqCst), MAKING_MAX);
    maker.leave.add_permits(PLENTY);
    world.until("all are made", |world| world.alive().len() == 60).await;
    assert_eq!(world.most_at_once.load(Ordering::SeqCst), MAKING_MAX);
}

#[tokio::test(start_paused = true)]
async fn the_size_that_was_asked_for_longest_ago_makes_room() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 1));
    let sizes: Vec<_> = (1..=SIZES_MAX as u32).map(|n| size(128 * n)).collect();
    for one in &sizes {
        assert!(shells.take(*one).await.is_none());
    }
    world.until("one of each", |world| world.alive().len() == SIZES_MAX).await;
    assert!(shells.take(size(10_240)).await.is_none());
    let gone = |world: &World| world.alive().iter().all(|(_, alive)| *alive != sizes[0]);
    world.until("the first is gone", gone).await;
    world
        .until("the last has come", |world| {
            world.alive().iter().any(|(_, alive)| *alive == size(10_240))
        })
        .await;
    assert_eq!(world.alive().len(), SIZES_MAX);
    assert!(shells.take(sizes[1]).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn none_is_left_when_they_are_closed_not_even_one_that_is_being_made() {
    let maker = Played::new(2);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 4));
    assert!(shells.take(size(128)).await.is_none());
    world.until("two are made", |world| world.alive().len() == 2).await;
    let taken = shells.take(size(128)).await.unwrap();
    let (closing, closed) = (shells.clone(), Arc::new(Notify::new()));
    let told = Arc::clone(&closed);
    tokio::spawn(async move {
        closing.close().await;
        told.notify_one();
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    maker.leave.add_permits(PLENTY);
    closed.notified().await;
    // The one that was taken is its taker's.
    assert_eq!(world.alive(), [(taken.number, size(128))]);
    assert_eq!(world.making.load(Ordering::SeqCst), 0);
    assert!(shells.take(size(128)).await.is_none());
    shells.close().await;
}

#[tokio::test(start_paused = true)]
async fn without_shells_none_is_made() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 0));
    assert!(shells.take(size(128)).await.is_none());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.begun.load(Ordering::SeqCst), 0);
    shells.close().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_while_asking_costs_no_shell_its_end() {
    let maker = Played::new(PLENTY);
    let (world, shells) = (Arc::clone(&maker.world), Shells::keep(maker.clone(), 1));
    assert!(shells.take(size(128)).await.is_none());
    world.until("one is made", |world| world.alive().len() == 1).await;
    let Some(keeper) = &shells.keeper else { panic!("there is a keeper") };
    let (give, given) = oneshot::channel();
    drop(given);
    keeper.send(Asked::Take(size(128), give)).await.unwrap();
    // It ends, for nobody knows that it was not told anything; another takes its place.
    world.until("it is gone", |world| world.alive().iter().all(|(n, _)| *n != 0)).await;
    world.until("another is made", |world| world.alive().len() == 1).await;
}
