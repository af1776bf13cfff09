//! The published vectors: computed by ourselves, by RustCrypto, and by Python with OpenSSL, all to the byte.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use hmac::{KeyInit as _, Mac as _};
use serde_json::Value;

use crate::chunk::{CHUNK_BYTES, ZeroMap, chunks_of, is_zero, read_chunk};
use crate::digest::Digest;
use crate::manifest::{Manifest, RootId, ScopeId};
use crate::seal::{Artifact, Checked, ImageKey, KeyTable, Method, Opener, Salt, Secret, table};

const IDENTITY: &str = "arn:aws:lambda:eu-north-1:123456789012:function:thumbnail:7";

/// The sealed chunks of the vectors' image, made by what is under test.
struct Sealed {
    manifest: Manifest,
    keys: Vec<Secret>,
    ciphertexts: Vec<(u32, Vec<u8>)>,
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn vectors(method: Method) -> Value {
    let text = std::fs::read_to_string(folder().join("v1.json")).unwrap();
    let mut vectors: Value = serde_json::from_str(&text).unwrap();
    let name = match method {
        Method::Convergent => "convergent",
        Method::ServiceKey => "service_key",
    };
    assert_eq!(vectors["image_sha256"], Digest::of(&image()).to_string());
    vectors[name].take()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stream(label: &[u8], length: usize) -> Vec<u8> {
    let blocks = (0..).flat_map(|i: u32| *Digest::of_parts(&[label, &i.to_le_bytes()]).as_bytes());
    blocks.take(length).collect()
}

fn secret(label: &str) -> Secret {
    Secret::from_slice(Digest::of(format!("votive test {label}").as_bytes()).as_bytes()).unwrap()
}

fn id(label: &str) -> [u8; 16] {
    secret(label).expose()[..16].try_into().unwrap()
}

fn image() -> Vec<u8> {
    let first = stream(b"first", CHUNK_BYTES);
    [first.clone(), vec![0; CHUNK_BYTES], first, stream(b"last", 4096)].concat()
}

fn seal(method: Method) -> Sealed {
    let image = image();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&image).unwrap();
    let bytes = image.len() as u64;
    let chunks = chunks_of(bytes).unwrap();
    let salt = Salt::new(secret("salt"));
    let artifact = ScopeId(id("artifact id"));
    let whole = ImageKey::derive(&secret("upload key"), artifact, &Digest::of(&image));
    let mut zeros = ZeroMap::new(chunks);
    let (mut keys, mut names, mut ciphertexts) = (vec![], vec![], vec![]);
    let mut chunk = vec![0; CHUNK_BYTES];
    for index in 0..chunks {
        chunk.truncate(CHUNK_BYTES);
        read_chunk(&file, bytes, index, chunk.as_mut_slice().try_into().unwrap()).unwrap();
        if is_zero(&chunk) {
            zeros.mark(index);
            continue;
        }
        match method {
            Method::Convergent => {
                let (key, name) = salt.seal(chunk.as_mut_slice().try_into().unwrap());
                keys.push(key);
                names.push(name);
            }
            Method::ServiceKey => names.push(whole.seal(index, &mut chunk)),
        }
        ciphertexts.push((index, chunk.clone()));
    }
    let scope = match method {
        Method::Convergent => ScopeId(id("salt id")),
        Method::ServiceKey => artifact,
    };
    if method == Method::ServiceKey {
        keys.push(whole.secret().clone());
    }
    let within = (RootId(id("root")), scope);
    let manifest = Manifest::new(method, bytes, within, zeros, names).unwrap();
    Sealed { manifest, keys, ciphertexts }
}

#[test]
fn what_we_compute_is_what_is_published() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let (vectors, sealed) = (vectors(method), seal(method));
        let texts = |field: &str| -> Vec<String> {
            let list = vectors[field].as_array().unwrap();
            list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let shown = |part: fn(&[u8]) -> &[u8]| -> Vec<String> {
            sealed.ciphertexts.iter().map(|(_, bytes)| hex(part(bytes))).collect()
        };
        let keys: Vec<_> = sealed.keys.iter().map(|key| hex(key.expose())).collect();
        let names: Vec<_> = sealed.manifest.names().iter().map(Digest::to_string).collect();
        assert_eq!(keys, texts("keys"), "{method:?}");
        assert_eq!(shown(|bytes| &bytes[..32]), texts("ciphertext_starts"), "{method:?}");
        assert_eq!(shown(|bytes| &bytes[bytes.len() - 32..]), texts("ciphertext_ends"));
        assert_eq!(names, texts("names"), "{method:?}");
        assert_eq!(hex(&sealed.manifest.encode()), vectors["manifest"], "{method:?}");
        assert_eq!(sealed.manifest.id().to_string(), vectors["manifest_id"], "{method:?}");
        let table = KeyTable::new(&sealed.keys, br#"{"Cmd":["app.handler"]}"#);
        let nonce = secret("nonce").expose()[..12].try_into().unwrap();
        let data_key = secret("data key");
        let artifact = Artifact::seal_with(
            (IDENTITY, sealed.manifest.id()),
            ("key/1", b"wrapped", &data_key),
            &table,
            nonce,
        );
        assert_eq!(hex(&artifact.unwrap().encode()), vectors["artifact"], "{method:?}");
    }
}

#[test]
fn what_is_published_opens_to_the_image() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let (vectors, sealed) = (vectors(method), seal(method));
        let bytes = |field: &str| -> Vec<u8> {
            let digits = vectors[field].as_str().unwrap().as_bytes();
            let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
            digits.chunks(2).map(|digits| pair(digits).unwrap()).collect()
        };
        let artifact = Artifact::parse(&bytes("artifact")).unwrap();
        assert_eq!((&*artifact.identity, &*artifact.key), (IDENTITY, "key/1"));
        let manifest = Manifest::parse_named(&bytes("manifest"), &artifact.manifest).unwrap();
        let table = artifact.open(&secret("data key"), &manifest).unwrap();
        let opener = Opener::new(manifest, table).unwrap();
        let mut opened = vec![0; 4 * CHUNK_BYTES];
        for (index, ciphertext) in &sealed.ciphertexts {
            let name = opener.manifest().name(*index).unwrap();
            let at = *index as usize * CHUNK_BYTES;
            let chunk = (&mut opened[at..at + CHUNK_BYTES]).try_into().unwrap();
            opener.open(*index, Checked::new(name, ciphertext).unwrap(), chunk).unwrap();
        }
        opened.truncate(image().len());
        assert!(opened == image(), "{method:?}");
    }
}

