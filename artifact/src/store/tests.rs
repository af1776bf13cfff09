//! The store as it is opened, and what it bounds.

use bytes::Bytes;
use object_store::path::Path;

use super::{Store, StoreError};
use crate::fixture::World;
use crate::store::root::{Root, RootState};

#[tokio::test]
async fn an_object_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("new/store");
    for url in [url.to_str().unwrap().to_owned(), format!("file://{}", url.display())] {
        let store = Store::open(&url).unwrap();
        let path = Path::from(format!("roots/{}", url.len()));
        assert!(!store.exists(&path).await.unwrap());
        assert!(store.put_new(&path, Bytes::from_static(b"first")).await.unwrap());
        assert!(!store.put_new(&path, Bytes::from_static(b"second")).await.unwrap());
        assert_eq!(store.get(&path, 5).await.unwrap(), "first");
        let large = store.get(&path, 4).await.unwrap_err();
        assert!(matches!(large, StoreError::TooLarge { most: 4, .. }), "{large}");
        store.delete(&path).await.unwrap();
        store.delete(&path).await.unwrap();
        let gone = store.get(&path, 5).await.unwrap_err();
        assert!(matches!(gone, StoreError::NotFound { .. }), "{gone}");
    }
}

#[test]
fn what_names_no_store_is_refused() {
    for url in ["", "file://", "http://host/bucket", "gs://bucket"] {
        let refused = Store::open(url).unwrap_err();
        assert!(matches!(refused, StoreError::Url { .. }), "{url}: {refused}");
    }
    assert!(matches!(Store::open("/dev/null/store"), Err(StoreError::Open { .. })));
}

#[tokio::test]
async fn the_youngest_active_root_is_the_one() {
    let world = World::new();
    assert_eq!(Root::active(&world.store).await.unwrap(), None);
    let first = world.uploader().await.root().clone();
    assert_eq!(world.uploader().await.root(), &first, "it is opened once");
    let second = Root::open_new(&world.store, &*world.keys, "service").await.unwrap();
    // Opened in one millisecond they are ordered by chance.
    let youngest = if second.id > first.id { &second } else { &first };
    assert_eq!(Root::active(&world.store).await.unwrap().as_ref(), Some(youngest));
    let all = Root::all(&world.store).await.unwrap();
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|root| root.state == RootState::Active));
    assert_ne!(first.salt, second.salt);
}

#[tokio::test]
async fn a_roots_record_is_read_in_one_form_only() {
    let world = World::new();
    let root = world.uploader().await.root().clone();
    let good = root.encode();
    let parse = |bytes: &[u8]| Root::parse(root.id, RootState::Active, bytes);
    assert_eq!(parse(&good), Some(root.clone()));
    for length in 0..good.len() {
        assert_eq!(parse(&good[..length]), None, "{length} bytes");
    }
    // Whatever is altered: it is no record, or the key service refuses the salt.
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Some(other) = parse(&bytes) {
            assert!(other.salt(&*world.keys).await.is_err(), "bit {bit}");
        }
    }
    assert!(root.salt(&*world.keys).await.is_ok());
}
