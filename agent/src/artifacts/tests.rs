//! What a VMM sees of its artifact's chunks: those of a store that is whole, slow, failing or lying, and of other VMMs.

use std::os::unix::fs::FileExt as _;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use votive_artifact::chunk::CHUNK_BYTES;
use votive_artifact::seal::Method;

use super::*;
use world::{CANARY, SETTINGS, World, chunk};

mod world;

const SHORT: Duration = Duration::from_millis(50);

/// Chunks of which all pages were read.
fn whole(indices: impl IntoIterator<Item = u32>) -> Vec<ChunkReads> {
    indices.into_iter().map(|index| ChunkReads { index, pages: u128::MAX }).collect()
}

#[tokio::test]
async fn an_absent_chunk_comes_when_it_is_asked_for_and_is_there_for_all_then() {
    for method in [Method::Convergent, Method::ServiceKey] {
        let world = World::new(SETTINGS);
        let image = world.seal("f", method, &[1, 0, 2, 3]).await;
        let mut vmm = world.vmm(&image).await;
        assert_eq!([0, 1, 2, 3].map(|index| vmm.holds(index)), [false, true, false, false]);
        assert!(vmm.bytes(1) == chunk(0), "zeros are there from the start");
        assert!(vmm.read(2).await && vmm.read(3).await);
        assert!(vmm.bytes(2) == chunk(2) && vmm.bytes(3) == chunk(3)[..8192]);
        assert!(!vmm.holds(0) && vmm.bytes(0) == chunk(0), "nobody asked for this one");
        // Another VMM sees the same memory, and needs no message; one that asks all the same is answered.
        let mut other = world.vmm(&image).await;
        assert_eq!(other.inode(), vmm.inode());
        assert!(other.holds(2) && other.bytes(2) == chunk(2));
        other.ask(2).await;
        assert_eq!(other.answer().await, (2, 0));
        assert_eq!([0, 2, 3].map(|index| world.reads(&image, index)), [0, 1, 1]);
        let stats = world.artifacts.stats();
        assert_eq!((stats.images, stats.disks, stats.bytes), (1, 2, CHUNK_BYTES as u64 + 8192));
    }
}

#[tokio::test]
async fn who_gets_a_disk_can_neither_write_it_nor_change_its_length() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let vmm = world.vmm(&image).await;
    for file in [&vmm.image, &vmm.presence] {
        assert!(file.write_all_at(&[1], 0).is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(file.metadata().unwrap().len() % 2, 0);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    }
}

#[tokio::test]
async fn many_readers_of_a_chunk_are_one_fetch() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let same = world.seal("g", Method::Convergent, &[1, 2]).await;
    assert_eq!(image.name.manifest, same.name.manifest, "two artifacts of one image");
    world.hold(&image, 0);
    let mut vmms = Vec::new();
    for i in 0..20 {
        let mut vmm = world.vmm([&image, &same][i % 2]).await;
        vmm.ask(0).await;
        vmms.push(vmm);
    }
    world.until("the store is asked", |world| world.reads(&image, 0) > 0).await;
    assert_eq!(world.artifacts.stats().images, 1);
    world.release(&image, 0);
    for vmm in &mut vmms {
        assert_eq!(vmm.answer().await, (0, 0));
        assert!(vmm.bytes(0) == chunk(1));
    }
    assert_eq!(world.reads(&image, 0), 1);
}

#[tokio::test]
async fn a_slow_chunk_delays_its_readers_alone() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2, 3]).await;
    let other = world.seal("g", Method::ServiceKey, &[4, 5]).await;
    world.hold(&image, 0);
    let (mut vmm, mut third) = (world.vmm(&image).await, world.vmm(&other).await);
    vmm.ask(0).await;
    vmm.ask(1).await;
    assert_eq!(vmm.answer().await, (1, 0));
    assert!(third.read(0).await);
    assert!(!vmm.holds(0));
    world.release(&image, 0);
    assert_eq!(vmm.answer().await, (0, 0));
    assert!(vmm.bytes(0) == chunk(1));
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_not_the_fetch() {
    let world = World::new(Settings { read_limit: SHORT, ..SETTINGS });
    let image = world.seal("f", Method::Convergent, &[1, 2, 3]).await;
    world.hold(&image, 0);
    let mut vmm = world.vmm(&image).await;
    assert!(!vmm.read(0).await);
    // It is under way still: whoever asks next has it from there.
    assert!(!vmm.read(0).await);
    world.release(&image, 0);
    world.until("the chunk is there", |_| vmm.holds(0)).await;
    assert!(vmm.bytes(0) == chunk(1));
    assert_eq!(world.reads(&image, 0), 1);
}

