//! Certificates for one machine: an authority of its own, a worker's certificate and one for each role.
//!
//! ```text
//! DIR/                    0700
//!   ca.pem                the authority's certificate
//!   ca.key                its private key, 0600; only `issue` needs it: keep it elsewhere if you can
//!   worker/               what the worker listens with
//!     ca.pem cert.pem key.pem
//!   operator/             what callers connect with, one folder a role
//!   orchestrator/
//!   observer/
//! ```
//!
//! Keys are ECDSA P-256, which every TLS library verifies. A fleet brings certificates of its own authority instead, laid out
//! as in `worker/`, each with its role's URI ([`Holder::uri`]) and the purpose of its side (`serverAuth`, `clientAuth`).

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::identity::{Holder, Role};
use crate::tls::{self, AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, TlsError};

#[cfg(test)]
mod tests;

/// The authority's private key, in the folder that `init` makes.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";

/// How long an authority is good: it outlives every machine it is made for.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long a certificate is good unless told otherwise.
pub const CERTIFICATE_DAYS_DEFAULT: u32 = 365;
/// The longest a certificate may be good; no longer than its authority.
pub const CERTIFICATE_DAYS_MAX: u32 = AUTHORITY_DAYS;

/// The names that a worker's certificate always has: a Unix socket is called "localhost", as gRPC does everywhere.
const WORKER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// The most further names of a worker; a certificate is sent in each handshake.
const NAMES_MAX: usize = 64;
/// Clocks differ: a certificate is good from a little before it was made.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Makes an authority, a worker's certificate and one for each role in a new folder.
///
/// `names` are the worker's further names, DNS or IP; `days` is how long the certificates are good. All or nothing: the
/// folder appears when it is complete.
///
/// # Errors
/// The folder exists and is not empty, or cannot be written; a name that is none; too many days.
pub fn init(
    folder: &Path,
    names: &[String],
    days: u32,
    now: SystemTime,
) -> Result<Vec<Issued>, KeysError> {
    let validity = Validity::new(days, now)?;
    let names = worker_names(names)?;
    let parent = parent_of(folder);
    fs::create_dir_all(&parent).map_err(|source| cannot_write(&parent, source))?;
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(KeysError::Exists { path: folder.to_owned() });
    }
    let scratch = tempfile::Builder::new()
        .prefix(".votive-keys-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir_in(&parent)
        .map_err(|source| cannot_write(&parent, source))?;
    let authority = Authority::make(now)?;
    let root = scratch.path();
    write_new(&root.join(AUTHORITY_FILE), authority.pem.as_bytes(), PUBLIC)?;
    write_new(&root.join(AUTHORITY_KEY_FILE), authority.key_pem().as_bytes(), PRIVATE)?;
    let mut issued = Vec::new();
    for holder in Holder::ALL {
        let names = if holder == Holder::Worker { names.as_slice() } else { &[] };
        let made = authority.issue(holder, names, &validity, &root.join(holder.name()))?;
        issued.push(Issued { folder: folder.join(holder.name()), ..made });
    }
    // Renaming onto a folder works if it is empty, so nothing that appeared meanwhile is lost.
    fs::rename(root, folder).map_err(|source| match source.kind() {
        std::io::ErrorKind::DirectoryNotEmpty => KeysError::Exists { path: folder.to_owned() },
        _ => cannot_write(folder, source),
    })?;
    Ok(issued)
}

/// Makes one more certificate with the authority in `folder`, in a new folder `into`: another caller's, or one to follow one
/// that expires.
///
/// # Errors
/// There is no authority in `folder`, or `into` exists, or as for [`init`].
pub fn issue(
    folder: &Path,
    holder: Holder,
    names: &[String],
    days: u32,
    into: &Path,
    now: SystemTime,
) -> Result<Issued, KeysError> {
    let validity = Validity::new(days, now)?;
    let names = match holder {
        Holder::Worker => worker_names(names)?,
        Holder::Caller(_) if names.is_empty() => Vec::new(),
        Holder::Caller(role) => return Err(KeysError::NamesOfCaller { role }),
    };
    Authority::read(folder)?.issue(holder, &names, &validity, into)
}

/// One certificate that was made, or is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Where it is.
    pub folder: PathBuf,
    /// Whose it is.
    pub holder: Holder,
    /// The names that a worker answers to.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub expires: i64,
    /// As logs name it.
    pub fingerprint: String,
}

/// Tells whose the certificate in a folder is and when it expires.
///
/// # Errors
/// There is none, or it names no role.
pub fn inspect(folder: &Path) -> Result<Issued, KeysError> {
    let chain = tls::certificates(&folder.join(CERTIFICATE_FILE))?;
    let certificate = chain.first().ok_or(crate::identity::IdentityError::Unreadable)?;
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| crate::identity::IdentityError::Unreadable)?;
    Ok(Issued {
        folder: folder.to_owned(),
        holder: tls::holder_of(certificate)?,
        names: parsed.valid_dns_names().map(str::to_owned).collect(),
        expires: tls::expiry(certificate)?,
        fingerprint: tls::fingerprint(certificate),
    })
}

