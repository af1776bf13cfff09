//! What is in the file, and what the driver sees.

#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics has found something, and its numbers are small"
)]

use std::os::unix::fs::FileExt;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::virtio::Wake;
use crate::virtio::block::{Block, BlockError, BlockSpec};
use crate::virtio::driver::{Buffer, DATA, GuestDriver, HIGH, ram, readable, writable};

/// More than the buffer holds, so that requests come in pieces.
const SECTORS: u64 = 400;
const SECTOR: u64 = 512;
const TEMPLATE_BYTES: u64 = 90 * 512 + 100;

struct Rig {
    driver: GuestDriver,
    disk: File,
    template: File,
}

fn template_bytes() -> Vec<u8> {
    (0..TEMPLATE_BYTES).map(|i| (i / 512 * 3 + i % 509).to_le_bytes()[0]).collect()
}

fn rig() -> Rig {
    let [disk, template] = [(); 2].map(|()| tempfile::tempfile().unwrap());
    disk.set_len(SECTORS * SECTOR).unwrap();
    template.write_all_at(&template_bytes(), 0).unwrap();
    rig_of(disk, template)
}

fn rig_of(disk: File, template: File) -> Rig {
    let spec = EncryptedSpec { template: Some(template.try_clone().unwrap()) };
    let plain = BlockSpec::new(disk.try_clone().unwrap(), false, "scratch");
    let block = Block::new(BlockSpec { encrypted: Some(spec), ..plain }).unwrap();
    let mut driver = GuestDriver::new(Box::new(block), ram().unwrap()).unwrap();
    let offered = driver.offered();
    assert!(driver.start(offered & !(1 << 29)));
    driver.work(Wake::Guest);
    Rig { driver, disk, template }
}

impl Rig {
    /// Sends a request and gives its status.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> u8 {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.write(DATA, &header);
        self.driver.write(DATA + 0x100, &[0xee]);
        let chain = [&[readable(DATA, 16)], data, &[writable(DATA + 0x100, 1)]].concat();
        self.driver.offer(0, &chain);
        self.driver.kick(0);
        self.driver.run(0);
        assert!(self.driver.used(0).is_some());
        self.driver.read(DATA + 0x100, 1)[0]
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        self.driver.write(HIGH, bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        // In buffers that end inside of sectors.
        let first = len.min(700);
        let rest = readable(HIGH + u64::from(first), len - first);
        self.request(1, sector, &[readable(HIGH, first), rest])
    }

    fn read(&mut self, sector: u64, sectors: u64) -> Vec<u8> {
        let bytes = u32::try_from(sectors * SECTOR).unwrap();
        let first = bytes.min(300);
        let rest = writable(HIGH + u64::from(first), bytes - first);
        assert_eq!(self.request(0, sector, &[writable(HIGH, first), rest]), 0);
        self.driver.read(HIGH, (sectors * SECTOR) as usize)
    }