#[tokio::test]
async fn a_store_that_fails_or_lies_fails_the_readers_of_that_chunk_alone() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2, 3, 4]).await;
    let mut vmm = world.vmm(&image).await;
    world.fail(&image, 0, 2);
    assert!(vmm.read(0).await, "a failure that passes is nobody's business");
    world.fail(&image, 1, 3);
    world.lie(&image, 2, true);
    assert!(!vmm.read(1).await);
    assert!(!vmm.read(2).await);
    assert!(vmm.bytes(2) == chunk(0), "no byte of a lie is seen");
    assert!(vmm.read(3).await);
    assert_eq!(world.artifacts.stats().fetched.refused, 3);
    // Asked anew, they come.
    world.lie(&image, 2, false);
    assert!(vmm.read(1).await && vmm.read(2).await);
    assert!(vmm.bytes(1) == chunk(2) && vmm.bytes(2) == chunk(3));
}

#[tokio::test]
async fn whatever_a_vmm_sends_is_answered_once_and_harms_nobody() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 0, 2]).await;
    let (mut vmm, mut other) = (world.vmm(&image).await, world.vmm(&image).await);
    for index in [3, 4096, u32::MAX] {
        vmm.ask(index).await;
        assert_eq!(vmm.answer().await, (index, 1));
    }
    // Again and again while it is under way, and in pieces.
    world.hold(&image, 0);
    for _ in 0..40 {
        vmm.ask(0).await;
    }
    let [first, rest @ ..] = 0u32.to_le_bytes();
    vmm.socket.write_all(&[first]).await.unwrap();
    world.until("the store is asked", |world| world.reads(&image, 0) > 0).await;
    vmm.socket.write_all(&rest).await.unwrap();
    // More than are served at a time: the rest waits in the socket.
    for _ in 0..200 {
        vmm.ask(0).await;
    }
    assert!(other.read(2).await);
    world.release(&image, 0);
    for _ in 0..241 {
        assert_eq!(vmm.answer().await, (0, 0));
    }
    assert_eq!(world.reads(&image, 0), 1);
    // Half a question is none, and what was no chunk is in no list.
    vmm.socket.write_all(&[1, 2]).await.unwrap();
    drop(vmm.socket);
    world.until("it is gone", |world| world.artifacts.stats().disks == 1).await;
    assert_eq!(vmm.attached_reads.so_far().indices(), [0, 2]);
}

#[tokio::test]
async fn a_vmm_that_reads_no_answer_stops_itself_alone() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 0, 2]).await;
    let (vmm, mut other) = (world.vmm(&image).await, world.vmm(&image).await);
    // Until neither side's buffer takes any more.
    let questions = 1u32.to_le_bytes().repeat(1024);
    let mut idle = 0;
    while idle < 1000 {
        match vmm.socket.try_write(&questions) {
            Ok(_) => idle = 0,
            Err(_) => idle += 1,
        }
        tokio::task::yield_now().await;
    }
    assert!(other.read(0).await && other.read(2).await);
    drop(vmm);
    world.until("it is gone", |world| world.artifacts.stats().disks == 1).await;
}