/// From when to when.
struct Validity {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Validity {
    fn new(days: u32, now: SystemTime) -> Result<Self, KeysError> {
        if !(1..=CERTIFICATE_DAYS_MAX).contains(&days) {
            return Err(KeysError::Days { days });
        }
        let from = OffsetDateTime::from(now - CLOCK_SKEW);
        Ok(Self { from, to: OffsetDateTime::from(now + DAY * days) })
    }
}

/// An authority with its key.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn make(now: SystemTime) -> Result<Self, KeysError> {
        let validity = Validity::new(AUTHORITY_DAYS, now)?;
        let key = KeyPair::generate()?;
        // A name of its own: two authorities of one name would take each other's certificates for forged ones.
        let print = digest::digest(&digest::SHA256, key.public_key_raw());
        let print: String =
            print.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut params = params(&format!("votive authority {print}"), &validity);
        // It signs certificates of workers and callers, never of another authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn read(folder: &Path) -> Result<Self, KeysError> {
        let (certificate, key) = (folder.join(AUTHORITY_FILE), folder.join(AUTHORITY_KEY_FILE));
        let text = |path: &Path| -> Result<String, KeysError> {
            Ok(String::from_utf8_lossy(&tls::read_bounded(path)?).into_owned())
        };
        let pem = text(&certificate)?;
        let pair = KeyPair::from_pem(&text(&key)?)
            .map_err(|source| KeysError::Authority { path: key, source })?;
        let issuer = Issuer::from_ca_cert_pem(&pem, pair)
            .map_err(|source| KeysError::Authority { path: certificate, source })?;
        Ok(Self { issuer, pem })
    }

    fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    fn issue(
        &self,
        holder: Holder,
        names: &[SanType],
        validity: &Validity,
        into: &Path,
    ) -> Result<Issued, KeysError> {
        let mut params = params(&format!("votive {holder}"), validity);
        let uri = SanType::URI(holder.uri().try_into()?);
        params.subject_alt_names = std::iter::once(uri).chain(names.iter().cloned()).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match holder {
            Holder::Worker => ExtendedKeyUsagePurpose::ServerAuth,
            Holder::Caller(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::DirBuilder::new().mode(0o700).create(into).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => KeysError::Exists { path: into.to_owned() },
            _ => cannot_write(into, source),
        })?;
        write_new(&into.join(AUTHORITY_FILE), self.pem.as_bytes(), PUBLIC)?;
        write_new(&into.join(CERTIFICATE_FILE), certificate.pem().as_bytes(), PUBLIC)?;
        write_new(&into.join(KEY_FILE), key.serialize_pem().as_bytes(), PRIVATE)?;
        Ok(Issued {
            folder: into.to_owned(),
            holder,
            names: names.iter().filter_map(name_of).collect(),
            expires: validity.to.unix_timestamp(),
            fingerprint: tls::fingerprint(certificate.der()),
        })
    }
}

fn params(common_name: &str, validity: &Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = validity.from;
    params.not_after = validity.to;
    params
}

fn worker_names(further: &[String]) -> Result<Vec<SanType>, KeysError> {
    if further.len() > NAMES_MAX {
        return Err(KeysError::Names { count: further.len() });
    }
    let mut names: Vec<SanType> = Vec::new();
    for name in WORKER_NAMES.into_iter().chain(further.iter().map(String::as_str)) {
        let name = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(dns_name(name)?),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn dns_name(name: &str) -> Result<rcgen::string::Ia5String, KeysError> {
    let wrong = || KeysError::Name { name: name.to_owned() };
    rustls::pki_types::DnsName::try_from(name).map_err(|_| wrong())?;
    name.try_into().map_err(|_| wrong())
}

fn name_of(name: &SanType) -> Option<String> {
    match name {
        SanType::DnsName(name) => Some(name.to_string()),
        SanType::IpAddress(address) => Some(address.to_string()),
        _ => None,
    }
}

/// The folder that a folder is to be made in.
fn parent_of(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A certificate may be read by all, a private key by its owner.
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// Writes a file that must not exist yet, with its mode from the beginning, down to the disk.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeysError> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeysError::Exists { path: path.to_owned() },
        _ => cannot_write(path, source),
    })
}

fn cannot_write(path: &Path, source: std::io::Error) -> KeysError {
    KeysError::Write { path: path.to_owned(), source }
}

/// Why no keys were made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Keys are never overwritten.
    #[error("{path} exists; keys are not overwritten")]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// Something cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Too long or too short.
    #[error("{days} days: 1 to {CERTIFICATE_DAYS_MAX} days are allowed")]
    Days {
        /// As it was given.
        days: u32,
    },
    /// Not a name.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    Name {
        /// As it was given.
        name: String,
    },
    /// Too many names.
    #[error("{count} names: at most {NAMES_MAX} are allowed")]
    Names {
        /// How many.
        count: usize,
    },
    /// Only a worker's certificate has names.
    #[error("a certificate for {role} has no names")]
    NamesOfCaller {
        /// Whose it would have been.
        role: Role,
    },
    /// The authority's files are not what they should be.
    #[error("the authority in {path} cannot be used")]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A file cannot be read or holds no certificate.
    #[error(transparent)]
    Read(#[from] TlsError),
    /// A certificate is not one of the channel's.
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
}
