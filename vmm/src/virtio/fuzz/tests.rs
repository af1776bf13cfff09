//! What fuzzing found, and random scripts on the stable toolchain: proptest prints the script that fails.

use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn a_broken_ring_with_a_host_program_at_the_door_comes_to_rest() {
    super::vsock(&[0x60, 0x28, 0x28, 0x27, 0xff, 0x2e, 0x21]);
}

#[test]
fn drivers_without_some_of_their_queues_leave_every_device_at_rest() {
    for how in 0xf0..=0xff {
        // Queue 0, a start, and a turn for the host; before that, which kind of step it is.
        let step = [0, 2, how, 0];
        super::rng(&step);
        super::block(&[&[1, 2], &step[..]].concat());
        super::vsock(&[&[0], &step[..]].concat());
        super::net(&[&[0], &step[..]].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_transport_survives_any_script(script in vec(any::<u8>(), 0..400)) {
        super::mmio(&script);
    }

    #[test]
    fn the_block_device_survives_any_script(script in vec(any::<u8>(), 0..400)) {
        super::block(&script);
    }

    #[test]
    fn the_entropy_device_survives_any_script(script in vec(any::<u8>(), 0..400)) {
        super::rng(&script);
    }

    #[test]
    fn the_network_device_survives_any_script(script in vec(any::<u8>(), 0..400)) {
        super::net(&script);
    }

    #[test]
    fn the_socket_device_survives_any_script(script in vec(any::<u8>(), 0..400)) {
        super::vsock(&script);
    }
}
