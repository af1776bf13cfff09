//! What KMS answers, and what each refusal means.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::HeaderMap;
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::keys::{DataKey, KeyError};
use crate::limits::WRAPPED_KEY_MAX;
use crate::seal::Secret;

/// How much of a refusal's text an error repeats, in characters. It is the other side's.
const SHOWN_CHARS: usize = 300;

/// Why KMS gave no key. It has nothing of a body that could have one.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// There are no credentials to ask with, or none that a request can be signed with.
    #[error("there are no AWS credentials")]
    Credentials(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be reached, or the connection broke.
    #[error("the request failed")]
    Http(#[source] Box<object_store::client::HttpError>),
    /// It takes too long.
    #[error("there was no whole answer within {} seconds", limit.as_secs_f64())]
    Slow {
        /// What it was given.
        limit: Duration,
    },
    /// Its answer is longer than any it has.
    #[error("the answer has more than {} bytes", super::ANSWER_BYTES_MAX)]
    TooLarge,
    /// Its answer is none of the protocol's.
    #[error("the answer cannot be read")]
    Malformed,
    /// It refused.
    #[error("{code} (status {status}): {message}")]
    Refused {
        /// The name of its exception.
        code: String,
        /// HTTP's status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// An artifact's key is none of those that this service was set up with.
    #[error("it is none of the keys that the key service was set up with")]
    OtherKey,
    /// What is to be unwrapped cannot have been wrapped by it.
    #[error("no wrapped key has that size")]
    Wrapped,
}

/// What KMS says about a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyState {
    /// Its ARN.
    pub arn: String,
    /// Whether it can be used.
    pub enabled: bool,
    /// In KMS's words: `Enabled`, `Disabled`, `PendingDeletion`, ...
    pub state: String,
}

impl KmsError {
    /// Whether the same call may succeed a moment later.
    pub(super) fn passes(&self) -> bool {
        match self {
            KmsError::Http(_) | KmsError::Slow { .. } => true,
            KmsError::Refused { code, status, .. } => {
                let passing = [
                    "DependencyTimeoutException",
                    "KMSInternalException",
                    "KeyUnavailableException",
                    "LimitExceededException",
                    "RequestLimitExceeded",
                    "ThrottlingException",
                ];
                *status >= 500 || *status == 429 || passing.contains(&code.as_str())
            }
            KmsError::Credentials(_)
            | KmsError::TooLarge
            | KmsError::Malformed
            | KmsError::OtherKey
            | KmsError::Wrapped => false,
        }
    }

    /// What it means for whoever wanted to use this key.
    pub(super) fn about(self, key: &str) -> KeyError {
        let key = key.to_owned();
        let code = match &self {
            KmsError::Refused { code, .. } => code.as_str(),
            KmsError::OtherKey | KmsError::Credentials(_) => "AccessDeniedException",
            KmsError::Wrapped => "InvalidCiphertextException",
            _ => "",
        };
        match code {
            "DisabledException" => KeyError::Disabled { key },
            // A key of other use than encryption is one whose state nobody can mend: neither is it there for this.
            "NotFoundException" | "InvalidArnException" => KeyError::NotFound { key },
            "KMSInvalidStateException" | "InvalidKeyUsageException" => {
                KeyError::InvalidState { key }
            }
            "InvalidCiphertextException" | "IncorrectKeyException" => {
                KeyError::InvalidCiphertext { key }
            }
            "AccessDenied"
            | "AccessDeniedException"
            | "ExpiredTokenException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "InvalidGrantTokenException"
            | "InvalidSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "NotAuthorizedException"
            | "OptInRequired"
            | "RequestExpired"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException" => {
                KeyError::AccessDenied { key, source: Some(Box::new(self)) }
            }
            _ if matches!(self, KmsError::Refused { status: 401 | 403, .. }) => {
                KeyError::AccessDenied { key, source: Some(Box::new(self)) }
            }
            _ => KeyError::Unavailable(Box::new(self)),
        }
    }
}

/// The answer to `GenerateDataKey`.
pub(super) fn data_key(body: &[u8]) -> Result<DataKey, KmsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        ciphertext_blob: String,
        plaintext: Plain,
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| KmsError::Malformed)?;
    let wrapped = STANDARD.decode(body.ciphertext_blob).map_err(|_| KmsError::Malformed)?;
    if !(1..=WRAPPED_KEY_MAX).contains(&wrapped.len()) {
        return Err(KmsError::Malformed);
    }
    Ok(DataKey { plain: body.plaintext.0, wrapped })
}

/// The answer to `Decrypt`.
pub(super) fn plain(body: &[u8]) -> Result<Secret, KmsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        plaintext: Plain,
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| KmsError::Malformed)?;
    Ok(body.plaintext.0)
}

/// The answer to `DescribeKey`.
pub(super) fn key_state(body: &[u8]) -> Result<KeyState, KmsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Body {
        key_metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Metadata {
        arn: String,
        key_state: String,
    }
    let body: Body = serde_json::from_slice(body).map_err(|_| KmsError::Malformed)?;
    let Metadata { arn, key_state } = body.key_metadata;
    let (arn, state) = (shown(&arn), shown(&key_state));
    Ok(KeyState { arn, enabled: state == "Enabled", state })
}

/// What an answer with another status than 200 says.
pub(super) fn refusal(status: u16, headers: &HeaderMap, body: &[u8]) -> KmsError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Body {
        __type: String,
        #[serde(alias = "Message")]
        message: String,
    }
    let mut body: Body = serde_json::from_slice(body).unwrap_or_default();
    if body.__type.is_empty() {
        let named = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok());
        body.__type = named.unwrap_or("no exception").to_owned();
    }
    // `com.amazonaws.kms#DisabledException`, or with `:http://...` behind it.
    let code = body.__type.rsplit('#').next().unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    let message = if body.message.is_empty() { "without a message" } else { &body.message };
    KmsError::Refused { code: shown(code), status, message: shown(message) }
}

/// A text of the other side's, as it may go to a terminal and a log.
fn shown(text: &str) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(SHOWN_CHARS).map(safe).collect()
}

/// A key of 32 bytes in Base64. It is decoded where it lies: no `String` of it is made.
struct Plain(Secret);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Plain, D::Error> {
        deserializer.deserialize_str(PlainVisitor)
    }
}

struct PlainVisitor;

impl Visitor<'_> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key of 32 bytes in Base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Plain, E> {
        // Room for what `decode_slice` wants for 44 characters; longer ones are refused.
        let mut bytes = Zeroizing::new([0; 33]);
        let length = STANDARD.decode_slice(text, bytes.as_mut_slice());
        let length = length.map_err(|_| E::custom("no key"))?;
        Secret::from_slice(&bytes[..length]).map(Plain).map_err(|_| E::custom("no key"))
    }
}
