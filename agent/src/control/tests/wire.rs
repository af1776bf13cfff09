//! What is on the wire: nothing that can be read, and nothing that can be changed.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use votive_control::address::Address;
use votive_control::client::ClientError;

use super::harness::{Channel, INVOCATION, PATIENCE, register, start_of, until};
use crate::control::ControlLimits;
use crate::control::tally::Cut;

/// A place between a caller and a worker.
struct Wire {
    address: Address,
    state: Arc<Mutex<State>>,
}

/// What the wire does with the TLS records of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mischief {
    None,
    /// One bit of the next record is flipped.
    Flip,
    /// The next record comes twice.
    Repeat,
    /// The next record is left out.
    Drop,
}

struct State {
    seen: Vec<u8>,
    upwards: Mischief,
    downwards: Mischief,
}

impl Wire {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let state = State { seen: Vec::new(), upwards: Mischief::None, downwards: Mischief::None };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let worker = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (from_caller, to_caller) = caller.into_split();
                let (from_worker, to_worker) = worker.into_split();
                tokio::spawn(pass(from_caller, to_worker, Arc::clone(&shared), true));
                tokio::spawn(pass(from_worker, to_caller, Arc::clone(&shared), false));
            }
        });
        Self { address: Address::Tcp { host: String::from("127.0.0.1"), port: own }, state }
    }

    fn set(&self, upwards: Mischief, downwards: Mischief) {
        let mut state = self.state.lock().unwrap();
        (state.upwards, state.downwards) = (upwards, downwards);
    }
}

/// Passes TLS records on, one by one.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: Arc<Mutex<State>>,
    is_upwards: bool,
) {
    loop {
        let mut record = vec![0; 5];
        if from.read_exact(&mut record).await.is_err() {
            return;
        }
        let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + len, 0);
        if from.read_exact(&mut record[5..]).await.is_err() {
            return;
        }
        let mischief = {
            let mut state = state.lock().unwrap();
            state.seen.extend_from_slice(&record);
            let mischief = if is_upwards { &mut state.upwards } else { &mut state.downwards };
            std::mem::replace(mischief, Mischief::None)
        };
        let times = match mischief {
            Mischief::None => 1,
            Mischief::Flip => {
                let middle = 5 + len / 2;
                record[middle] ^= 1;
                1
            }
            Mischief::Repeat => 2,
            Mischief::Drop => 0,
        };
        for _ in 0..times {
            if to.write_all(&record).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn nothing_that_is_said_can_be_read_on_the_wire() {
    let marker = b"MARKER-8c1f0a4e-never-in-the-clear";
    let channel = Channel::start(ControlLimits::default()).await;
    let wire = Wire::to(channel.port()).await;
    let client = channel.client_at(&wire.address, "orchestrator").await.unwrap();
    let version = register(&client, "echo").await;
    let reservation = client.reserve(&version, INVOCATION).await.unwrap();
    let payload = Bytes::from(marker.repeat(1000));
    let answer = client.invoke(start_of(&reservation), payload.clone(), PATIENCE).await.unwrap();
    let outcome = answer.collect(1024 * 1024).await.unwrap();
    assert_eq!(outcome.payload, payload);

    let seen = wire.state.lock().unwrap().seen.clone();
    // It went over this wire twice, there and back.
    assert!(seen.len() > 2 * payload.len(), "{} bytes seen", seen.len());
    let holds = |needle: &[u8]| seen.windows(needle.len()).any(|window| window == needle);
    assert!(!holds(marker));
    assert!(!holds(reservation.token.as_bytes()));
    for name in ["votive.worker.v1", "Reserve", "grpc", "orchestrator", "urn:votive"] {
        assert!(!holds(name.as_bytes()), "{name}");
    }
    channel.stop().await;
}

#[tokio::test]
async fn a_record_that_is_changed_repeated_or_left_out_ends_the_connection() {
    for mischief in [Mischief::Flip, Mischief::Repeat, Mischief::Drop] {
        let channel = Channel::start(ControlLimits::default()).await;
        let wire = Wire::to(channel.port()).await;

        // From the caller to the worker.
        let client = channel.client_at(&wire.address, "observer").await.unwrap();
        client.status().await.unwrap();
        let asked = channel.asked();
        wire.set(mischief, Mischief::None);
        let calling = async {
            // One that was left out is noticed with the next.
            let _ =
                tokio::time::timeout(std::time::Duration::from_millis(500), client.status()).await;
            client.status().await
        };
        let answered = tokio::time::timeout(PATIENCE, calling).await.unwrap();
        until("the worker noticed", || channel.tally.count(Cut::Tampered) == 1).await;
        if mischief != Mischief::Repeat {
            // A record that is repeated was right the first time.
            assert!(channel.asked() <= asked + 1, "{mischief:?}: {answered:?}");
        }

        // From the worker to the caller, on a connection of its own.
        let client = channel.client_at(&wire.address, "observer").await.unwrap();
        client.status().await.unwrap();
        wire.set(Mischief::None, mischief);
        let mut lost = None;
        for _ in 0..3 {
            let limit = std::time::Duration::from_millis(500);
            if let Ok(Err(error)) = tokio::time::timeout(limit, client.status()).await {
                lost = Some(error);
                break;
            }
        }
        let lost = lost.unwrap_or_else(|| panic!("{mischief:?} was not noticed"));
        assert!(matches!(lost, ClientError::Lost { .. }), "{mischief:?}: {lost}");
        until("the connections are gone", || channel.tally.open() <= 1).await;
        channel.stop().await;
    }
}
