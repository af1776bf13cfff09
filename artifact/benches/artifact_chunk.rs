//! Opening one chunk, read from a file, checked and decrypted, against the machine's own speed at SHA-256 and AES-256-CTR.
//!
//! `cargo bench -p votive-artifact`. The last line is the figure: what the two cost by themselves over what the chunk costs, both
//! the median of rounds that take turns, so that a machine that is busy is as busy for both. Below 0.8 it fails.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use hmac::{KeyInit as _, Mac as _};
use sha2::Digest as _;
use votive_artifact::chunk::{CHUNK_BYTES, ZeroMap};
use votive_artifact::digest::Digest;
use votive_artifact::grant::{Grant, Issuer, Operations, Verifier};
use votive_artifact::manifest::{Manifest, RootId, ScopeId};
use votive_artifact::seal::{Checked, ImageKey, KeyTable, Method, Opener, Salt, Secret};

/// What opening a chunk must reach of the raw speed.
const RATIO_MIN: f64 = 0.8;

/// Rounds of each, and chunks in a round: about 20 ms.
const ROUNDS: usize = 41;
const CHUNKS: usize = 32;

/// Each chunk is another one, so that none is in the processor's nearest caches when its turn comes.
type Chunks = Vec<Vec<u8>>;

/// One thing that is measured: its name, and what handles one chunk.
type Case<'a> = (&'static str, Box<dyn FnMut(usize) + 'a>);

