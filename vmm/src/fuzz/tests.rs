//! The bodies run on the stable toolchain, too.

use proptest::prelude::{any, proptest};

use super::{assignment, kernel, spec};

proptest! {
    #[test]
    fn arbitrary_bytes_find_nothing(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        kernel(&data);
        spec(&data);
        assignment(&data);
    }
}

#[test]
fn a_full_command_line_keeps_every_cap() {
    spec(b"--kernel\nfd:3\n--vcpus\n32\n--memory-mib\n10752\n--disk\npath=fd:4\n--vsock\ncid=3,port=1:fd:5");
    spec(b"--kernel\nfd:3\n--initrd\nfd:3\n--vcpus\n32\n--memory-mib\n10752");
}

#[test]
fn an_assignment_keeps_every_cap() {
    for text in [
        &b"--kernel\0fd:0\0--disk\0path=fd:1\0--vsock\0cid=3,port=1:fd:3\0--rng\0"[..],
        b"--kernel\0fd:0\0--disk\0path=/dev/zero",
        b"--kernel\0fd:4",
    ] {
        let bytes = u32::try_from(text.len()).unwrap().to_le_bytes();
        assignment(&[b"a", &bytes[..], text].concat());
    }
}
