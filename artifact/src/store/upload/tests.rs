//! Images become artifacts once, also when the store fails in between.

use std::sync::atomic::Ordering;

use super::{UploadError, UploadSpec};
use crate::digest::Digest;
use crate::fixture::{CANARY, World, image, spec};
use crate::keys::KeyError;
use crate::manifest::Manifest;
use crate::seal::Method;

const BOTH: [Method; 2] = [Method::Convergent, Method::ServiceKey];

#[tokio::test]
async fn what_was_made_before_is_not_made_again() {
    for method in BOTH {
        let world = World::new();
        let spec = spec("zip", method);
        assert_eq!(world.uploader().await.find(&spec).await.unwrap(), None);
        let first = world.upload(&spec, &[1, 0, 2, 1]).await.unwrap();
        // Chunk 3 is as long as chunk 0 in its key's eyes, but ends early.
        assert_eq!((first.chunks, first.zero_chunks, first.new_chunks), (4, 1, 3), "{method:?}");
        let objects = world.objects().await.len();
        let found = world.uploader().await.find(&spec).await.unwrap().unwrap();
        let second = world.upload(&spec, &[1, 0, 2, 1]).await.unwrap();
        assert_eq!(found, second);
        assert_eq!((second.new_chunks, second.stored_bytes), (0, 0));
        assert_eq!((&second.identity, second.manifest), (&first.identity, first.manifest));
        assert_eq!(world.objects().await.len(), objects, "nothing was stored");
    }
}

#[tokio::test]
async fn equal_chunks_of_images_are_stored_once() {
    let world = World::new();
    let base = world.upload(&spec("a", Method::Convergent), &[1, 2, 3, 4, 5, 6]).await.unwrap();
    let derived =
        world.upload(&spec("b", Method::Convergent), &[1, 2, 3, 4, 9, 5, 7]).await.unwrap();
    assert_eq!((base.new_chunks, derived.new_chunks), (6, 2));
    // Not so those of ZIPs: each has its own key.
    let one = world.upload(&spec("c", Method::ServiceKey), &[1, 2]).await.unwrap();
    let other = world.upload(&spec("d", Method::ServiceKey), &[1, 2]).await.unwrap();
    assert_eq!((one.new_chunks, other.new_chunks), (2, 2));
}

#[tokio::test]
async fn an_interrupted_upload_is_gone_on_with() {
    for method in BOTH {
        let chunks = [1, 2, 0, 3, 4];
        let spec = spec("zip", method);
        // Each write in turn is the first that fails.
        for fails_at in 0.. {
            let world = World::new();
            world.uploader().await;
            world.objects.writes_left.store(fails_at, Ordering::SeqCst);
            let first = world.upload(&spec, &chunks).await;
            world.objects.writes_left.store(-1, Ordering::SeqCst);
            let there = world.objects().await;
            let chunks_there = there.iter().filter(|(path, _)| path.as_ref().contains("/chunks/"));
            let chunks_there = u32::try_from(chunks_there.count()).unwrap();
            let second = world.upload(&spec, &chunks).await.unwrap();
            assert_eq!((second.chunks, second.zero_chunks), (5, 1));
            if let Ok(first) = first {
                assert_eq!((first.manifest, second.new_chunks), (second.manifest, 0));
                assert!(fails_at > 4, "{method:?}: 4 chunks and more were written");
                break;
            }
            assert_eq!(chunks_there + second.new_chunks, 4, "{method:?}: write {fails_at} failed");
            assert_whole(&world).await;
        }
    }
}

