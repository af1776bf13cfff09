//! A turn to boot is over when the guest is heard, or gone, and what it said is still there.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

async fn one() -> Turn {
    Boots::new(1).turn(Initialization::OnDemand).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_boot_is_over_when_the_guest_speaks() {
    let (mut link, mut guest) = UnixStream::pair().unwrap();
    let turn = tokio::spawn(one().await.until_heard(&link).unwrap());
    guest.write_all(b"hello").await.unwrap();
    let started = tokio::time::Instant::now();
    turn.await.unwrap();
    assert!(started.elapsed() < BOOT_TIMEOUT);
    let mut said = [0; 5];
    link.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_boot_is_over_when_the_guest_is_gone() {
    let (link, guest) = UnixStream::pair().unwrap();
    let turn = one().await.until_heard(&link).unwrap();
    drop(guest);
    let started = tokio::time::Instant::now();
    turn.await;
    assert!(started.elapsed() < BOOT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_speaks_takes_no_turn_for_ever() {
    let (link, _guest) = UnixStream::pair().unwrap();
    let started = tokio::time::Instant::now();
    one().await.until_heard(&link).unwrap().await;
    assert!(started.elapsed() >= BOOT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_caller_never_waits_behind_those_that_are_started_ahead() {
    let boots = Boots::new(3);
    let turn = |why| timeout(BOOT_TIMEOUT, boots.turn(why));
    let ahead = [turn(Initialization::Provisioned).await, turn(Initialization::Provisioned).await];
    assert!(ahead.iter().all(Result::is_ok));
    // A third must wait, and so do any number behind it, while a caller has its turn at once.
    let (third, demanded) = tokio::join!(
        turn(Initialization::Provisioned),
        timeout(BOOT_TIMEOUT / 2, boots.turn(Initialization::OnDemand))
    );
    assert!(third.is_err() && demanded.is_ok());
    drop(ahead);
    assert!(turn(Initialization::Provisioned).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn no_more_boot_at_once_than_there_are_turns() {
    let boots = Boots::new(2);
    let turn = || timeout(BOOT_TIMEOUT, boots.turn(Initialization::OnDemand));
    let (first, second) = (turn().await.unwrap(), turn().await.unwrap());
    assert!(turn().await.is_err());
    drop((first, second));
    assert!(turn().await.is_ok());
}
