//! What the channel has served and refused, counted by reason and told in the log.
//!
//! The log is bounded: whoever sends us rubbish a thousand times a second gets a few lines and a count.

use std::fmt::Display;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use votive_control::identity::IdentityError;

use crate::clock::Moment;
use crate::control::admission::Peer;
use crate::metrics::{
    CONTROL_CALLS, CONTROL_CONNECTIONS, CONTROL_CONNECTIONS_ACCEPTED, CONTROL_CONNECTIONS_REFUSED,
};

#[cfg(test)]
mod tests;

/// Refusals that are told in the log in one [`WINDOW`]; all are counted.
const LINES_MAX: u64 = 20;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

macro_rules! cuts {
    ($($variant:ident $name:literal $help:literal;)*) => {
        /// Why a connection was refused or cut, or a call was refused before anything handled it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cut {
            $(#[doc = $help] $variant,)*
        }

        impl Cut {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in metrics and logs.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

cuts! {
    AcceptFailed "accept-failed" "The kernel gave no connection: out of descriptors or memory.";
    TooManyHandshakes "too-many-handshakes" "The oldest handshake had to make room.";
    TooManyConnections "too-many-connections" "There are as many connections as there may be.";
    TooManyOfPeer "too-many-connections-of-peer" "The peer has as many connections as it may.";
    HandshakeTimeout "handshake-timeout" "The handshake took too long.";
    HandshakeCut "handshake-cut" "The peer went away during the handshake.";
    NotTls "not-tls" "The peer does not speak TLS.";
    TlsVersion "tls-version" "The peer does not speak TLS 1.3.";
    CipherSuite "cipher-suite" "The peer does not offer the one cipher suite.";
    TlsIncompatible "tls-incompatible" "The peer lacks something else that is needed: a group, a signature.";
    TlsViolation "tls-violation" "The peer broke the protocol of the handshake.";
    TlsAlert "tls-alert" "The peer refused us.";
    Alpn "alpn" "The peer does not ask for HTTP/2.";
    NoCertificate "no-certificate" "The peer sent no certificate.";
    CertificateExpired "certificate-expired" "The peer's certificate has expired.";
    CertificateNotYet "certificate-not-yet-valid" "The peer's certificate is not good yet.";
    CertificateAuthority "certificate-authority" "The peer's certificate is of another authority.";
    CertificatePurpose "certificate-purpose" "The peer's certificate is not for callers.";
    CertificateRole "certificate-role" "The peer's certificate names no role for callers.";
    Certificate "certificate" "The peer's certificate is wrong in another way.";
    Tampered "tampered" "A record was changed on its way: the connection ended.";
    Http2 "http2" "The peer broke HTTP/2 or one of its limits.";
    Lost "lost" "The connection was lost.";
    Idle "idle" "There was no call for too long.";
    Unread "unread" "The peer did not read an answer for too long.";
    Aged "aged" "The connection was told to end and did not.";
    Role "role" "The call needs another role.";
    UnknownCall "unknown-call" "There is no such call.";
    BadDeadline "bad-deadline" "The call's deadline is none.";
    MessageTooLarge "message-too-large" "A message is longer than allowed.";
    SlowRequest "slow-request" "The request did not come in time.";
    PayloadsTooLarge "payloads-too-large" "Too many bytes of payloads are being received at once.";
}

/// The counts.
#[derive(Debug)]
pub struct Tally {
    cuts: Box<[AtomicU64]>,
    accepted: AtomicU64,
    open: AtomicU64,
    lines: Mutex<Lines>,
}

/// Lines told in the window that began last.
#[derive(Debug, Default)]
struct Lines {
    began: Option<Moment>,
    told: u64,
    left_out: u64,
}

impl Lines {
    /// Whether one more line is told now; how many were left out before it, if it is the first of its window.
    fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.began.is_none_or(|began| now.since(began) >= WINDOW) {
            let left_out = std::mem::take(&mut self.left_out);
            *self = Self { began: Some(now), told: 1, left_out: 0 };
            return Some(left_out);
        }
        if self.told < LINES_MAX {
            self.told += 1;
            return Some(0);
        }
        self.left_out += 1;
        None
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            cuts: Cut::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            lines: Mutex::new(Lines::default()),
        }
    }
}

impl Tally {
    /// How often something was refused or cut for this reason.
    #[must_use]
    pub fn count(&self, cut: Cut) -> u64 {
        self.cuts.get(cut as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Connections whose peer proved who it is.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Those of them that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Something was refused or cut. `why` is told and must hold nothing that a caller sent.
    pub(crate) fn cut(&self, cut: Cut, peer: Option<Peer>, why: &dyn Display) {
        if let Some(count) = self.cuts.get(cut as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        counter!(CONTROL_CONNECTIONS_REFUSED, "reason" => cut.name()).increment(1);
        let admitted =
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(Moment::now());
        let Some(left_out) = admitted else { return };
        if left_out > 0 {
            tracing::warn!(left_out, "more was refused on the control channel than is told");
        }
        let peer = peer.map(tracing::field::display);
        tracing::warn!(reason = cut.name(), peer, why = %why, "refused on the control channel");
    }

    pub(crate) fn opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        counter!(CONTROL_CONNECTIONS_ACCEPTED).increment(1);
        gauge!(CONTROL_CONNECTIONS).increment(1.0);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        gauge!(CONTROL_CONNECTIONS).decrement(1.0);
    }

    /// A call has ended with a gRPC status, or without one (`None`) if its caller left.
    pub(crate) fn called(&self, method: &'static str, code: Option<i32>) {
        counter!(CONTROL_CALLS, "method" => method, "code" => code_name(code)).increment(1);
    }
}

/// A status code's name, as gRPC's documents write it.
fn code_name(code: Option<i32>) -> &'static str {
    use tonic::Code;
    let Some(code) = code else { return "left" };
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The reason that a handshake's error is.
pub(crate) fn cut_of_handshake(error: &std::io::Error) -> Cut {
    use rustls::{CertificateError, Error, PeerIncompatible};
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Cut::HandshakeCut;
    };
    match error {
        Error::InvalidMessage(_) => Cut::NotTls,
        Error::PeerIncompatible(what) => match what {
            PeerIncompatible::NoCipherSuitesInCommon => Cut::CipherSuite,
            // An extension that every peer since TLS 1.2 sends.
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Cut::TlsVersion,
            _ => Cut::TlsIncompatible,
        },
        Error::NoCertificatesPresented => Cut::NoCertificate,
        Error::InvalidCertificate(what) => match what {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Cut::CertificateExpired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Cut::CertificateNotYet
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Cut::CertificateAuthority
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Cut::CertificatePurpose
            }
            CertificateError::Other(other) if other.0.is::<IdentityError>() => Cut::CertificateRole,
            _ => Cut::Certificate,
        },
        Error::NoApplicationProtocol => Cut::Alpn,
        Error::AlertReceived(_) => Cut::TlsAlert,
        _ => Cut::TlsViolation,
    }
}
