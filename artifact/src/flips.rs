//! One bit of anything that lies in a store, a cache or a key service is another: it is noticed before a byte is handed out.
//!
//! By default some bits of each object are tried, at least one of each place in a byte, and the seed is printed.
//! `VOTIVE_FLIPS=all` tries every bit of what is small and 4096 of each chunk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::path::Path;
use object_store::{ObjectStore as _, PutOptions};

use crate::cache::{CACHE_BYTES_MIN, Cache};
use crate::digest::Digest;
use crate::fetch::{FetchError, Loader};
use crate::fixture::{World, chunk, image, spec};
use crate::gate::Presented;
use crate::keys::{Embedded, KeyService as _};
use crate::seal::{Artifact, Checked, Method};
use crate::store::root::Root;
use crate::store::upload::{Stored, UploadError, Uploader};

const LONG: Duration = Duration::from_secs(60);
const BOTH: [Method; 2] = [Method::Convergent, Method::ServiceKey];
const CHUNKS: [u8; 4] = [1, 2, 0, 3];

/// Which bits are flipped.
struct Choice {
    seed: u32,
    all: bool,
}

impl Choice {
    fn new() -> Choice {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
        println!("seed {seed}");
        Choice { seed, all: std::env::var("VOTIVE_FLIPS").is_ok_and(|value| value == "all") }
    }

    /// Bits of so many bytes: those of the first and the last byte, and for each place in a byte `each` bytes that are chance's.
    fn bits(&self, bytes: usize, each: usize) -> Vec<usize> {
        let whole = self.all && bytes < 8192;
        if whole {
            return (0..bytes * 8).collect();
        }
        let each = if self.all { 512 } else { each };
        let ends = (0..8).chain(bytes * 8 - 8..bytes * 8);
        let random = (0..8 * each).map(|i| {
            let chance = Digest::of_parts(&[&self.seed.to_le_bytes(), &i.to_le_bytes()]);
            let word = u64::from_le_bytes(chance.as_bytes()[..8].try_into().unwrap());
            (word % bytes as u64) as usize * 8 + i % 8
        });
        ends.chain(random).collect()
    }
}

fn flipped(good: &[u8], bit: usize) -> Vec<u8> {
    let mut bad = good.to_vec();
    bad[bit / 8] ^= 1 << (bit % 8);
    bad
}

async fn put(world: &World, path: &Path, bytes: &[u8]) {
    let bytes = bytes.to_vec().into();
    world.objects.inner.put_opts(path, bytes, PutOptions::default()).await.unwrap();
}

async fn all_chunks(loader: &Loader, grant: &[u8]) -> Result<Vec<Vec<u8>>, FetchError> {
    let loaded = Arc::new(loader.open(grant).await?);
    let mut chunks = vec![];
    for index in 0..loaded.manifest().zeros().chunks() {
        chunks.push(loader.chunk(&loaded, index, vec![], LONG).await?);
    }
    Ok(chunks)
}

fn original() -> Vec<Vec<u8>> {
    let mut all = CHUNKS.map(chunk).to_vec();
    // The image ends with 8 KiB of its last chunk.
    all[3][8192..].fill(0);
    all
}

/// The object whose path has this in it, and its bytes.
async fn object(world: &World, part: &str) -> (Path, Vec<u8>) {
    let found = world.objects().await.into_iter().find(|(path, _)| path.as_ref().contains(part));
    found.unwrap()
}

async fn uploaded(method: Method) -> (World, Stored) {
    let world = World::new();
    let stored = world.upload(&spec("a", method), &CHUNKS).await.unwrap();
    (world, stored)
}

