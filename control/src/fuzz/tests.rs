//! The fuzz target's body on the stable toolchain.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn any_bytes_are_read(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        names(&input);
    }

    #[test]
    fn texts_that_look_right_are_read(
        input in "(urn:votive:role:|URN:votive:ROLE:|unix:|https://)[a-z:/\\[\\]0-9]{0,24}(\nurn:votive:role:(operator|worker))?",
    ) {
        names(input.as_bytes());
    }
}

#[test]
fn a_certificate_is_read_however_it_is_cut_or_changed() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("keys");
    crate::keys::init(&folder, &[], 30, std::time::SystemTime::now()).unwrap();
    let chain = tls::certificates(&folder.join("operator").join(tls::CERTIFICATE_FILE)).unwrap();
    let whole = chain[0].as_ref();
    for end in 0..=whole.len() {
        names(&whole[..end]);
    }
    for at in 0..whole.len() {
        let mut changed = whole.to_vec();
        changed[at] ^= 0x81;
        names(&changed);
    }
}
