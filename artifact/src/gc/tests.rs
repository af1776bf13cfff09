//! Roots come and go, and an alarm stops what must not happen.

use std::sync::Arc;
use std::time::Duration;

use super::{Collected, GcError, alarm_count, clear_alarms, delete, expire, migrate, rotate};
use crate::fetch::Loader;
use crate::fixture::{World, chunk, spec};
use crate::gate::{Presented, STATE_AGE_MAX};
use crate::seal::Method;
use crate::store::root::{Root, RootState};
use crate::store::upload::Stored;

const LONG: Duration = Duration::from_secs(60);

/// Makes a root look as if it had expired long ago.
async fn expire_long_ago(world: &World, root: &Root) {
    let path = world.store.root_path(root.id).join("expired");
    world.store.put_new(&path, bytes::Bytes::from_static(b"1000\n")).await.unwrap();
}

async fn load(world: &World, stored: &Stored) -> Vec<u8> {
    let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
    let loaded = Arc::new(loader.open(&world.grant(stored)).await.unwrap());
    loader.chunk(&loaded, 0, vec![], LONG).await.unwrap()
}

/// Two artifacts in a root that is retired; the second one is copied to the new root, the first is not.
async fn half_migrated(world: &World) -> (Root, [Stored; 2]) {
    let lost = world.upload(&spec("lost", Method::Convergent), &[1, 2, 3]).await.unwrap();
    let kept = world.upload(&spec("kept", Method::ServiceKey), &[4, 0, 5]).await.unwrap();
    let old = world.uploader().await.root().clone();
    let (gate, grant) = (world.gate(), world.grant(&kept));
    let presented = Presented { worker: "worker-1", grant: &grant };
    assert!(gate.put_reads(presented, b"list").await.unwrap());
    rotate(&world.store, &*world.keys, "service").await.unwrap();
    let live = [kept.identity.clone()].into();
    let planned = migrate(&world.store, &live, true).await.unwrap();
    let before = world.objects().await.len();
    let copied = migrate(&world.store, &live, false).await.unwrap();
    assert_eq!(planned, copied);
    assert_eq!((copied.objects, world.objects().await.len() - before), (6, 6));
    assert_eq!(migrate(&world.store, &live, false).await.unwrap(), Collected::default());
    (old, [lost, kept])
}

#[tokio::test]
async fn what_is_needed_survives_its_root() {
    let world = World::new();
    let (old, [lost, kept]) = half_migrated(&world).await;
    assert_eq!(Root::state(&world.store, old.id).await.unwrap(), RootState::Retired);
    assert!(load(&world, &lost).await == chunk(1), "a retired root is read");
    expire_long_ago(&world, &old).await;
    let in_old = world.store.list(&world.store.root_path(old.id)).await.unwrap();
    let would = delete(&world.store, old.id, STATE_AGE_MAX, true).await.unwrap();
    assert_eq!(would.objects as usize, in_old.len());
    assert_eq!(would.bytes, in_old.iter().map(|(_, bytes)| bytes).sum::<u64>());
    assert_eq!(world.store.list(&world.store.root_path(old.id)).await.unwrap(), in_old);
    assert_eq!(delete(&world.store, old.id, STATE_AGE_MAX, false).await.unwrap(), would);
    assert_eq!(world.store.list(&world.store.root_path(old.id)).await.unwrap(), []);
    assert!(load(&world, &kept).await == chunk(4));
    let (gate, grant) = (world.gate(), world.grant(&kept));
    let presented = Presented { worker: "worker-1", grant: &grant };
    assert_eq!(gate.reads(presented).await.unwrap().as_deref(), Some(&b"list"[..]));
    let again = world.upload(&spec("kept", Method::ServiceKey), &[4, 0, 5]).await.unwrap();
    assert_eq!((again.manifest, again.stored_bytes), (kept.manifest, 0), "it is not made anew");
    let gone = delete(&world.store, old.id, STATE_AGE_MAX, false).await.unwrap_err();
    assert!(matches!(gone, GcError::NoRoot { .. }), "{gone}");
}

#[tokio::test]
async fn a_lost_reference_stops_the_deletion_before_anything_is_lost() {
    let world = World::new();
    let (old, [lost, _]) = half_migrated(&world).await;
    expire_long_ago(&world, &old).await;
    let before = world.objects().await.len();
    assert!(load(&world, &lost).await == chunk(1), "the reader gets what it needs");
    assert_eq!(alarm_count(&world.store, old.id).await.unwrap(), 1);
    for dry_run in [true, false] {
        let stopped = delete(&world.store, old.id, STATE_AGE_MAX, dry_run).await.unwrap_err();
        assert!(matches!(stopped, GcError::Alarm { alarms: 1, .. }), "{stopped}");
    }
    assert_eq!(world.objects().await.len(), before + 1, "nothing but the alarm has changed");
    // The operator copies what was forgotten, and then it may go.
    migrate(&world.store, &[lost.identity.clone()].into(), false).await.unwrap();
    assert_eq!(clear_alarms(&world.store, old.id).await.unwrap(), 1);
    delete(&world.store, old.id, STATE_AGE_MAX, false).await.unwrap();
    assert!(load(&world, &lost).await == chunk(1));
}

#[tokio::test]
async fn a_root_goes_through_its_life_in_order() {
    let world = World::new();
    let root = world.uploader().await.root().clone();
    for refused in [
        expire(&world.store, root.id).await,
        delete(&world.store, root.id, LONG, false).await.map(drop),
    ] {
        let is_state =
            |error: &GcError| matches!(error, GcError::State { is: RootState::Active, .. });
        assert!(refused.as_ref().is_err_and(is_state), "{refused:?}");
    }
    rotate(&world.store, &*world.keys, "service").await.unwrap();
    assert_ne!(world.uploader().await.root().id, root.id);
    let refused = delete(&world.store, root.id, LONG, false).await.unwrap_err();
    assert!(matches!(refused, GcError::State { is: RootState::Retired, .. }), "{refused}");
    expire(&world.store, root.id).await.unwrap();
    let early = delete(&world.store, root.id, Duration::ZERO, false).await.unwrap_err();
    assert!(matches!(early, GcError::Early { .. }), "{early}");
}

#[tokio::test]
async fn a_missing_artifact_is_told_of() {
    let world = World::new();
    world.uploader().await;
    let missing = migrate(&world.store, &["nobody".to_owned()].into(), false).await.unwrap_err();
    assert!(matches!(missing, GcError::NoArtifact { .. }), "{missing}");
}