#[tokio::test]
async fn an_image_outlives_its_last_vmm_by_the_idle_time() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2, 3]).await;
    let mut vmm = world.vmm(&image).await;
    assert!(vmm.read(0).await);
    // It hangs up while a chunk is under way, which arrives all the same.
    world.hold(&image, 1);
    vmm.ask(1).await;
    world.until("the store is asked", |world| world.reads(&image, 1) > 0).await;
    let inode = vmm.inode();
    drop(vmm);
    world.until("no disk", |world| world.artifacts.stats().disks == 0).await;
    world.release(&image, 1);
    let again = world.vmm(&image).await;
    assert_eq!(again.inode(), inode);
    world.until("the chunk is there", |_| again.holds(1)).await;
    assert!(again.holds(0) && again.bytes(1) == chunk(2));

    let world = World::new(Settings { idle: SHORT, ..SETTINGS });
    let image = world.seal("f", Method::Convergent, &[1, 2, 3]).await;
    let (mut vmm, other) = (world.vmm(&image).await, world.vmm(&image).await);
    assert!(vmm.read(0).await);
    drop(vmm);
    world.until("one disk", |world| world.artifacts.stats().disks == 1).await;
    drop(other);
    world.until("no image", |world| world.artifacts.stats().images == 0).await;
    world.until("no memory", |world| world.artifacts.stats().bytes == 0).await;
    // The ciphertext is in the cache still.
    let mut vmm = world.vmm(&image).await;
    assert!(!vmm.holds(0) && vmm.read(0).await);
    assert_eq!(world.reads(&image, 0), 1);
}

#[tokio::test]
async fn what_a_start_read_first_is_fetched_ahead_of_the_next() {
    let chunks = [1, 2, 0, 3, 4, 5];
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &chunks).await;
    let mut vmm = world.vmm(&image).await;
    for index in [4, 0, 3] {
        assert!(vmm.read(index).await);
    }
    // It also says which pages it reads; the last chunk has fewer.
    let table = vmm.reads.take().unwrap();
    let pages = table.metadata().unwrap().len();
    assert_eq!(pages, 5 * 128 + 2);
    for page in [0, 127, 3 * 128 + 5, pages - 1] {
        table.write_all_at(&[1], page).unwrap();
    }
    let list = vmm.attached_reads.so_far();
    assert_eq!(list.indices(), [4, 0, 3]);
    let pages = list.chunks().iter().map(|read| read.pages).collect::<Vec<_>>();
    assert_eq!(pages, [0, 1 | 1 << 127, 1 << 5]);
    let kept = ReadList::parse(&list.encode()).unwrap();

    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &chunks).await;
    world.hold(&image, 0);
    let mut vmm = world.vmm_ahead(&image, Some(kept.clone())).await;
    world.until("two of three are there", |_| vmm.holds(4) && vmm.holds(3)).await;
    // A read of what is on its way waits for that.
    vmm.ask(0).await;
    assert!(vmm.read(1).await);
    world.release(&image, 0);
    assert_eq!(vmm.answer().await, (0, 0));
    assert!(vmm.bytes(4) == chunk(4) && vmm.bytes(0) == chunk(1));
    assert_eq!([0, 1, 3, 4].map(|index| world.reads(&image, index)), [1; 4]);
    assert_eq!(world.reads(&image, 5), 0);
    assert_eq!(vmm.attached_reads.so_far().indices(), [4, 0, 3, 1]);
    // The list outlives the memory, and a second one changes nothing.
    let other = ReadList::new(whole([5]));
    let vmm = world.vmm_ahead(&image, Some(other)).await;
    assert!(vmm.reads.is_none(), "what starts read is known");
    assert_eq!(vmm.attached_reads.so_far().indices(), [4, 0, 3, 1]);
}

#[tokio::test]
async fn a_list_that_lies_costs_no_more_than_its_bound() {
    let listed = ReadList::new(whole((0..10_000).chain([7, u32::MAX])));
    assert_eq!(listed.indices().len(), READS_MAX);
    assert_eq!(ReadList::parse(&listed.encode()), Some(listed.clone()));
    let long = [listed.encode(), vec![0; 4]].concat();
    for bytes in [&b""[..], b"votiveL\x03", b"votiveL\x02abc", b"votiveL\x01\x05\0\0\0", &long] {
        assert_eq!(ReadList::parse(bytes), None);
    }
    let entry = [&[5, 0, 0, 0, 3][..], &[0; 15]].concat();
    let twice = ReadList::parse(&[b"votiveL\x02", &entry[..], &entry].concat()).unwrap();
    assert_eq!(twice.chunks(), [ChunkReads { index: 5, pages: 3 }]);
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let vmm = world.vmm_ahead(&image, Some(ReadList::new(whole([u32::MAX, 2, 1])))).await;
    world.until("the one that there is", |_| vmm.holds(1)).await;
    assert_eq!(vmm.attached_reads.so_far().indices(), [1]);
}