fn main() -> ExitCode {
    let key = Secret::random().expect("the system gives random bytes");
    let plain: Chunks = (0..CHUNKS).map(|i| vec![i as u8 + 1; CHUNK_BYTES]).collect();
    let (whole, each) = (Sealed::new(Method::ServiceKey), Sealed::new(Method::Convergent));
    let mut outs: Vec<Chunks> = vec![plain.clone(); 6];
    let [a, b, c, d, e, f] = outs.as_mut_slice() else { unreachable!("six buffers") };
    let key = *key.expose();
    let (mut kept, mut too) = (vec![], vec![]);
    let (verifier, grant) = signed();
    let verify = |_: usize| _ = black_box(verifier.verify(&grant, "worker-1", 100)).is_ok();
    let sha = |i: usize| _ = black_box(Digest::of(&plain[i]));
    let mut cases: Vec<Case<'_>> = vec![
        ("SHA-256, aws-lc-rs", Box::new(sha)),
        ("SHA-256, sha2", Box::new(|i| _ = black_box(sha2::Sha256::digest(&plain[i])))),
        ("HMAC-SHA-256, aws-lc-rs", Box::new(|i| aws_hmac(&key, &plain[i]))),
        ("HMAC-SHA-256, hmac", Box::new(|i| rust_hmac(&key, &plain[i]))),
        ("AES-256-CTR, aws-lc-rs", Box::new(|i| aws_ctr(&key, &mut a[i]))),
        ("AES-256-CTR, aes and ctr", Box::new(|i| rust_ctr(&key, &mut b[i]))),
        ("AES-256-GCM, aws-lc-rs", Box::new(|i| aws_gcm(&key, &mut c[i]))),
        ("AES-256-GCM, aes-gcm", Box::new(|i| rust_gcm(&key, &mut d[i]))),
        ("chunk opened, convergent", Box::new(|i| each.open(i, &mut kept, &mut e[i]))),
        ("chunk opened, service key", Box::new(|i| whole.open(i, &mut too, &mut f[i]))),
        ("a grant's signature checked", Box::new(verify)),
    ];
    let seconds = measure(&mut cases);
    for ((name, _), seconds) in cases.iter().zip(&seconds) {
        println!(
            "{name:<28}{:>9.1} us {:>8.0} MB/s",
            seconds * 1e6,
            CHUNK_BYTES as f64 / seconds / 1e6
        );
    }
    println!("a grant's signature is {:.1} % of a chunk", 100.0 * seconds[10] / seconds[8]);
    let raw = seconds[0].min(seconds[1]) + seconds[4].min(seconds[5]);
    let ratio = raw / seconds[8];
    println!(
        "artifact_chunk ratio {ratio:.3} (SHA-256 and AES-256-CTR {:.1} us), at least {RATIO_MIN}",
        raw * 1e6
    );
    if ratio < RATIO_MIN { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A grant and what checks it: the gate does that once for all chunks that are loaded under it.
fn signed() -> (Verifier, Vec<u8>) {
    let issuer = Issuer::generate().expect("the system gives random bytes");
    let grant = Grant {
        worker: "worker-1".to_owned(),
        identity: "arn:aws:lambda:r:1:function:f:1".to_owned(),
        manifest: Digest::of(b"manifest"),
        root: RootId([1; 16]),
        not_before_s: 100,
        expires_s: 700,
        operations: Operations::LOAD,
    };
    (Verifier::new(vec![issuer.public_key()]), issuer.sign(&grant).expect("it is a good one"))
}

/// The median over rounds of what one chunk takes, in seconds, for each case.
fn measure(cases: &mut [Case<'_>]) -> Vec<f64> {
    let mut rounds = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for ((_, case), rounds) in cases.iter_mut().zip(&mut rounds) {
            let start = Instant::now();
            (0..CHUNKS).for_each(&mut *case);
            rounds.push(start.elapsed().as_secs_f64() / CHUNKS as f64);
        }
    }
    let median = |mut rounds: Vec<f64>| {
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    };
    rounds.into_iter().map(median).collect()
}

/// Sealed chunks in a file, as a cache has them, and what opens them.
struct Sealed {
    opener: Opener,
    file: File,
    names: Vec<Digest>,
    sealed_bytes: usize,
}

impl Sealed {
    fn new(method: Method) -> Sealed {
        let secret = || Secret::random().expect("the system gives random bytes");
        let (salt, scope) = (Salt::new(secret()), ScopeId([2; 16]));
        let whole = ImageKey::derive(&secret(), scope, &Digest::of(b"image"));
        let file = tempfile::tempfile().expect("there is a place for temporary files");
        let (mut keys, mut names) = (vec![], vec![]);
        for index in 0..CHUNKS {
            let mut chunk = vec![index as u8 + 1; CHUNK_BYTES];
            match method {
                Method::Convergent => {
                    let (key, name) = salt.seal(chunk.as_mut_slice().try_into().expect("a chunk"));
                    keys.push(key);
                    names.push(name);
                }
                Method::ServiceKey => names.push(whole.seal(index as u32, &mut chunk)),
            }
            file.write_all_at(&chunk, (index * method.sealed_bytes()) as u64).expect("written");
        }
        if method == Method::ServiceKey {
            keys.push(whole.secret().clone());
        }
        let (zeros, bytes) = (ZeroMap::new(CHUNKS as u32), (CHUNKS * CHUNK_BYTES) as u64);
        let within = (RootId([1; 16]), scope);
        let manifest = Manifest::new(method, bytes, within, zeros, names.clone()).expect("fits");
        let opener = Opener::new(manifest, KeyTable::new(&keys, b"")).expect("fits");
        Sealed { opener, file, names, sealed_bytes: method.sealed_bytes() }
    }

    fn open(&self, index: usize, sealed: &mut Vec<u8>, out: &mut [u8]) {
        // Kept from chunk to chunk, as what loads chunks does.
        sealed.resize(self.sealed_bytes, 0);
        self.file.read_exact_at(sealed, (index * self.sealed_bytes) as u64).expect("read");
        let checked = Checked::new(self.names[index], sealed).expect("nothing was altered");
        let out = out.try_into().expect("a chunk");
        self.opener.open(index as u32, checked, out).expect("nothing was altered");
    }
}

fn aws_hmac(key: &[u8; 32], chunk: &[u8]) {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    _ = black_box(sign(&Key::new(HMAC_SHA256, key), chunk));
}

fn rust_hmac(key: &[u8; 32], chunk: &[u8]) {
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).expect("any size will do");
    mac.update(chunk);
    _ = black_box(mac.finalize());
}

fn aws_ctr(key: &[u8; 32], chunk: &mut [u8]) {
    let key = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ctr).expect("32 bytes");
    let counter = EncryptionContext::Iv128([0; 16].into());
    _ = black_box(key.less_safe_encrypt(chunk, counter).expect("any size will do"));
}

fn rust_ctr(key: &[u8; 32], chunk: &mut [u8]) {
    ctr::Ctr64BE::<aes::Aes256>::new(key.into(), &[0; 16].into()).apply_keystream(chunk);
}

fn aws_gcm(key: &[u8; 32], chunk: &mut [u8]) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"));
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    _ = black_box(key.seal_in_place_separate_tag(nonce, Aad::empty(), chunk).expect("any size"));
}

fn rust_gcm(key: &[u8; 32], chunk: &mut [u8]) {
    use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
    let cipher = aes_gcm::Aes256Gcm::new(key.into());
    let nonce = aes_gcm::Nonce::from([0; 12]);
    _ = black_box(cipher.encrypt_inout_detached(&nonce, b"", chunk.into()).expect("any size"));
}
