//! Real processes, killed at random moments while they store, fetch and cache: nothing that was stored is lost, nothing is torn, and no
//! wrong byte is served.
//!
//! The test starts itself as the process to kill. `VOTIVE_KILLS` is how often, 30 by default. Every other kill waits until the process has
//! stored its image, so that half of them hit fetching and caching.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use votive_artifact::cache::{CACHE_BYTES_MIN, Cache};
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::digest::Digest;
use votive_artifact::fetch::Loader;
use votive_artifact::gate::Gate;
use votive_artifact::grant::{Grant, Issuer, Operations, Verifier};
use votive_artifact::keys::Embedded;
use votive_artifact::seal::Method;
use votive_artifact::store::Store;
use votive_artifact::store::root::Root;
use votive_artifact::store::upload::{Stored, UploadSpec, Uploader};
use votive_artifact::store::verify::{find, identities, verify};

/// Where a process that is to be killed works, and in which round.
const FOLDER: &str = "VOTIVE_KILLED_FOLDER";
const ROUND: &str = "VOTIVE_KILLED_ROUND";

/// Chunks of each image; half of them are every image's.
const CHUNKS: u32 = 12;

/// After so many kills, everything is checked, and not only what is new.
const KILLS_BETWEEN_ALL: u32 = 100;

fn spec(round: u32) -> UploadSpec {
    UploadSpec {
        identity: None,
        key: "key".to_owned(),
        method: if round.is_multiple_of(3) { Method::ServiceKey } else { Method::Convergent },
        source: Digest::of(&round.to_le_bytes()),
        config: vec![],
    }
}

fn chunk(round: u32, index: u32) -> Vec<u8> {
    let mut chunk = vec![index as u8 + 1; CHUNK_BYTES];
    if index >= CHUNKS / 2 {
        chunk[..4].copy_from_slice(&round.to_le_bytes());
    }
    chunk
}

async fn upload(folder: &Path, round: u32) -> Stored {
    let store = Store::open(folder.join("store").to_str().unwrap()).unwrap();
    let keys = Arc::new(Embedded::open(&folder.join("keys")).unwrap());
    let uploader = Uploader::new(store, keys, "key").await.unwrap();
    let mut image = tempfile::tempfile().unwrap();
    (0..CHUNKS).for_each(|index| image.write_all(&chunk(round, index)).unwrap());
    let bytes = u64::from(CHUNKS) * CHUNK_BYTES as u64;
    uploader.upload(&spec(round), Arc::new(image), bytes, &mut |_| ()).await.unwrap()
}