#[tokio::test]
async fn in_a_chunk_at_the_origin() {
    let choice = Choice::new();
    for method in BOTH {
        let (world, stored) = uploaded(method).await;
        let (gate, grant) = (world.gate(), world.grant(&stored));
        let presented = Presented { worker: "worker-1", grant: &grant };
        let (_, manifest) = gate.artifact(presented).await.unwrap();
        for name in manifest.names() {
            let path = world.store.chunk_path(stored.root, name);
            let (_, good) = object(&world, path.as_ref()).await;
            assert!(Checked::new(*name, &good).is_some());
            for bit in choice.bits(good.len(), 4) {
                put(&world, &path, &flipped(&good, bit)).await;
                let got = gate.chunk(presented, name).await.unwrap();
                assert!(Checked::new(*name, &got).is_none(), "{method:?}: bit {bit}");
            }
            // The same by all of the way to a reader.
            put(&world, &path, &flipped(&good, choice.seed as usize % (good.len() * 8))).await;
            let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
            let refused = all_chunks(&loader, &grant).await.unwrap_err();
            let FetchError::Shared(refused) = refused else { panic!("{refused}") };
            assert!(matches!(*refused, FetchError::Lie { .. }), "{refused}");
            put(&world, &path, &good).await;
            assert!(all_chunks(&loader, &grant).await.unwrap() == original());
        }
    }
}

#[tokio::test]
async fn in_a_manifest_or_an_artifact_with_its_table_and_wrapped_key() {
    let choice = Choice::new();
    for method in BOTH {
        let (world, stored) = uploaded(method).await;
        let grant = world.grant(&stored);
        for part in ["/manifests/", "/artifacts/"] {
            let (path, good) = object(&world, part).await;
            for bit in choice.bits(good.len(), 8) {
                put(&world, &path, &flipped(&good, bit)).await;
                let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
                let refused = loader.open(&grant).await;
                assert!(refused.is_err(), "{method:?} {path}: bit {bit}");
                put(&world, &path, &good).await;
            }
        }
        let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
        assert!(all_chunks(&loader, &grant).await.unwrap() == original());
    }
}

#[tokio::test]
async fn in_an_index() {
    let choice = Choice::new();
    let (world, stored) = uploaded(Method::Convergent).await;
    let (path, good) = object(&world, "/index/").await;
    let mut harmless = 0;
    for bit in choice.bits(good.len(), 8) {
        put(&world, &path, &flipped(&good, bit)).await;
        // What it says of its identity is for the collection; a start goes by what the artifact itself says.
        if let Ok(found) = world.uploader().await.find(&spec("a", Method::Convergent)).await {
            let found = found.expect("an index that is there is read");
            assert_eq!((found.manifest, &found.identity), (stored.manifest, &stored.identity));
            harmless += 1;
        }
    }
    println!("{harmless} flips changed nothing that was found");
}

#[tokio::test]
async fn in_a_root() {
    let choice = Choice::new();
    let (world, stored) = uploaded(Method::Convergent).await;
    let path = world.store.root_path(stored.root).join("root");
    let (_, good) = object(&world, path.as_ref()).await;
    for bit in choice.bits(good.len(), 8) {
        put(&world, &path, &flipped(&good, bit)).await;
        if let Ok(root) = Root::read(&world.store, stored.root).await {
            let salt = root.expect("it is there").salt(&*world.keys).await;
            assert!(salt.is_err(), "bit {bit}");
        }
        // Nothing is sealed with another salt.
        let uploader = Uploader::new(world.store.clone(), world.keys.clone(), "service").await;
        if let Ok(uploader) = uploader {
            let (image, bytes) = image(&[4]);
            let spec = spec("b", Method::Convergent);
            let refused = uploader.upload(&spec, Arc::new(image), bytes, &mut |_| ()).await;
            assert!(refused.is_err(), "bit {bit}");
        }
    }
    put(&world, &path, &good).await;
    world.upload(&spec("b", Method::Convergent), &[4]).await.unwrap();
}

