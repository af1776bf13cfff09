//! Sealing and opening, and that nothing altered is ever opened.

use crate::chunk::{CHUNK_BYTES, ZeroMap};
use crate::digest::Digest;
use crate::manifest::{Manifest, RootId, ScopeId};
use crate::seal::{
    Artifact, ArtifactError, Checked, ImageKey, KeyTable, Method, OpenError, Opener, Salt, Secret,
    TAG_BYTES, is_name,
};

mod vectors;

const WITHIN: (RootId, ScopeId) = (RootId([1; 16]), ScopeId([2; 16]));

fn secret(byte: u8) -> Secret {
    Secret::from_slice(&[byte; 32]).unwrap()
}

fn plain(byte: u8) -> Vec<u8> {
    (0..CHUNK_BYTES).map(|i| byte.wrapping_add((i % 251) as u8)).collect()
}

fn array(bytes: &mut [u8]) -> &mut [u8; CHUNK_BYTES] {
    bytes.try_into().unwrap()
}

/// Three chunks, the second all zeros: their manifest, keys and ciphertexts.
fn sealed(method: Method) -> (Manifest, KeyTable, Vec<Vec<u8>>) {
    let mut zeros = ZeroMap::new(3);
    zeros.mark(1);
    let (mut keys, mut names, mut ciphertexts) = (vec![], vec![], vec![]);
    let whole = ImageKey::derive(&secret(9), WITHIN.1, &Digest::of(b"image"));
    for index in [0, 2] {
        let mut chunk = plain(index);
        match method {
            Method::Convergent => {
                let (key, name) = Salt::new(secret(7)).seal(array(&mut chunk));
                keys.push(key);
                names.push(name);
            }
            Method::ServiceKey => names.push(whole.seal(u32::from(index), &mut chunk)),
        }
        ciphertexts.push(chunk);
    }
    if method == Method::ServiceKey {
        keys.push(whole.secret().clone());
    }
    let manifest = Manifest::new(method, 3 * CHUNK_BYTES as u64, WITHIN, zeros, names).unwrap();
    (manifest, KeyTable::new(&keys, b"{}"), ciphertexts)
}

fn checked(bytes: &[u8]) -> Checked<'_> {
    Checked::new(Digest::of(bytes), bytes).unwrap()
}

#[test]
fn what_is_sealed_is_opened() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let (manifest, table, ciphertexts) = sealed(method);
        let opener = Opener::new(manifest.clone(), table).unwrap();
        let mut chunk = vec![0xff; CHUNK_BYTES];
        for (index, ciphertext) in [(0, &ciphertexts[0]), (2, &ciphertexts[1])] {
            assert_eq!(ciphertext.len(), method.sealed_bytes());
            assert_eq!(manifest.name(index), Some(Digest::of(ciphertext)));
            opener.open(index, checked(ciphertext), array(&mut chunk)).unwrap();
            assert!(chunk == plain(u8::try_from(index).unwrap()), "{method:?} {index}");
        }
        for index in [1, 3, u32::MAX] {
            let opened = opener.open(index, checked(&ciphertexts[0]), array(&mut chunk));
            assert_eq!(opened, Err(OpenError::NoChunk { index }));
        }
    }
}

#[test]
fn a_chunk_in_the_place_of_another_is_not_opened() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let (manifest, table, ciphertexts) = sealed(method);
        let opener = Opener::new(manifest, table).unwrap();
        let mut chunk = vec![0; CHUNK_BYTES];
        let opened = opener.open(0, checked(&ciphertexts[1]), array(&mut chunk));
        assert_eq!(opened, Err(OpenError::Name { index: 0 }));
    }
    // A manifest that names chunks in another order: the index is authenticated too.
    let (manifest, table, ciphertexts) = sealed(Method::ServiceKey);
    let names = manifest.names().iter().rev().copied().collect();
    let swapped = Manifest::new(
        Method::ServiceKey,
        manifest.image_bytes(),
        WITHIN,
        manifest.zeros().clone(),
        names,
    );
    let opener = Opener::new(swapped.unwrap(), table).unwrap();
    let mut chunk = vec![1; CHUNK_BYTES];
    let opened = opener.open(0, checked(&ciphertexts[1]), array(&mut chunk));
    assert_eq!(opened, Err(OpenError::Seal { index: 0 }));
    assert!(chunk.iter().all(|byte| *byte == 0), "nothing of the plaintext is left");
}

#[test]
fn every_bit_of_a_chunk_counts() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let (_, _, ciphertexts) = sealed(method);
        let mut bytes = ciphertexts[0].clone();
        let name = Digest::of(&bytes);
        // All bits of its ends, and some of each 4 KiB between.
        let length = bytes.len();
        let sampled = (0..length).filter(|at| *at < 64 || *at >= length - 64 || at % 4093 == 7);
        for at in sampled {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(Checked::new(name, &bytes).is_none(), "{method:?}: byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
        assert!(Checked::new(name, &bytes[..length - 1]).is_none());
        assert!(Checked::new(name, &bytes).is_some());
    }
}