/// Loads every chunk through a cache that is too small for all rounds, and compares.
async fn load(folder: &Path, stored: &Stored, round: u32) {
    let store = Store::open(folder.join("store").to_str().unwrap()).unwrap();
    let keys = Arc::new(Embedded::open(&folder.join("keys")).unwrap());
    let issuer = Issuer::generate().unwrap();
    let gate = Gate::new(store, keys, Verifier::new(vec![issuer.public_key()]));
    let cache = Cache::open(&folder.join("cache"), CACHE_BYTES_MIN).unwrap();
    let loader = Loader::new(Arc::new(gate), "worker", Some(cache));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let grant = Grant {
        worker: "worker".to_owned(),
        identity: stored.identity.clone(),
        manifest: stored.manifest,
        root: stored.root,
        not_before_s: now,
        expires_s: now + 600,
        operations: Operations::LOAD,
    };
    let loaded = Arc::new(loader.open(&issuer.sign(&grant).unwrap()).await.unwrap());
    for index in 0..CHUNKS {
        let found = loader.chunk(&loaded, index, vec![], Duration::from_secs(60)).await.unwrap();
        assert!(found == chunk(round, index), "round {round}, chunk {index} is wrong");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What is killed: it does nothing unless it was started for that.
#[test]
fn a_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let round: u32 = std::env::var(ROUND).unwrap().parse().unwrap();
    let folder = Path::new(&folder);
    println!("\nworking");
    runtime().block_on(async {
        let stored = upload(folder, round).await;
        println!("\nstored");
        load(folder, &stored, round).await;
    });
    println!("\nloaded");
}

/// How long a process takes that nobody kills: for all, and from when it has stored its image.
struct Pace {
    all: Duration,
    loading: Duration,
}

fn start(folder: &Path, round: u32) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_is_killed", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs the process to its end.
fn unharmed(folder: &Path, round: u32) -> Pace {
    let mut child = start(folder, round);
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    let mut when = |word: &str| lines.by_ref().find(|line| line == word).map(|_| Instant::now());
    let (working, stored, loaded) = (when("working"), when("stored"), when("loaded"));
    assert!(child.wait().unwrap().success());
    let loaded = loaded.unwrap();
    Pace { all: loaded - working.unwrap(), loading: loaded - stored.unwrap() }
}

/// Runs the process and kills it a part of its time after it has begun, or after it has stored its image; which words it said.
fn killed(folder: &Path, round: u32, (after, life): (&str, Duration)) -> Vec<String> {
    let mut child = start(folder, round);
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    let is_word = |line: &String| ["working", "stored", "loaded"].contains(&line.as_str());
    let mut said = vec![];
    for line in lines.by_ref().filter(is_word) {
        said.push(line);
        if said.last().is_some_and(|word| word == after) {
            break;
        }
    }
    // Not to wait for anything: this is the moment of the kill.
    std::thread::sleep(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    said.extend(lines.filter(is_word));
    assert!(status.code().is_none_or(|code| code == 0), "it failed by itself: {status}");
    said
}

#[test]
fn nothing_is_lost_or_torn_however_often_a_process_is_killed() {
    let kills: u32 = std::env::var("VOTIVE_KILLS").map_or(30, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Embedded::create(&folder.join("keys")).unwrap().create_key("key").unwrap();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let pace = unharmed(folder, u32::MAX);
    let (mut storing, mut loading, mut stored_rounds) = (0, 0, vec![]);
    let mut seen = Seen::default();
    for kill in 0..kills {
        let chance = Digest::of_parts(&[&seed.to_le_bytes(), &kill.to_le_bytes()]);
        let part = u16::from_le_bytes([chance.as_bytes()[0], chance.as_bytes()[1]]);
        let moment = match kill % 2 {
            0 => ("working", pace.all * u32::from(part) / u32::from(u16::MAX)),
            _ => ("stored", pace.loading * u32::from(part) / u32::from(u16::MAX)),
        };
        let round = kill / 3;
        let said = killed(folder, round, moment);
        let has = |word: &str| said.iter().any(|line| line == word);
        if has("stored") {
            stored_rounds.push(round);
        }
        storing += u32::from(!has("stored"));
        loading += u32::from(has("stored") && !has("loaded"));
        if (kill + 1).is_multiple_of(KILLS_BETWEEN_ALL) || kill + 1 == kills {
            seen.checked.clear();
        }
        runtime().block_on(assert_whole(folder, &mut seen));
    }
    println!(
        "{kills} kills: {storing} while it stored, {loading} while it fetched and cached, {} came too late",
        kills - storing - loading
    );
    assert!(storing > 0 && loading > 0, "no kill came in time");
    // What was said to be stored is there, and what was interrupted is gone on with.
    stored_rounds.dedup();
    runtime().block_on(async {
        for round in stored_rounds {
            let again = upload(folder, round).await;
            assert_eq!(again.stored_bytes, 0, "round {round} was stored");
            load(folder, &again, round).await;
        }
        let last = upload(folder, kills).await;
        load(folder, &last, kills).await;
        let store = Store::open(folder.join("store").to_str().unwrap()).unwrap();
        let left = store.sweep(Duration::ZERO, false).await.unwrap();
        println!("{} unfinished files were left, {} bytes", left.objects, left.bytes);
        assert_whole(folder, &mut seen).await;
    });
}

/// What earlier checks have found.
#[derive(Default)]
struct Seen {
    /// Artifacts and chunks: they must be there for ever.
    there: BTreeSet<String>,
    /// Those that need not be looked into again so soon.
    checked: BTreeSet<String>,
}

/// Every artifact in the store is whole, every chunk is what its name says, and nothing that was there is gone.
async fn assert_whole(folder: &Path, seen: &mut Seen) {
    let store = Store::open(folder.join("store").to_str().unwrap()).unwrap();
    let keys = Embedded::open(&folder.join("keys")).unwrap();
    let mut there = BTreeSet::new();
    for root in Root::all(&store).await.unwrap() {
        for identity in identities(&store, root.id).await.unwrap() {
            there.insert(identity.clone());
            if !seen.checked.insert(identity.clone()) {
                continue;
            }
            let found = find(&store, &identity).await.unwrap();
            let verified = verify(&store, &found, Some(&keys), &mut |_| ()).await.unwrap();
            assert_eq!((verified.missing, verified.damaged), (vec![], vec![]), "{identity}");
        }
    }
    for root in std::fs::read_dir(folder.join("store/roots")).into_iter().flatten() {
        let Ok(folders) = std::fs::read_dir(root.unwrap().path().join("chunks")) else { continue };
        for file in folders.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap()) {
            let file = file.unwrap();
            // A name with # is a file that was being written: no reader takes it for an object.
            let Ok(name) = file.file_name().to_str().unwrap().parse::<Digest>() else { continue };
            there.insert(name.to_string());
            if seen.checked.insert(name.to_string()) {
                assert_eq!(Digest::of(&std::fs::read(file.path()).unwrap()), name, "torn");
            }
        }
    }
    let lost: Vec<_> = seen.there.difference(&there).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    seen.there = there;
}
