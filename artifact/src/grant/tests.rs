//! Grants that are stolen, old, altered, another's: each is refused, and the reason is the right one.

use super::{
    Grant, GrantError, Issuer, LIFETIME_MAX_S, Operation, Operations, SIGNATURE_BYTES, SKEW_S,
    Verifier,
};
use crate::digest::Digest;
use crate::manifest::RootId;

const NOW: u64 = 1_800_000_000;

fn grant() -> Grant {
    Grant {
        worker: "worker-1".to_owned(),
        identity: "arn:aws:lambda:r:1:function:f:7".to_owned(),
        manifest: Digest::of(b"manifest"),
        root: RootId([3; 16]),
        not_before_s: NOW,
        expires_s: NOW + 300,
        operations: Operations::LOAD,
    }
}

#[test]
fn a_grant_is_good_for_its_worker_and_its_time() {
    let issuer = Issuer::generate().unwrap();
    let verifier = Verifier::new(vec![issuer.public_key()]);
    let signed = issuer.sign(&grant()).unwrap();
    let verify = |worker, now| verifier.verify(&signed, worker, now);
    assert_eq!(verify("worker-1", NOW), Ok(grant()));
    assert_eq!(verify("worker-1", NOW + 299), Ok(grant()));
    assert_eq!(verify("worker-1", NOW + 300), Err(GrantError::Expired));
    assert_eq!(verify("worker-1", u64::MAX), Err(GrantError::Expired));
    assert_eq!(verify("worker-1", NOW - SKEW_S), Ok(grant()));
    assert_eq!(verify("worker-1", NOW - SKEW_S - 1), Err(GrantError::NotYet));
    assert_eq!(verify("worker-2", NOW), Err(GrantError::OtherWorker));
    assert_eq!(verify("", NOW), Err(GrantError::OtherWorker));
}

#[test]
fn it_allows_what_it_says() {
    let load = grant();
    let read = Grant { operations: Operations::READ, ..grant() };
    let (identity, manifest) = (load.identity.as_str(), load.manifest);
    for operation in [Operation::Read, Operation::Unwrap] {
        assert_eq!(load.check(operation, identity, &manifest), Ok(()));
        let other = Err(GrantError::OtherArtifact);
        assert_eq!(load.check(operation, "another", &manifest), other);
        assert_eq!(load.check(operation, identity, &Digest::of(b"")), other);
    }
    assert_eq!(read.check(Operation::Read, identity, &manifest), Ok(()));
    let refused = Err(GrantError::Operation);
    assert_eq!(read.check(Operation::Unwrap, identity, &manifest), refused);
}

#[test]
fn every_altered_bit_and_every_other_length_is_refused() {
    let issuer = Issuer::generate().unwrap();
    let verifier = Verifier::new(vec![issuer.public_key()]);
    let mut signed = issuer.sign(&grant()).unwrap();
    for bit in 0..signed.len() * 8 {
        signed[bit / 8] ^= 1 << (bit % 8);
        let refused = verifier.verify(&signed, "worker-1", NOW);
        assert_eq!(refused, Err(GrantError::Signature), "bit {bit}");
        signed[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..signed.len() {
        assert!(verifier.verify(&signed[..length], "worker-1", NOW).is_err(), "{length}");
    }
    signed.push(0);
    assert!(verifier.verify(&signed, "worker-1", NOW).is_err());
}

#[test]
fn issuers_that_are_not_trusted_sign_in_vain() {
    let (old, new, other) =
        (Issuer::generate().unwrap(), Issuer::generate().unwrap(), Issuer::generate().unwrap());
    let verifier = Verifier::new(vec![old.public_key(), new.public_key()]);
    let verify = |issuer: &Issuer| {
        verifier.verify(&issuer.sign(&grant()).unwrap(), "worker-1", NOW).map(drop)
    };
    assert_eq!(verify(&old), Ok(()));
    assert_eq!(verify(&new), Ok(()));
    assert_eq!(verify(&other), Err(GrantError::Signature));
    let nobody = Verifier::new(vec![]);
    let signed = old.sign(&grant()).unwrap();
    assert_eq!(nobody.verify(&signed, "worker-1", NOW), Err(GrantError::Signature));
}

#[test]
fn long_grants_are_neither_signed_nor_taken() {
    let issuer = Issuer::generate().unwrap();
    let verifier = Verifier::new(vec![issuer.public_key()]);
    let longest = Grant { expires_s: NOW + LIFETIME_MAX_S, ..grant() };
    assert!(verifier.verify(&issuer.sign(&longest).unwrap(), "worker-1", NOW).is_ok());
    let long = Grant { expires_s: NOW + LIFETIME_MAX_S + 1, ..grant() };
    for wrong in [
        long.clone(),
        Grant { expires_s: NOW, ..grant() },
        Grant { expires_s: NOW - 1, ..grant() },
        Grant { worker: String::new(), ..grant() },
        Grant { identity: "a b".to_owned(), ..grant() },
    ] {
        assert_eq!(issuer.sign(&wrong), None, "{wrong:?}");
    }
    // Signed all the same, by an issuer that is careless.
    let mut bytes = long.encode();
    bytes.extend(issuer.0.sign(&bytes).as_ref());
    assert_eq!(verifier.verify(&bytes, "worker-1", NOW), Err(GrantError::TooLong));
}

#[test]
fn what_is_signed_is_read_in_one_form_only() {
    let good = grant().encode();
    assert_eq!(Grant::parse(&good), Some(grant()));
    for (at, value) in [(72, 0), (72, 4), (73, 1), (78, 1), (74, 0), (74, 200), (76, 1), (7, 2)] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert_eq!(Grant::parse(&bytes), None, "byte {at} = {value}");
    }
    for length in 0..good.len() {
        assert_eq!(Grant::parse(&good[..length]), None, "{length}");
    }
    assert!(good.len() + SIGNATURE_BYTES <= super::GRANT_BYTES_MAX);
}
