//! XTS-AES-256 against the published vectors, and where its keys are.

use super::*;

/// Keys of vectors 10 to 14 of IEEE 1619-2007, annex B: the digits of e and of pi.
const DATA_KEY: &str = "2718281828459045235360287471352662497757247093699959574966967627";
const TWEAK_KEY: &str = "3141592653589793238462643383279502884197169399375105820974944592";

/// Vector 10: unit 0xff of the bytes 0 to 255, twice.
const VECTOR_10: &str = "\
    1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44\
    680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0\
    c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d\
    e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f\
    93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6\
    dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1\
    505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b\
    11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac\
    6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493\
    c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa\
    773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151";

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn published() -> Xts {
    Xts::with(&[DATA_KEY, TWEAK_KEY].map(|key| bytes(key).try_into().unwrap()))
}

#[test]
fn the_published_vector_is_met_both_ways() {
    let plain: [u8; UNIT_BYTES] = std::array::from_fn(|i| i.to_le_bytes()[0]);
    let mut unit = plain;
    published().encrypt(&mut unit, 0xff);
    assert_eq!(unit[..], bytes(VECTOR_10));
    published().decrypt(&mut unit, 0xff);
    assert_eq!(unit, plain);
}

#[test]
fn the_tweak_is_doubled_in_its_field() {
    assert_eq!(times_x(1), 2);
    assert_eq!(times_x(1 << 127), 0x87);
    assert_eq!(times_x(u128::MAX), (u128::MAX - 1) ^ 0x87);
}

#[test]
fn units_keys_and_blocks_all_make_a_difference() {
    let (one, other) = (Xts::draw().unwrap(), Xts::draw().unwrap());
    let encrypted = |xts: &Xts, number| {
        let mut unit = [0; UNIT_BYTES];
        xts.encrypt(&mut unit, number);
        unit
    };
    let mut blocks: Vec<[u8; 16]> = Vec::new();
    for (xts, number) in [(&one, 0), (&one, 1), (&one, u64::MAX), (&other, 0), (&other, 1)] {
        blocks.extend(encrypted(xts, number).as_chunks().0);
    }
    let all = blocks.len();
    blocks.sort_unstable();
    blocks.dedup();
    assert_eq!((blocks.len(), all), (160, 160));
}

#[test]
fn keys_are_in_no_core_dump_and_in_nothing_printed() {
    let xts = Xts::draw().unwrap();
    assert_eq!(format!("{xts:?}"), "Xts");
    let at = std::ptr::from_ref::<Xts>(&xts) as usize;
    assert_eq!((at % 4096, size_of::<Xts>() % 4096), (0, 0));
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut here = false;
    let flags = maps.lines().find_map(|line| {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some((from, to)) = range {
            let [from, to] = [from, to].map(|digits| usize::from_str_radix(digits, 16).unwrap());
            here = (from..to).contains(&at);
        }
        line.strip_prefix("VmFlags:").filter(|_| here)
    });
    assert!(flags.unwrap().split_whitespace().any(|flag| flag == "dd"), "{flags:?}");
}
