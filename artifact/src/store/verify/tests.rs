//! Verification finds what is missing and what is damaged, and nothing else.

use object_store::{ObjectStore as _, PutOptions};

use super::{VerifyError, find, identities, verify};
use crate::fixture::{World, spec};
use crate::keys::KeyService;
use crate::seal::Method;

#[tokio::test]
async fn missing_and_damaged_chunks_are_told_of() {
    let world = World::new();
    let stored = world.upload(&spec("a", Method::Convergent), &[1, 0, 2, 3, 4]).await.unwrap();
    let found = find(&world.store, &stored.identity).await.unwrap();
    assert_eq!(identities(&world.store, stored.root).await.unwrap(), [stored.identity]);
    let keys: &dyn KeyService = &*world.keys;
    for keys in [None, Some(keys)] {
        let good = verify(&world.store, &found, keys, &mut |_| ()).await.unwrap();
        assert_eq!((good.chunks, good.bytes), (4, 4 * 512 * 1024));
        assert_eq!((good.missing, good.damaged), (vec![], vec![]));
    }
    let path = |index| world.store.chunk_path(found.root, &found.manifest.name(index).unwrap());
    world.store.delete(&path(2)).await.unwrap();
    for (index, bytes) in [(3, vec![0; 524_288]), (4, vec![0; 524_289])] {
        let (path, inner) = (path(index), &world.objects.inner);
        inner.put_opts(&path, bytes.into(), PutOptions::default()).await.unwrap();
    }
    let bad = verify(&world.store, &found, Some(keys), &mut |_| ()).await.unwrap();
    assert_eq!((bad.missing, bad.damaged), (vec![2], vec![3, 4]));
    let nobody = find(&world.store, "nobody").await.unwrap_err();
    assert!(matches!(nobody, VerifyError::NoArtifact { .. }), "{nobody}");
}