/// Every object is what its name says.
async fn assert_whole(world: &World) {
    for (path, bytes) in world.objects().await {
        let name: Option<Digest> = path.filename().and_then(|name| name.parse().ok());
        match path.parts().nth(3).as_ref().map(AsRef::as_ref) {
            Some("chunks") => assert_eq!(name, Some(Digest::of(&bytes)), "{path}"),
            Some("manifests") => {
                Manifest::parse_named(&bytes, &name.unwrap()).unwrap();
            }
            Some("uploads") => panic!("{path} was left"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_is_stored_shows_nothing() {
    let world = World::new();
    for method in BOTH {
        world.upload(&spec("zip", method), &[1, 2, 3]).await.unwrap();
    }
    let objects = world.objects().await;
    assert!(objects.len() > 12, "{}", objects.len());
    for (path, bytes) in objects {
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY);
        assert!(!found, "{path} has plaintext");
        assert!(!bytes.windows(5).any(|window| window == b"\"Cmd\""), "{path} has configuration");
    }
}

#[tokio::test]
async fn an_identity_names_one_thing_for_ever() {
    let world = World::new();
    let named = |source, key: &str| UploadSpec {
        identity: Some("arn:f:7".to_owned()),
        key: key.to_owned(),
        ..spec(source, Method::Convergent)
    };
    let first = world.upload(&named("a", "customer"), &[1, 2]).await.unwrap();
    assert_eq!(first.identity, "arn:f:7");
    let again = world.upload(&named("a", "customer"), &[1, 2]).await.unwrap();
    assert_eq!(again.stored_bytes, 0);
    for (source, key) in [("b", "customer"), ("a", "service")] {
        let taken = world.upload(&named(source, key), &[3]).await.unwrap_err();
        assert!(matches!(taken, UploadError::Taken { .. }), "{taken}");
    }
    // Another source of the same image is the same artifact.
    let same = world.upload(&named("c", "customer"), &[1, 2]).await.unwrap();
    assert_eq!((same.manifest, same.new_chunks), (first.manifest, 0));
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_stored() {
    let world = World::new();
    let uploader = world.uploader().await;
    let before = world.objects().await.len();
    let good = spec("a", Method::Convergent);
    let wrong = [
        UploadSpec { identity: Some("a b".to_owned()), ..good.clone() },
        UploadSpec { key: String::new(), ..good.clone() },
        UploadSpec { config: vec![0; 70_000], ..good.clone() },
    ];
    for spec in wrong {
        let refused = world.upload(&spec, &[1]).await.unwrap_err();
        assert!(matches!(refused, UploadError::Spec { .. }), "{refused}");
    }
    let (file, _) = image(&[1]);
    let refused = uploader.upload(&good, file.into(), 4097, &mut |_| ()).await.unwrap_err();
    assert!(matches!(refused, UploadError::Size { bytes: 4097 }), "{refused}");
    world.keys.set_enabled("customer", false).unwrap();
    let refused = world.upload(&spec("a", Method::ServiceKey), &[1]).await.unwrap_err();
    assert!(refused.to_string().starts_with("KMSDisabledException: "), "{refused}");
    assert!(matches!(refused, UploadError::Key(KeyError::Disabled { .. })));
    assert_eq!(world.objects().await.len(), before);
    // An image that is shorter than it was said to be.
    world.keys.set_enabled("customer", true).unwrap();
    let (file, bytes) = image(&[1, 2]);
    let short = uploader.upload(&good, file.into(), bytes + 4096, &mut |_| ()).await.unwrap_err();
    assert!(matches!(short, UploadError::Image(_)), "{short}");
}

#[tokio::test]
async fn progress_counts_every_chunk() {
    let world = World::new();
    let (file, bytes) = image(&[1, 0, 2, 3]);
    let mut seen = vec![];
    let uploader = world.uploader().await;
    let spec = spec("a", Method::Convergent);
    uploader.upload(&spec, file.into(), bytes, &mut |progress| seen.push(progress)).await.unwrap();
    let done: Vec<u32> = seen.iter().map(|progress| progress.done).collect();
    assert_eq!(done, [1, 2, 3, 4]);
    assert_eq!((seen[3].chunks, seen[3].new_chunks), (4, 3));
}
