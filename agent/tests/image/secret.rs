//! What is planted in code, in a layer and in an image's environment is found in no file of the store, the cache or the keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use votive_artifact::cache::{CACHE_BYTES_MIN, Cache};
use votive_artifact::fetch::Loader;
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Grant, Issuer, Operations, Verifier};
use votive_artifact::store::Store;
use votive_artifact::store::verify::find;

use crate::bed::{Bed, files, layer, noise};

fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker)
}

/// Loads all chunks through a cache on disk; whether one of them holds the marker.
async fn load(bed: &Bed, identity: &str, marker: &[u8]) -> bool {
    let store = Store::open(bed.path("store").to_str().unwrap()).unwrap();
    let keys = votive_artifact::keys::open(bed.path("keys").to_str().unwrap()).unwrap();
    let found = find(&store, identity).await.unwrap();
    let issuer = Issuer::generate().unwrap();
    let gate = Gate::new(store, keys, Verifier::new(vec![issuer.public_key()]));
    let cache = Cache::open(&bed.path("cache"), CACHE_BYTES_MIN).unwrap();
    let loader = Loader::new(Arc::new(gate), "worker", Some(cache));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let grant = Grant {
        worker: "worker".to_owned(),
        identity: identity.to_owned(),
        manifest: found.artifact.manifest,
        root: found.manifest.root(),
        not_before_s: now,
        expires_s: now + 600,
        operations: Operations::LOAD,
    };
    let loaded = Arc::new(loader.open(&issuer.sign(&grant).unwrap()).await.unwrap());
    let mut held = false;
    for index in 0..found.manifest.zeros().chunks() {
        let chunk = loader.chunk(&loaded, index, vec![], Duration::from_secs(60)).await.unwrap();
        held |= holds(&chunk, marker);
    }
    held
}

#[test]
fn a_planted_marker_is_on_no_disk() {
    let bed = Bed::new();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let marker = noise(nanos, 24);
    let text: String = marker.iter().map(|byte| format!("{byte:02x}")).collect();
    let planted = [&noise(1, 700_000), &marker[..], &noise(2, 700_000), text.as_bytes()].concat();
    let zip = bed.zip("f.zip", &[("code", &planted)]);
    let execution = json!({ "Env": [format!("SECRET={text}")], "Cmd": ["/code"] });
    let layers = [layer(&[("base", &noise(3, 600_000))]), layer(&[("code", &planted)])];
    let layout = bed.layout("layout", &layers, &execution);
    for (source, identity) in [(["--zip", &zip], "zip"), (["--oci", &layout], "image")] {
        let create = [&["create"][..], &source, &["--artifact", identity]].concat();
        bed.json(&create);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for identity in ["zip", "image"] {
        for marker in [&marker[..], text.as_bytes()] {
            assert!(
                runtime.block_on(load(&bed, identity, marker)),
                "{identity} is read in the clear"
            );
        }
    }
    let mut searched = 0;
    for folder in ["store", "cache", "keys", "tmp"] {
        for file in files(&bed.path(folder)) {
            let bytes = std::fs::read(&file).unwrap();
            for marker in [&marker[..], text.as_bytes()] {
                assert!(!holds(&bytes, marker), "{} holds the marker", file.display());
            }
            searched += bytes.len();
        }
    }
    println!("{searched} bytes searched");
    // Both images are there, in the store and in the cache.
    assert!(searched > 4 * planted.len(), "{searched}");
    assert!(holds(&std::fs::read(&zip).unwrap(), &marker), "it is found where it is");
}
