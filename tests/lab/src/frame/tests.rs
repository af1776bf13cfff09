//! Tests of the frames between L1 and the host.

use super::{BODY_MAX, FrameError, Kind, read, write};

#[test]
fn long_bytes_come_back_in_several_frames() {
    let sent: Vec<u8> = (0..BODY_MAX + 10).map(|i| i as u8).collect();
    let mut wire = Vec::new();
    write(&mut wire, Kind::Stdout, &sent).unwrap();
    write(&mut wire, Kind::Alive, b"").unwrap();
    let mut wire = wire.as_slice();
    let (first, second) = (read(&mut wire).unwrap().unwrap(), read(&mut wire).unwrap().unwrap());
    assert_eq!((first.0, first.1.len()), (Kind::Stdout, BODY_MAX));
    assert_eq!([first.1, second.1].concat(), sent);
    assert_eq!(read(&mut wire).unwrap().unwrap(), (Kind::Alive, Vec::new()));
    assert!(read(&mut wire).unwrap().is_none());
}

#[test]
fn nonsense_is_refused_before_anything_is_allocated() {
    assert!(matches!(read(&mut [9, 0, 0, 0, 0].as_slice()), Err(FrameError::Kind(9))));
    let huge = [1, 255, 255, 255, 255];
    assert!(matches!(read(&mut huge.as_slice()), Err(FrameError::TooLong(u32::MAX))));
    assert!(matches!(read(&mut [1, 4, 0, 0, 0, 1].as_slice()), Err(FrameError::Read(_))));
}
