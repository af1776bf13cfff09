//! What can go wrong with a call.

use std::error::Error;
use std::io;

use tonic::{Code, Status};

use crate::address::Address;
use crate::refusal::Refusal;
use crate::tls::TlsError;

/// The longest chain of causes that is looked through; a real one has six.
const CAUSES_MAX: usize = 16;

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The own certificate or key is of no use.
    #[error(transparent)]
    Identity(#[from] TlsError),
    /// The name that the worker should have is none.
    #[error("the worker's name is not a DNS name or an IP address")]
    ServerName,
    /// Nobody answers at the address.
    #[error("cannot reach a worker at {address}: {reason}")]
    Unreachable {
        /// The address.
        address: Address,
        /// Why.
        reason: String,
    },
    /// We do not trust the worker, or do not speak the same TLS.
    #[error("the worker at {address} is not trusted: {reason}")]
    Untrusted {
        /// The address.
        address: Address,
        /// Why.
        reason: String,
    },
    /// The worker does not trust us.
    #[error(
        "the worker refused the connection: {reason} (is the certificate of its authority, not expired, and for a caller?)"
    )]
    Distrusted {
        /// The alert that it sent.
        reason: String,
    },
    /// The connection could not be made again; the call was not sent.
    #[error("cannot reach the worker: {reason}")]
    Unconnected {
        /// Why.
        reason: String,
    },
    /// The worker understood and said no.
    #[error("{}{}{}", .0.name, if .0.name.is_empty() { "" } else { ": " }, .0.message)]
    Refused(Refusal),
    /// The connection was lost; whether the call was carried out is not known.
    #[error("the connection to the worker was lost: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// It took too long; whether the call was carried out is not known.
    #[error("the worker did not answer in time")]
    Deadline,
    /// The answer is not what the protocol says.
    #[error("the worker broke the protocol: {what}")]
    Protocol {
        /// What is wrong with it.
        what: &'static str,
    },
    /// It was tried as often as was allowed.
    #[error("gave up after {attempts} attempts: {last}")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// What the last one gave.
        last: Box<ClientError>,
    },
}

impl ClientError {
    /// The refusal, if the worker said no.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::GaveUp { last, .. } => last.refusal(),
            _ => None,
        }
    }

    pub(crate) fn of_connect(address: &Address, error: &tonic::transport::Error) -> Self {
        let address = address.clone();
        if let Some(alert) = alert(error) {
            return Self::Distrusted { reason: alert };
        }
        match tls_error(error) {
            Some(error) => Self::Untrusted { address, reason: reason(error) },
            None => Self::Unreachable { address, reason: last_cause(error) },
        }
    }

    /// A status is the worker's word if it came from the worker. One that was made up on this side has a cause.
    pub(crate) fn of_status(status: Status) -> Self {
        if let Some(alert) = alert(&status) {
            return Self::Distrusted { reason: alert };
        }
        let refusal = Refusal::from_status(&status);
        if !refusal.name.is_empty() {
            return Self::Refused(refusal);
        }
        if causes(&status).any(|cause| cause.is::<tonic::ConnectError>()) {
            return Self::Unconnected { reason: last_cause(&status) };
        }
        match status.code() {
            _ if status.source().is_some() => Self::Lost { reason: last_cause(&status) },
            Code::DeadlineExceeded => Self::Deadline,
            Code::Unavailable => Self::Lost { reason: status.message().to_owned() },
            _ => Self::Refused(refusal),
        }
    }
}

/// What a TLS error says; of our own verdict on a certificate, our own words.
fn reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(own)) => {
            own.0.to_string()
        }
        error => error.to_string(),
    }
}

/// The TLS error that an error came from, if it did.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|cause| {
        // An I/O error's own source is its content's source: the content must be asked for.
        let inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
        inner.downcast_ref::<rustls::Error>()
    })
}

/// What rustls says before an alert's name. HTTP/2's layers pass errors on as text only.
const ALERT: &str = "received fatal alert: ";

/// The alert that the other side sent, if it was one about trust: others come from a connection that was damaged.
fn alert(error: &(dyn Error + 'static)) -> Option<String> {
    const ABOUT_TRUST: [&str; 11] = [
        "AccessDenied",
        "BadCertificate",
        "CertificateExpired",
        "CertificateRequired",
        "CertificateRevoked",
        "CertificateUnknown",
        "DecryptError",
        "HandshakeFailure",
        "NoApplicationProtocol",
        "ProtocolVersion",
        "UnknownCA",
    ];
    let name = match tls_error(error) {
        Some(rustls::Error::AlertReceived(alert)) => format!("{alert:?}"),
        _ => last_cause(error).split_once(ALERT)?.1.to_owned(),
    };
    ABOUT_TRUST.iter().any(|known| known.eq_ignore_ascii_case(&name)).then_some(name)
}

fn last_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
        .take(CAUSES_MAX)
}