#[tokio::test]
async fn in_the_record_of_an_upload_that_was_interrupted() {
    let choice = Choice::new();
    let world = World::new();
    // The root, the record, one chunk.
    world.objects.writes_left.store(3, Ordering::SeqCst);
    let spec = spec("a", Method::ServiceKey);
    world.upload(&spec, &CHUNKS).await.unwrap_err();
    world.objects.writes_left.store(-1, Ordering::SeqCst);
    let (path, good) = object(&world, "/uploads/").await;
    for bit in choice.bits(good.len(), 2) {
        put(&world, &path, &flipped(&good, bit)).await;
        match world.upload(&spec, &CHUNKS).await {
            Err(error) => assert!(matches!(error, UploadError::Key(_)), "bit {bit}: {error}"),
            // The scope is not secret: with another one the image is sealed anew.
            Ok(stored) => {
                assert!(bit < 16 * 8, "bit {bit}");
                let loader = Loader::new(Arc::new(world.gate()), "worker-1", None);
                let chunks = all_chunks(&loader, &world.grant(&stored)).await.unwrap();
                assert!(chunks == original(), "bit {bit}");
                for part in ["/index/", "/artifacts/"] {
                    let (path, _) = object(&world, part).await;
                    world.store.delete(&path).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn in_a_file_of_the_cache() {
    let choice = Choice::new();
    for method in BOTH {
        let (world, stored) = uploaded(method).await;
        let folder = world.folder.path().join("cache");
        let cache = || Cache::open(&folder, CACHE_BYTES_MIN).unwrap();
        let loader = Loader::new(Arc::new(world.gate()), "worker-1", Some(cache()));
        let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
        loader.chunk(&loaded, 0, vec![], LONG).await.unwrap();
        let name = loaded.manifest().name(0).unwrap();
        let file: PathBuf = folder.join(&name.to_string()[..2]).join(name.to_string());
        let good = std::fs::read(&file).unwrap();
        let bits = choice.bits(good.len(), 4);
        for bit in &bits {
            std::fs::write(&file, flipped(&good, *bit)).unwrap();
            let found = loader.chunk(&loaded, 0, vec![], LONG).await.unwrap();
            assert!(found == chunk(1), "{method:?}: bit {bit}");
        }
        let damaged = loader.cache().unwrap().stats().damaged;
        assert_eq!(damaged as usize, bits.len(), "each was noticed, and fetched anew");
        // Without an origin there is no chunk rather than a wrong one, after a restart as well.
        drop((loader, loaded));
        std::fs::write(&file, flipped(&good, bits[0])).unwrap();
        let loader = Loader::new(Arc::new(world.gate()), "worker-1", Some(cache()));
        let loaded = Arc::new(loader.open(&world.grant(&stored)).await.unwrap());
        world.objects.reads_failing.store(3, Ordering::SeqCst);
        assert!(loader.chunk(&loaded, 0, vec![], LONG).await.is_err());
        assert!(loader.chunk(&loaded, 0, vec![], LONG).await.unwrap() == chunk(1));
    }
}

#[tokio::test]
async fn in_the_files_of_the_key_service() {
    let choice = Choice::new();
    let (world, stored) = uploaded(Method::Convergent).await;
    world.keys.rotate_key("customer").unwrap();
    world.keys.set_enabled("service", false).unwrap();
    let folder = world.folder.path().join("keys");
    let (_, record) = object(&world, "/artifacts/").await;
    let artifact = Artifact::parse(&record).unwrap();
    let context = Artifact::context(&stored.identity, stored.root);
    let secret = world.keys.unwrap("customer", &artifact.wrapped, &context).await.unwrap();
    let listed = world.keys.list().unwrap();
    for name in ["keys.json", "master.key"] {
        let file = folder.join(name);
        let good = std::fs::read(&file).unwrap();
        for bit in choice.bits(good.len(), 8) {
            std::fs::write(&file, flipped(&good, bit)).unwrap();
            let Ok(keys) = Embedded::open(&folder) else { continue };
            // Spaces and the case of digits may be others without meaning another thing.
            assert_eq!(keys.list().unwrap(), listed, "{name}: bit {bit}");
            let found = keys.unwrap("customer", &artifact.wrapped, &context).await.unwrap();
            assert_eq!(found.expose(), secret.expose(), "{name}: bit {bit}");
        }
        std::fs::write(&file, &good).unwrap();
    }
    assert!(world.keys.unwrap("customer", &artifact.wrapped, &context).await.is_ok());
}
