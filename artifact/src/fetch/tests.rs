//! Loading: once, checked, and a failure is its own reader's alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::ObjectStore as _;
use object_store::PutOptions;

use super::{FetchError, Loader};
use crate::cache::{CACHE_BYTES_MIN, Cache};
use crate::fixture::{CANARY, World, chunk, grant, spec};
use crate::gate::GateError;
use crate::grant::{Grant, GrantError, Operations};
use crate::keys::KeyError;
use crate::seal::{Method, OpenError};

const LONG: Duration = Duration::from_secs(60);
const BOTH: [Method; 2] = [Method::Convergent, Method::ServiceKey];

fn cache(world: &World) -> Cache {
    Cache::open(&world.folder.path().join("cache"), CACHE_BYTES_MIN).unwrap()
}

fn loader(world: &World) -> Loader {
    Loader::new(Arc::new(world.gate()), "worker-1", Some(cache(world)))
}

#[tokio::test]
async fn an_image_comes_back_as_it_was() {
    for method in BOTH {
        let world = World::new();
        let stored = world.upload(&spec("a", method), &[1, 0, 2, 1]).await.unwrap();
        let loader = loader(&world);
        let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
        assert_eq!(loaded.config(), br#"{"Cmd":["app"]}"#);
        let mut buffer = vec![];
        for round in 0..2 {
            for (index, number) in [(3, 1), (0, 1), (1, 0), (2, 2)] {
                buffer = loader.chunk(&loaded, index, buffer, LONG).await.unwrap();
                let mut expected = chunk(number);
                if index == 3 {
                    expected[8192..].fill(0);
                }
                assert!(buffer == expected, "{method:?}, chunk {index}, round {round}");
            }
        }
        let missing = loader.chunk(&loaded, 4, buffer, LONG).await.unwrap_err();
        assert!(matches!(missing, FetchError::Open(OpenError::NoChunk { index: 4 })), "{missing}");
        // Three chunks are stored, and each came once.
        assert_eq!((loader.stats().fetched, world.objects.read.lock().unwrap().len()), (3, 3));
        assert_eq!(loader.stats().fetched_bytes, 3 * method.sealed_bytes() as u64);
        assert_eq!(loader.cache().unwrap().stats().hits, 3);
    }
}

#[tokio::test]
async fn many_readers_of_a_chunk_cost_one_fetch() {
    let world = World::new();
    let one = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let other = world.upload(&spec("b", Method::Convergent), &[1, 3]).await.unwrap();
    let loader = Arc::new(loader(&world));
    let one = Arc::new(loader.open(&world.grant(&one)).await.unwrap());
    let other = Arc::new(loader.open(&world.grant(&other)).await.unwrap());
    world.objects.reads_allowed.forget_permits(1 << 20);
    let readers: Vec<_> = (0..20)
        .map(|i| {
            let (loader, loaded) = (loader.clone(), [&one, &other][i % 2].clone());
            tokio::spawn(async move { loader.chunk(&loaded, 0, vec![], LONG).await })
        })
        .collect();
    while world.objects.read.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    world.objects.reads_allowed.add_permits(100);
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == chunk(1));
    }
    assert_eq!(world.objects.read.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_slow_chunk_delays_nobody_else() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let loader = Arc::new(loader(&world));
    let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
    loader.chunk(&loaded, 1, vec![], LONG).await.unwrap();
    world.objects.reads_allowed.forget_permits(1 << 20);
    let short = Duration::from_millis(20);
    let late = loader.chunk(&loaded, 0, vec![], short).await.unwrap_err();
    assert!(matches!(late, FetchError::Deadline(_)), "{late}");
    loader.chunk(&loaded, 1, vec![], LONG).await.unwrap();
    // The flight went on without its first caller.
    world.objects.reads_allowed.add_permits(1);
    assert!(loader.chunk(&loaded, 0, vec![], LONG).await.is_ok());
    assert_eq!(world.objects.read.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn an_origin_that_fails_is_asked_again_and_one_that_lies_is_not_believed() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let loader = loader(&world);
    let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
    world.objects.reads_failing.store(2, Ordering::SeqCst);
    assert!(loader.chunk(&loaded, 0, vec![], LONG).await.is_ok());
    world.objects.lies.store(true, Ordering::SeqCst);
    let lie = loader.chunk(&loaded, 1, vec![], LONG).await.unwrap_err();
    let FetchError::Shared(lie) = lie else { panic!("{lie}") };
    assert!(matches!(*lie, FetchError::Lie { .. }), "{lie}");
    assert_eq!(loader.stats().refused, 3);
    assert!(loader.chunk(&loaded, 0, vec![], LONG).await.is_ok(), "what came before is good");
    world.objects.lies.store(false, Ordering::SeqCst);
    assert!(loader.chunk(&loaded, 1, vec![], LONG).await.unwrap()[..8192] == chunk(2)[..8192]);
}

#[tokio::test]
async fn a_damaged_cache_file_is_fetched_anew_and_nothing_on_disk_is_in_the_clear() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::ServiceKey), &[1, 2]).await.unwrap();
    let loader = loader(&world);
    let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
    loader.chunk(&loaded, 0, vec![], LONG).await.unwrap();
    let name = loaded.manifest().name(0).unwrap().to_string();
    let path = world.folder.path().join("cache").join(&name[..2]).join(&name);
    let good = std::fs::read(&path).unwrap();
    assert!(!good.windows(CANARY.len()).any(|window| window == CANARY));
    for at in [0, 77_777, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        assert!(loader.chunk(&loaded, 0, vec![], LONG).await.unwrap() == chunk(1), "byte {at}");
        assert!(std::fs::read(&path).unwrap() == good, "byte {at}");
    }
    assert_eq!((loader.cache().unwrap().stats().damaged, loader.stats().fetched), (3, 4));
}