#[tokio::test]
async fn memory_is_bounded_and_what_nobody_uses_makes_room() {
    let memory_bytes = 2 * CHUNK_BYTES as u64;
    let world = World::new(Settings { memory_bytes, ..SETTINGS });
    let image = world.seal("f", Method::Convergent, &[1, 2, 3, 4]).await;
    let other = world.seal("g", Method::Convergent, &[5, 6, 7]).await;
    let mut vmm = world.vmm(&image).await;
    assert!(vmm.read(0).await && vmm.read(1).await && !vmm.read(2).await);
    let mut second = world.vmm(&other).await;
    assert!(!second.read(0).await, "an image that is used is not taken away");
    drop(vmm);
    world.until("one disk", |world| world.artifacts.stats().disks == 1).await;
    assert!(second.read(0).await && second.bytes(0) == chunk(5));
    assert_eq!(world.artifacts.stats().images, 1);
    assert!(second.read(1).await && !second.read(2).await);
    assert_eq!(world.artifacts.stats().bytes, memory_bytes);
}

#[tokio::test]
async fn a_grant_that_ran_out_is_renewed_when_a_chunk_needs_it() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2, 3, 4]).await;
    let mut vmm = world.vmm(&image).await;
    assert!(vmm.read(0).await);
    world.grants.now_s.fetch_add(1000, Ordering::SeqCst);
    assert!(vmm.read(1).await && vmm.read(2).await);
    assert_eq!(world.grants.granted.load(Ordering::SeqCst), 2, "renewed once");
    world.grants.now_s.fetch_add(1000, Ordering::SeqCst);
    world.grants.refuses.store(true, Ordering::SeqCst);
    assert!(!vmm.read(3).await);
    assert!(vmm.holds(2), "what is there stays");
    let refused = world.artifacts.attach(&image.name, None).await.unwrap_err();
    assert!(matches!(refused, OpenError::Grant(_)), "{refused}");
    world.grants.refuses.store(false, Ordering::SeqCst);
    assert!(vmm.read(3).await);
}

#[tokio::test]
async fn a_reader_with_a_good_grant_is_not_refused_for_another_ones() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let same = world.seal("g", Method::Convergent, &[1, 2]).await;
    let mut stale = world.vmm(&image).await;
    world.grants.now_s.fetch_add(1000, Ordering::SeqCst);
    let mut good = world.vmm(&same).await;
    world.grants.refuses.store(true, Ordering::SeqCst);
    stale.ask(0).await;
    good.ask(0).await;
    assert_eq!(good.answer().await, (0, 0));
    // Whether it was in time to see the other one's chunk come is chance; it is answered.
    assert_eq!(stale.answer().await.0, 0);
}

#[tokio::test]
async fn a_disabled_key_refuses_new_disks_and_no_old_one() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let mut vmm = world.vmm(&image).await;
    world.keys.set_enabled("key", false).unwrap();
    let refused = world.artifacts.attach(&image.name, None).await.unwrap_err();
    assert_eq!(refused.code(), "KMSDisabledException");
    assert!(vmm.read(0).await);
    world.keys.set_enabled("key", true).unwrap();
    assert!(world.vmm(&image).await.holds(0));
}

#[tokio::test]
async fn what_was_registered_is_what_is_opened() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::Convergent, &[1, 2]).await;
    let other = world.seal("g", Method::Convergent, &[3, 4]).await;
    let swapped = ArtifactName { manifest: other.name.manifest, ..image.name };
    assert!(world.artifacts.attach(&swapped, None).await.is_err());
    let stats = world.artifacts.stats();
    assert_eq!((stats.images, stats.disks), (0, 0));
}

#[tokio::test]
async fn nothing_in_the_clear_is_in_any_file() {
    let world = World::new(SETTINGS);
    let image = world.seal("f", Method::ServiceKey, &[1, 2]).await;
    let mut vmm = world.vmm(&image).await;
    assert!(vmm.read(0).await && vmm.read(1).await);
    assert!(vmm.bytes(0).windows(CANARY.len()).any(|window| window == CANARY));
    let mut folders = vec![world.folder.path().to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(CANARY.len()).any(|window| window == CANARY);
                assert!(!found, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 5, "store, cache and keys");
}
