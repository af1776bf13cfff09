//! Roles from URIs.

use super::*;

#[test]
fn each_holder_is_read_from_its_own_uri() {
    for holder in Holder::ALL {
        assert_eq!(Holder::from_uris([holder.uri().as_str()]), Ok(holder));
    }
}

#[test]
fn uris_of_others_are_passed_over() {
    let uris = ["spiffe://example/worker", "urn:votive:operator", "urn:votive:role:observer", ""];
    assert_eq!(Holder::from_uris(uris), Ok(Holder::Caller(Role::Observer)));
}

#[test]
fn a_certificate_names_exactly_one_role_that_exists() {
    let cases: [(&[&str], IdentityError); 10] = [
        (&[], IdentityError::NoRole),
        (&["urn:votive:role"], IdentityError::NoRole),
        (&["urn:votive:röle:x"], IdentityError::NoRole),
        (&["urn:votive:role:"], IdentityError::UnknownRole),
        (&["urn:votive:role:Operator"], IdentityError::UnknownRole),
        (&["URN:VOTIVE:ROLE:root"], IdentityError::UnknownRole),
        (&["urn:votive:role:operator\0"], IdentityError::UnknownRole),
        (&["urn:votive:role:operator,observer"], IdentityError::UnknownRole),
        (&["urn:votive:role:observer", "urn:votive:role:observer"], IdentityError::SeveralRoles),
        (&["urn:votive:role:observer", "URN:votive:role:operator"], IdentityError::SeveralRoles),
    ];
    for (uris, error) in cases {
        assert_eq!(Holder::from_uris(uris.iter().copied()), Err(error), "{uris:?}");
    }
}

#[test]
fn each_role_includes_those_below_it() {
    for (index, role) in Role::ALL.into_iter().enumerate() {
        for (other, needed) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role.includes(needed), index >= other, "{role} for {needed}");
        }
    }
}
