//! The bodies run on the stable toolchain, too.

use proptest::prelude::{any, proptest};

use super::{kernel, spec};

proptest! {
    #[test]
    fn arbitrary_bytes_find_nothing(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        kernel(&data);
        spec(&data);
    }
}

#[test]
fn a_full_command_line_keeps_every_cap() {
    spec(b"--kernel\nfd:3\n--vcpus\n32\n--memory-mib\n10752\n--disk\npath=fd:4\n--vsock\ncid=3,port=1:fd:5");
    spec(b"--kernel\nfd:3\n--initrd\nfd:3\n--vcpus\n32\n--memory-mib\n10752");
}