#[test]
fn equal_chunks_are_equal_under_one_salt_only() {
    let seal = |salt| {
        let mut chunk = plain(1);
        let (key, name) = Salt::new(secret(salt)).seal(array(&mut chunk));
        (*key.expose(), name, chunk)
    };
    assert!(seal(1) == seal(1));
    let (one, other) = (seal(1), seal(2));
    assert!(one.0 != other.0 && one.1 != other.1 && one.2 != other.2);
    // Unrelated: about half of all bits differ.
    let bits: u32 = one.2.iter().zip(&other.2).map(|(a, b)| (a ^ b).count_ones()).sum();
    let half = CHUNK_BYTES as u32 * 4;
    assert!(bits.abs_diff(half) < half / 100, "{bits} bits differ");
}

#[test]
fn an_image_key_is_another_for_each_image_and_artifact() {
    let derive = |random, artifact, image: &[u8]| {
        *ImageKey::derive(&secret(random), ScopeId([artifact; 16]), &Digest::of(image))
            .secret()
            .expose()
    };
    let key = derive(1, 1, b"image");
    assert_eq!(key, derive(1, 1, b"image"));
    for other in [derive(2, 1, b"image"), derive(1, 2, b"image"), derive(1, 1, b"another")] {
        assert_ne!(key, other);
    }
}

#[test]
fn every_bit_of_an_artifact_counts() {
    let (manifest, table, _) = sealed(Method::Convergent);
    let wrapped = [5; 61];
    let data_key = secret(3);
    let names = ("arn:aws:lambda:r:1:function:f:7", manifest.id());
    let artifact = Artifact::seal(names, ("key", &wrapped, &data_key), &table).unwrap();
    assert_eq!(artifact.open(&data_key, &manifest).unwrap().keys(), 2);
    assert_eq!(artifact.open(&data_key, &manifest).unwrap().config(), b"{}");
    let mut bytes = artifact.encode();
    assert_eq!(Artifact::parse(&bytes), Ok(artifact.clone()));
    let mut unwrapped_elsewhere = 0;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = Artifact::parse(&bytes) {
            if (&other.key, &other.wrapped) == (&artifact.key, &artifact.wrapped) {
                let opened = other.open(&data_key, &manifest).map(|table| table.keys());
                assert_eq!(opened, Err(ArtifactError::Seal), "bit {bit}");
            } else {
                // The key service has the last word on these: see its tests.
                unwrapped_elsewhere += 1;
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(unwrapped_elsewhere >= wrapped.len() * 8, "{unwrapped_elsewhere}");
    for length in 0..bytes.len() {
        assert!(Artifact::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
    bytes.push(0);
    assert_eq!(Artifact::parse(&bytes), Err(ArtifactError::Length));
}

#[test]
fn a_table_belongs_to_one_manifest_key_and_identity() {
    let (manifest, table, _) = sealed(Method::Convergent);
    let seal = || Artifact::seal(("a", manifest.id()), ("key", &[1], &secret(3)), &table).unwrap();
    let artifact = seal();
    assert_ne!(artifact.nonce(), seal().nonce(), "each table has its own nonce");
    let (other, ..) = sealed(Method::ServiceKey);
    let seals = Err(ArtifactError::Seal);
    let keys = |artifact: &Artifact, key, manifest| artifact.open(&key, manifest).map(|t| t.keys());
    assert_eq!(keys(&artifact, secret(4), &manifest), seals);
    assert_eq!(keys(&artifact, secret(3), &other), seals);
    let mut renamed = artifact.clone();
    renamed.identity = "b".to_owned();
    assert_eq!(keys(&renamed, secret(3), &manifest), seals);
    assert_eq!(keys(&artifact, secret(3), &manifest), Ok(2));
    // A table of another manifest's size is no use, whoever sealed it.
    let short = KeyTable::new(&[secret(1)], b"");
    let short = Artifact::seal(("a", manifest.id()), ("key", &[1], &secret(3)), &short).unwrap();
    assert_eq!(keys(&short, secret(3), &manifest), Err(ArtifactError::Field { field: "keys" }));
}

#[test]
fn names_that_no_log_could_show_are_refused() {
    let (manifest, table, _) = sealed(Method::Convergent);
    for name in ["", "a b", "a\nb", "ä", &"a".repeat(513)] {
        assert!(!is_name(name));
        let sealed = Artifact::seal((name, manifest.id()), ("key", &[1], &secret(3)), &table);
        assert!(sealed.is_err(), "{name:?}");
    }
    assert!(Artifact::seal(("a", manifest.id()), ("key", &[], &secret(3)), &table).is_err());
}

#[test]
fn nothing_secret_is_shown() {
    let (_, table, _) = sealed(Method::Convergent);
    let key = ImageKey::derive(&secret(0xab), WITHIN.1, &Digest::of(b"image"));
    let shown = format!("{:?} {table:?} {:?} {key:?}", secret(0xab), Salt::new(secret(0xab)));
    assert!(shown.starts_with("Secret KeyTable { keys: 2, .. } Salt(Secret) ImageKey"), "{shown}");
    assert!(!shown.contains("171") && !shown.contains("ab, ab"), "{shown}");
}

#[test]
fn sizes_are_those_of_the_format() {
    assert_eq!(Method::Convergent.sealed_bytes(), 524_288);
    assert_eq!(Method::ServiceKey.sealed_bytes(), 524_288 + TAG_BYTES);
}