#[tokio::test]
async fn no_grant_no_byte() {
    let world = World::new();
    let one = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let other = world.upload(&spec("b", Method::Convergent), &[1, 3]).await.unwrap();
    let loader = loader(&world);
    let sign = |grant: Grant| world.issuer.sign(&grant).unwrap();
    let expired = Grant {
        not_before_s: crate::fixture::NOW - 300,
        expires_s: crate::fixture::NOW,
        ..grant(&one)
    };
    let cases = [
        (vec![], GrantError::Malformed),
        (sign(expired), GrantError::Expired),
        (sign(Grant { worker: "worker-2".to_owned(), ..grant(&one) }), GrantError::OtherWorker),
        (sign(Grant { manifest: other.manifest, ..grant(&one) }), GrantError::OtherArtifact),
        (
            sign(Grant { root: crate::manifest::RootId([0; 16]), ..grant(&one) }),
            GrantError::OtherArtifact,
        ),
        (sign(Grant { operations: Operations::READ, ..grant(&one) }), GrantError::Operation),
    ];
    for (bytes, expected) in cases {
        let refused = loader.open(&bytes).await.unwrap_err();
        assert!(
            matches!(&refused, FetchError::Gate(GateError::Grant(is)) if *is == expected),
            "{refused}: {expected}"
        );
    }
    // A chunk of another artifact is not given for this one's grant.
    let gate = world.gate();
    let bytes = world.grant(&one);
    let presented = crate::gate::Presented { worker: "worker-1", grant: &bytes };
    let theirs = Arc::new(loader.open(&world.grant(&other)).await.unwrap());
    let name = theirs.manifest().name(1).unwrap();
    let refused = gate.chunk(presented, &name).await.unwrap_err();
    assert!(matches!(refused, GateError::NoChunk { .. }), "{refused}");
    assert!(gate.chunk(presented, &theirs.manifest().name(0).unwrap()).await.is_ok(), "shared");
    // What was opened goes on from the cache, and from the origin only with a grant that is good.
    let mine = Arc::new(loader.open(&bytes).await.unwrap());
    loader.chunk(&mine, 0, vec![], LONG).await.unwrap();
    mine.renew(b"stale".to_vec());
    loader.chunk(&mine, 0, vec![], LONG).await.unwrap();
    assert!(loader.chunk(&mine, 1, vec![], LONG).await.is_err());
    mine.renew(bytes);
    loader.chunk(&mine, 1, vec![], LONG).await.unwrap();
}

#[tokio::test]
async fn a_disabled_key_stops_new_environments_only() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let loader = loader(&world);
    let grant = world.grant(&stored);
    let running = Arc::new(loader.open(&grant).await.unwrap());
    world.keys.set_enabled("customer", false).unwrap();
    let refused = loader.open(&grant).await.unwrap_err();
    assert_eq!(refused.code(), "KMSDisabledException");
    assert!(matches!(refused, FetchError::Gate(GateError::Key(KeyError::Disabled { .. }))));
    assert!(loader.chunk(&running, 0, vec![], LONG).await.is_ok());
    world.keys.set_enabled("customer", true).unwrap();
    loader.open(&grant).await.unwrap();
}

#[tokio::test]
async fn whatever_the_store_alters_is_noticed_before_anything_is_decrypted() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::Convergent), &[1, 2]).await.unwrap();
    let manifest = world.store.manifest_path(stored.root, &stored.manifest);
    let artifact = world.store.artifact_path(stored.root, &stored.identity);
    let objects = world.objects().await;
    for path in [manifest, artifact] {
        let (_, good) = objects.iter().find(|(other, _)| *other == path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let put = |bytes: Vec<u8>| {
                world.objects.inner.put_opts(&path, bytes.into(), PutOptions::default())
            };
            put(bad).await.unwrap();
            let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
            assert!(loader.open(&world.grant(&stored)).await.is_err(), "{path}: bit {bit}");
            put(good.clone()).await.unwrap();
        }
    }
    let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
    assert!(loader.open(&world.grant(&stored)).await.is_ok());
}