#[test]
fn another_implementation_computes_the_same() {
    let sealed = seal(Method::Convergent);
    let salt = secret("salt");
    for ((index, ciphertext), key) in sealed.ciphertexts.iter().zip(&sealed.keys) {
        let mut chunk = image();
        chunk.resize(4 * CHUNK_BYTES, 0);
        let mut chunk = chunk.split_off(*index as usize * CHUNK_BYTES);
        chunk.truncate(CHUNK_BYTES);
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(salt.expose()).unwrap();
        mac.update(b"k");
        mac.update(&chunk);
        assert_eq!(*mac.finalize().into_bytes(), *key.expose());
        let cipher = UnboundCipherKey::new(&AES_256, key.expose()).and_then(EncryptingKey::ctr);
        let zero = EncryptionContext::Iv128([0; 16].into());
        cipher.unwrap().less_safe_encrypt(&mut chunk, zero).unwrap();
        assert!(chunk == *ciphertext, "chunk {index}");
    }
    // The chunks' AES-GCM is one implementation, the tables' another.
    let sealed = seal(Method::ServiceKey);
    for (index, ciphertext) in &sealed.ciphertexts {
        let index = index.to_le_bytes();
        let whole = [&[0; 8][..], &index, ciphertext].concat();
        let aad = [&sealed.manifest.scope().0[..], &index].concat();
        assert!(table::open(&sealed.keys[0], &aad, &whole).is_some());
    }
}

#[test]
fn python_and_openssl_compute_the_same_from_the_text() {
    let mut command = Command::new("python3");
    let status = command.arg(folder().join("compute.py")).arg(folder().join("v1.json")).status();
    assert!(status.expect("python3 is Debian's package python3").success());
}
