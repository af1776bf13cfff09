//! The body of the fuzz target `control_names`: everything here that is read by code of our own.

use rustls::pki_types::CertificateDer;

use crate::address::Address;
use crate::identity::{Holder, ROLE_PREFIX};
use crate::tls;

#[cfg(test)]
mod tests;

/// Reads `input` as a list of URIs, one a line, as an address, and as a certificate.
///
/// # Panics
/// Something is not as it should be.
pub fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let ours = |uri: &&str| {
        let head = uri.as_bytes().get(..ROLE_PREFIX.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(ROLE_PREFIX.as_bytes()))
    };
    if let Ok(holder) = Holder::from_uris(text.lines()) {
        let mut ours = text.lines().filter(ours);
        let uri = ours.next().expect("a role is somebody's");
        assert!(uri.ends_with(holder.name()) && ours.next().is_none());
    } else {
        let ours: Vec<_> = text.lines().filter(ours).collect();
        assert!(ours.len() != 1 || Holder::ALL.iter().all(|holder| holder.uri() != ours[0]));
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    let certificate = CertificateDer::from(input);
    // Whatever it is, it has a print and at most one holder.
    assert_eq!(tls::fingerprint(&certificate).len(), 16);
    if let Ok(holder) = tls::holder_of(&certificate) {
        assert!(Holder::ALL.contains(&holder));
    }
    let _ = tls::expiry(&certificate);
}
