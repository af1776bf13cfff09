//! What the gate gives, to whom, and what it asks for again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::fixture::{NOW, World, grant, spec};
use crate::grant::{LIFETIME_MAX_S, Operations};
use crate::seal::Method;
use crate::store::upload::Stored;

fn presented(grant: &[u8]) -> Presented<'_> {
    Presented { worker: "worker-1", grant }
}

async fn stored(world: &World) -> Stored {
    world.upload(&spec("one", Method::Convergent), &[1, 2, 0, 3]).await.unwrap()
}

#[tokio::test]
async fn a_read_list_is_written_once_and_read_by_all() {
    let world = World::new();
    let stored = stored(&world).await;
    let (gate, signed) = (world.gate(), world.grant(&stored));
    assert_eq!(gate.reads(presented(&signed)).await.unwrap(), None);
    assert!(gate.put_reads(presented(&signed), b"first").await.unwrap());
    assert!(!gate.put_reads(presented(&signed), b"second").await.unwrap());
    let found = world.gate().reads(presented(&signed)).await.unwrap();
    assert_eq!(found.as_deref(), Some(&b"first"[..]));
    let long = gate.put_reads(presented(&signed), &[0; READS_BYTES_MAX + 1]).await.unwrap_err();
    assert!(matches!(long, GateError::Reads { bytes } if bytes == READS_BYTES_MAX + 1), "{long}");
    // A store that lies gives no more than the bound.
    let other = world.upload(&spec("two", Method::Convergent), &[4]).await.unwrap();
    let path = world.store.reads_path(other.root, &other.manifest);
    world.store.put_new(&path, vec![0; READS_BYTES_MAX + 1].into()).await.unwrap();
    let large = gate.reads(presented(&world.grant(&other))).await.unwrap_err();
    assert!(matches!(large, GateError::Store(StoreError::TooLarge { .. })), "{large}");
}

#[tokio::test]
async fn a_read_list_takes_a_grant() {
    let world = World::new();
    let stored = stored(&world).await;
    let (gate, signed) = (world.gate(), world.grant(&stored));
    let thief = Presented { worker: "worker-2", grant: &signed };
    let refused = |error: GateError| {
        assert!(matches!(error, GateError::Grant(GrantError::OtherWorker)), "{error}");
    };
    refused(gate.reads(thief).await.unwrap_err());
    refused(gate.put_reads(thief, b"list").await.unwrap_err());
    let none = gate.reads(presented(b"none")).await.unwrap_err();
    assert!(matches!(none, GateError::Grant(GrantError::Malformed)), "{none}");
    assert_eq!(gate.reads(presented(&signed)).await.unwrap(), None);
}

#[tokio::test]
async fn an_expired_root_takes_no_read_list() {
    let world = World::new();
    let stored = stored(&world).await;
    let mark = world.store.root_path(stored.root).join("expired");
    world.store.put_new(&mark, Bytes::from_static(b"1000\n")).await.unwrap();
    let signed = world.grant(&stored);
    assert!(!world.gate().put_reads(presented(&signed), b"list").await.unwrap());
    assert_eq!(world.gate().reads(presented(&signed)).await.unwrap(), None);
}

/// A gate, and what its clock says.
fn timed_gate(world: &World) -> (Gate, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(NOW));
    let clock: Clock = Arc::new({
        let now = now.clone();
        move || now.load(Ordering::SeqCst)
    });
    (world.gate().with_clock(clock), now)
}

#[tokio::test]
async fn a_grant_that_is_remembered_is_worth_nothing_elsewhere_later_or_altered() {
    let world = World::new();
    let stored = stored(&world).await;
    let (gate, now) = timed_gate(&world);
    let signed = world.grant(&stored);
    let (_, manifest) = gate.artifact(presented(&signed)).await.unwrap();
    let name = manifest.names()[0];
    for _ in 0..3 {
        gate.chunk(presented(&signed), &name).await.unwrap();
        assert_eq!(gate.lock().grants.len(), 1);
    }
    let refused = async |presented: Presented<'_>| match gate.chunk(presented, &name).await {
        Err(GateError::Grant(error)) => error,
        other => unreachable!("{other:?}"),
    };
    let thief = Presented { worker: "worker-2", grant: &signed };
    assert_eq!(refused(thief).await, GrantError::OtherWorker);
    for bit in 0..signed.len() * 8 {
        let mut altered = signed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(presented(&altered)).await, GrantError::Signature, "bit {bit}");
    }
    now.store(NOW + LIFETIME_MAX_S, Ordering::SeqCst);
    assert_eq!(refused(presented(&signed)).await, GrantError::Expired);
    assert_eq!(gate.lock().grants.len(), 1, "what is refused is not remembered");
}

#[tokio::test]
async fn remembered_grants_are_bounded() {
    let world = World::new();
    let stored = stored(&world).await;
    let (gate, now) = timed_gate(&world);
    let sign = |number: u64| {
        let identity = format!("artifact-{number}");
        let operations = Operations::READ;
        world.issuer.sign(&Grant { identity, operations, ..grant(&stored) }).unwrap()
    };
    for number in 0..GRANTS_MAX as u64 + 2 {
        gate.admit(presented(&sign(number)), Operation::Read).unwrap();
    }
    assert_eq!(gate.lock().grants.len(), GRANTS_MAX);
    now.store(grant(&stored).expires_s, Ordering::SeqCst);
    let later = Grant { not_before_s: NOW + 60, expires_s: NOW + 900, ..grant(&stored) };
    gate.admit(presented(&world.issuer.sign(&later).unwrap()), Operation::Read).unwrap();
    assert_eq!(gate.lock().grants.len(), 1, "those that have expired made room");
}

#[tokio::test]
async fn what_was_copied_in_time_is_read_where_it_is_and_raises_no_alarm() {
    let world = World::new();
    let stored = stored(&world).await;
    let (gate, signed) = (world.gate(), world.grant(&stored));
    let (_, manifest) = gate.artifact(presented(&signed)).await.unwrap();
    gate.put_reads(presented(&signed), b"list").await.unwrap();
    crate::gc::rotate(&world.store, &*world.keys, "service").await.unwrap();
    let live = [stored.identity.clone()].into();
    crate::gc::migrate(&world.store, &live, false).await.unwrap();
    crate::gc::expire(&world.store, stored.root).await.unwrap();
    gate.forget_states();
    world.objects.read.lock().unwrap().clear();
    for name in manifest.names() {
        gate.chunk(presented(&signed), name).await.unwrap();
    }
    assert_eq!(gate.reads(presented(&signed)).await.unwrap().as_deref(), Some(&b"list"[..]));
    assert_eq!(crate::gc::alarm_count(&world.store, stored.root).await.unwrap(), 0);
    let old = stored.root.to_string();
    let read = world.objects.read.lock().unwrap();
    assert!(read.iter().all(|path| !path.as_ref().contains(&old)), "{read:?}");
    assert_eq!(read.len(), manifest.names().len());
}
