//! TLS as the control channel has it: version 1.3 with `TLS_AES_256_GCM_SHA384` and nothing else, a certificate from both
//! sides, no early data, no resumption.
//!
//! Sessions are not resumed: a ticket would carry a caller's identity past the expiry of its certificate, and a connection is
//! kept for many calls anyway. The key exchange is aws-lc-rs's choice, hybrid post-quantum first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, version};

use crate::identity::{Holder, IdentityError, Role};
use crate::tls::verifier::{CallerVerifier, WorkerVerifier};

#[cfg(test)]
mod tests;
mod verifier;

/// What HTTP/2 is called in the handshake.
pub const ALPN: &[u8] = b"h2";

/// The one cipher suite.
pub const SUITE: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;

/// The certificate authorities that are trusted, in an identity's folder.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// The certificate with the chain below the authority, in an identity's folder.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// The private key, in an identity's folder.
pub const KEY_FILE: &str = "key.pem";

/// A certificate file longer than this is none of ours; it is not read.
const FILE_MAX: u64 = 1024 * 1024;

/// What one side needs for a handshake: whom it trusts, and who it is.
#[derive(Debug)]
pub struct Identity {
    authorities: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder.
    ///
    /// # Errors
    /// A file that is missing or not what it should be, or a private key that others may read.
    pub fn read(folder: &Path) -> Result<Self, TlsError> {
        let authorities = certificates(&folder.join(AUTHORITY_FILE))?;
        let chain = certificates(&folder.join(CERTIFICATE_FILE))?;
        let path = folder.join(KEY_FILE);
        check_private(&path)?;
        let pem = read_bounded(&path)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| TlsError::NoPem { path, what: "private key" })?;
        let mut store = RootCertStore::empty();
        for authority in authorities {
            store.add(authority).map_err(TlsError::Authority)?;
        }
        Ok(Self { authorities: store, chain, key })
    }

    /// The certificate itself.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// The server's side. A caller needs a certificate of one of our authorities with a role for callers.
    ///
    /// # Errors
    /// A key that does not fit the certificate, no authority, or a certificate that is not a worker's.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.check_holder(|holder| holder == Holder::Worker)?;
        let provider = provider();
        let chain = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.authorities.clone()),
            Arc::clone(&provider),
        )
        .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(CallerVerifier::new(chain)))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }

    /// The caller's side. The worker needs a certificate of one of our authorities with its name and the worker's role.
    ///
    /// # Errors
    /// A key that does not fit the certificate, no authority, or a certificate that is not a caller's.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.check_holder(|holder| holder != Holder::Worker)?;
        let provider = provider();
        let chain = WebPkiServerVerifier::builder_with_provider(
            Arc::new(self.authorities.clone()),
            Arc::clone(&provider),
        )
        .build()?;
        // "Dangerous" is rustls's word for any verifier of one's own; this one asks for more than rustls's, never for less.
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(WorkerVerifier::new(chain)))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }

    /// Own certificates are checked before anything listens: the other side's refusal would say less.
    fn check_holder(&self, right: impl Fn(Holder) -> bool) -> Result<(), TlsError> {
        let certificate = self.certificate().ok_or(IdentityError::Unreadable)?;
        let found = holder_of(certificate)?;
        if right(found) { Ok(()) } else { Err(IdentityError::WrongSide { found }.into()) }
    }
}

/// Who is at the other end of a server's connection, by the certificate that the handshake has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What it may do.
    pub role: Role,
    /// The first 8 bytes of the certificate's SHA-256, hexadecimal: `openssl x509 -fingerprint -sha256` tells whose it is.
    pub fingerprint: String,
    /// When its certificate expires, in seconds since 1970.
    pub expires: i64,
}

impl Caller {
    /// Reads the caller's certificate.
    ///
    /// # Errors
    /// A certificate without a caller's role, which a verified one cannot be.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        match holder_of(certificate)? {
            Holder::Caller(role) => Ok(Self {
                role,
                fingerprint: fingerprint(certificate),
                expires: expiry(certificate)?,
            }),
            found @ Holder::Worker => Err(IdentityError::WrongSide { found }),
        }
    }
}

/// The role that a certificate names. Who vouches for the certificate is another question.
///
/// # Errors
/// None, an unknown one, several, or no certificate at all.
pub fn holder_of(certificate: &CertificateDer<'_>) -> Result<Holder, IdentityError> {
    let parsed =
        webpki::EndEntityCert::try_from(certificate).map_err(|_| IdentityError::Unreadable)?;
    Holder::from_uris(parsed.valid_uri_names())
}

/// When a certificate expires, in seconds since 1970.
///
/// # Errors
/// No certificate.
pub fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, IdentityError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| IdentityError::Unreadable)?;
    Ok(parsed.validity().not_after.timestamp())
}

/// The first 8 bytes of a certificate's SHA-256, hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// aws-lc-rs with one cipher suite.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = provider::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == SUITE);
    Arc::new(provider)
}

/// Every certificate in a PEM file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_bounded(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(TlsError::NoPem { path: path.to_owned(), what: "certificate" }),
    }
}

/// A private key that others may read is no longer private.
fn check_private(path: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::MetadataExt as _;
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(TlsError::NotPrivate { path: path.to_owned(), mode })
}

pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let unreadable = |source| TlsError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Why an identity is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("there is no {what} as PEM in {path}")]
    NoPem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Others may read the private key.
    #[error("others may read the private key {path} (mode {mode:03o}); make it 600")]
    NotPrivate {
        /// Which.
        path: PathBuf,
        /// How it is.
        mode: u32,
    },
    /// A certificate authority's certificate cannot be used.
    #[error("a certificate of {AUTHORITY_FILE} is of no use")]
    Authority(#[source] rustls::Error),
    /// There is no authority to verify the other side by.
    #[error("the other side cannot be verified")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// Certificate and key do not fit together, or are of a kind that is not known.
    #[error("certificate and private key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The certificate is not for this side.
    #[error("the own certificate cannot be used")]
    Identity(#[from] IdentityError),
}