    /// What the host has in its file.
    fn file(&self) -> Vec<u8> {
        let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
        self.disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// What a disk that was never written reads as.
fn fresh() -> Vec<u8> {
    let mut bytes = template_bytes();
    bytes.resize((SECTORS * SECTOR) as usize, 0);
    bytes
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn a_disk_that_was_never_written_is_its_template_and_then_zeros() {
    let mut rig = rig();
    assert_eq!(rig.read(0, SECTORS), fresh());
    assert_eq!(rig.file(), vec![0; (SECTORS * SECTOR) as usize]);
}

#[test]
fn a_marker_that_was_written_is_nowhere_in_the_file() {
    let mut rig = rig();
    let marker = b"a marker that no key makes by accident";
    let mut data = marker.repeat(SECTORS as usize * 512 / marker.len() + 1);
    data.truncate((SECTORS * SECTOR) as usize);
    assert_eq!(rig.write(0, &data), 0);
    assert_eq!(rig.read(0, SECTORS), data);
    let file = rig.file();
    assert!(holds(&data, &marker[..16]) && !holds(&file, &marker[..8]));
    // Nor is a byte of it likelier than another: 800 each are expected, with a deviation of 28.
    let mut counts = [0i32; 256];
    for byte in file {
        counts[usize::from(byte)] += 1;
    }
    assert!(counts.iter().all(|count| (count - 800).abs() < 300), "{counts:?}");
}

#[test]
fn the_template_is_never_written() {
    let mut rig = rig();
    rig.write(0, &[7; 100 * 512]);
    rig.write(50, &[8; 512]);
    assert_eq!(rig.template.metadata().unwrap().len(), TEMPLATE_BYTES);
    let mut bytes = vec![0; TEMPLATE_BYTES as usize];
    rig.template.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, template_bytes());
}

#[test]
fn disks_and_sectors_with_the_same_data_differ_in_their_files() {
    let (mut one, mut other) = (rig(), rig());
    for rig in [&mut one, &mut other] {
        assert_eq!(rig.write(0, &[0x5a; 8 * 512]), 0);
    }
    let (one, other) = (one.file(), other.file());
    let mut sectors: Vec<_> = one.chunks(512).take(8).chain(other.chunks(512).take(8)).collect();
    sectors.sort_unstable();
    sectors.dedup();
    assert_eq!(sectors.len(), 16);
    assert_eq!(one[8 * 512..], vec![0; one.len() - 8 * 512]);
}

#[test]
fn a_bit_that_flips_in_the_file_garbles_its_block_of_its_sector_and_nothing_else() {
    let mut rig = rig();
    assert_eq!(rig.write(10, &[3; 3 * 512]), 0);
    let at = 11 * 512 + 100;
    let mut byte = [0];
    rig.disk.read_exact_at(&mut byte, at).unwrap();
    rig.disk.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let read = rig.read(10, 3);
    let block = 512 + 96..512 + 112;
    let garbled = read[block.clone()].iter().filter(|byte| **byte != 3).count();
    assert!(garbled > 8, "{garbled} of 16");
    assert!(read.iter().enumerate().all(|(at, byte)| block.contains(&at) || *byte == 3));
}

#[test]
fn the_same_file_is_noise_to_the_next_machine() {
    let mut first = rig();
    assert_eq!(first.write(20, &[1; 512]), 0);
    let mut second = rig_of(first.disk, first.template);
    // Its bitmap is empty; and were it not, the key is another.
    assert_eq!(second.read(20, 1), fresh()[20 * 512..21 * 512]);
}

#[test]
fn without_its_key_a_disk_has_errors_and_its_template() {
    let mut rig = rig();
    assert_eq!(rig.write(20, &[1; 512]), 0);
    let before = rig.file();
    rig.driver.device().end();
    // A driver that goes on all the same.
    let offered = rig.driver.offered();
    assert!(rig.driver.start(offered & !(1 << 29)));
    assert_eq!(rig.request(0, 20, &[writable(HIGH, 512)]), 1);
    assert_eq!(rig.write(20, &[2; 512]), 1);
    assert_eq!(rig.write(30, &[2; 512]), 1);
    assert_eq!(rig.read(0, 20), fresh()[..20 * 512]);
    assert_eq!(rig.file(), before);
}

#[test]
fn there_is_nothing_to_flush_and_nothing_that_says_so() {
    let mut rig = rig();
    assert_eq!(rig.driver.offered() & (1 << 9 | 1 << 5), 0);
    assert_eq!(rig.request(4, 0, &[]), 2);
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let named = tempfile::NamedTempFile::new().unwrap();
    named.as_file().set_len(SECTORS * SECTOR).unwrap();
    let template = tempfile::tempfile().unwrap();
    template.write_all_at(&template_bytes(), 0).unwrap();
    let mut rig = rig_of(File::open(named.path()).unwrap(), template);
    assert_eq!(rig.write(5, &[9; 1024]), 1);
    assert_eq!(rig.read(0, SECTORS), fresh());
    // A file that shrinks is an error of what was in it, not zeros.
    let mut rig = self::rig();
    assert_eq!(rig.write(5, &[9; 1024]), 0);
    rig.disk.set_len(6 * 512).unwrap();
    assert_eq!(rig.request(0, 6, &[writable(HIGH, 512)]), 1);
    assert_eq!(rig.read(5, 1), [9; 512]);
}

#[test]
fn a_template_that_is_larger_than_its_disk_is_refused_and_nothing_of_a_disk_is_printed() {
    let cases = [(512, 512, true), (512, 0, true), (512, 513, false), (1024, 600, true)];
    for (disk_bytes, bytes, allowed) in cases {
        let [disk, template] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        disk.set_len(disk_bytes).unwrap();
        template.set_len(bytes).unwrap();
        let encrypted = Some(EncryptedSpec { template: Some(template) });
        let block = Block::new(BlockSpec { encrypted, ..BlockSpec::new(disk, false, "d") });
        match block {
            Ok(block) => assert!(allowed && format!("{block:?}").contains("Encrypted { template")),
            Err(error) => assert!(!allowed && matches!(error, BlockError::Encrypted { .. })),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_writes_and_reads_are_those_of_a_disk(
        steps in vec((any::<bool>(), 0..SECTORS, 1..200u64, any::<u8>()), 1..30),
    ) {
        let mut rig = rig();
        let mut model = fresh();
        for (is_write, sector, sectors, fill) in steps {
            let sectors = sectors.min(SECTORS - sector);
            let range = (sector * SECTOR) as usize..((sector + sectors) * SECTOR) as usize;
            if is_write {
                let data: Vec<u8> = (0..range.len()).map(|i| fill ^ (i / 512).to_le_bytes()[0]).collect();
                prop_assert_eq!(rig.write(sector, &data), 0);
                model[range].copy_from_slice(&data);
            } else {
                prop_assert_eq!(&rig.read(sector, sectors), &model[range]);
            }
        }
        prop_assert_eq!(rig.read(0, SECTORS), model);
    }
}
