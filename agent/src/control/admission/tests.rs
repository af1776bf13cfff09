//! Who is let in and who has to go.

use super::*;

const LIMITS: AdmissionLimits = AdmissionLimits {
    handshakes: 4,
    handshakes_per_peer: 2,
    connections: 3,
    connections_per_peer: 2,
};

fn user(id: u32) -> Peer {
    Peer::User(id)
}

#[test]
fn the_oldest_handshake_of_a_greedy_peer_makes_room() {
    let mut admission = Admission::new(LIMITS);
    assert_eq!(admission.arrive(user(1), 'a').evicted, None);
    assert_eq!(admission.arrive(user(2), 'b').evicted, None);
    assert_eq!(admission.arrive(user(2), 'c').evicted, None);
    assert_eq!(admission.arrive(user(2), 'd').evicted, Some('b'));
    assert_eq!(admission.arrive(user(2), 'e').evicted, Some('c'));
    assert_eq!(admission.handshakes(), 3);
}

#[test]
fn the_oldest_handshake_of_all_makes_room_when_nobody_is_greedy() {
    let mut admission = Admission::new(LIMITS);
    for (peer, name) in [(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')] {
        assert_eq!(admission.arrive(user(peer), name).evicted, None);
    }
    assert_eq!(admission.arrive(user(5), 'e').evicted, Some('a'));
    assert_eq!(admission.handshakes(), 4);
}

#[test]
fn connections_are_refused_beyond_their_limits_and_make_room_when_they_leave() {
    let mut admission = Admission::new(LIMITS);
    let mut establish = |peer| {
        let id = admission.arrive(user(peer), ()).id;
        (id, admission.establish(id, user(peer)))
    };
    let (first, made) = establish(1);
    assert_eq!(made, Ok(()));
    assert_eq!(establish(1).1, Ok(()));
    assert_eq!(establish(1).1, Err(Full::Peer));
    assert_eq!(establish(2).1, Ok(()));
    assert_eq!(establish(2).1, Err(Full::All));
    assert_eq!((admission.handshakes(), admission.connections()), (0, 3));
    admission.leave(first);
    admission.leave(first);
    let id = admission.arrive(user(1), ()).id;
    assert_eq!(admission.establish(id, user(1)), Ok(()));
}

#[test]
fn nothing_is_left_of_peers_that_are_gone() {
    let mut admission = Admission::new(LIMITS);
    for round in 0..1000 {
        let id = admission.arrive(user(round), ()).id;
        if round % 2 == 0 {
            admission.establish(id, user(round)).unwrap();
        }
        admission.leave(id);
    }
    assert!(admission.handshakes.is_empty());
    assert!(admission.connections.is_empty());
    assert!(admission.per_peer.is_empty());
}

#[test]
fn one_host_is_one_peer_however_many_addresses_it_has() {
    let at = |text: &str| Peer::at(text.parse().unwrap());
    assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
    assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    assert_ne!(at("10.0.0.2"), at("10.0.0.1"));
    assert_eq!(at("2001:db8::1").to_string(), "2001:db8::/64");
}
