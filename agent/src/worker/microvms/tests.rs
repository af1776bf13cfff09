//! A turn to boot is over when the guest is heard, or gone, and what it said is still there.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::heard;
use crate::limits::BOOT_TIMEOUT;

#[tokio::test(start_paused = true)]
async fn a_boot_is_over_when_the_guest_speaks() {
    let (mut link, mut guest) = UnixStream::pair().unwrap();
    let turn = tokio::spawn(heard(&link).unwrap());
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
    let turn = heard(&link).unwrap();
    drop(guest);
    let started = tokio::time::Instant::now();
    turn.await;
    assert!(started.elapsed() < BOOT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_speaks_takes_no_turn_for_ever() {
    let (link, _guest) = UnixStream::pair().unwrap();
    let started = tokio::time::Instant::now();
    heard(&link).unwrap().await;
    assert!(started.elapsed() >= BOOT_TIMEOUT);
}
