//! Where a KMS is and which of its keys may be used.

use std::fmt;

use url::{Host, Url};

use crate::limits::NAME_TEXT_MAX;

/// The most keys of one service: a worker's customers, each with their own.
const KEYS_MAX: usize = 1000;

/// A KMS, as it is named: `[//HOST[:PORT]/]KEY[,KEY...][?region=REGION][&scheme=http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsSpec {
    /// The keys that may be used: identifiers, ARNs or `alias/NAME`. The first is used where none is named.
    pub(super) keys: Vec<String>,
    /// Where it is, if it is not where the region's is.
    endpoint: Option<Url>,
    region: Option<String>,
}

/// Why it cannot be told where a KMS is.
#[derive(Debug, thiserror::Error)]
pub(super) enum KmsPlaceError {
    /// Nothing says in which region.
    #[error(
        "nothing tells the region: add ?region=REGION, name the key by its ARN, or set AWS_REGION"
    )]
    NoRegion,
    /// A region whose name cannot be one.
    #[error("{0} is no region")]
    Region(String),
    /// What the environment gives as its address is none.
    #[error("{variable} is no endpoint: {reason}")]
    Endpoint {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl KmsSpec {
    /// Reads what comes after `awskms:`; says what is wrong with it.
    pub(in crate::keys) fn parse(text: &str) -> Result<KmsSpec, &'static str> {
        let (place, options) = text.split_once('?').map_or((text, None), |(a, b)| (a, Some(b)));
        let (host, keys) = match place.strip_prefix("//") {
            Some(rest) => rest.split_once('/').ok_or("a key comes after the host and a slash")?,
            None => ("", place),
        };
        let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
        if keys.len() > KEYS_MAX {
            return Err("it has more than 1000 keys");
        }
        if !keys.iter().all(|key| is_key(key)) {
            return Err("a key is an identifier, an ARN or alias/NAME");
        }
        let (mut region, mut scheme) = (None, "https");
        for option in options.unwrap_or_default().split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("region", value)) if is_region(value) => region = Some(value.to_owned()),
                Some(("region", _)) => {
                    return Err("a region is of small letters, digits and dashes");
                }
                Some(("scheme", value @ ("http" | "https"))) => scheme = value,
                _ => return Err("its options are region=REGION and scheme=http"),
            }
        }
        let endpoint = match (host, scheme) {
            ("", "http") => return Err("scheme=http needs a host of this machine"),
            ("", _) => None,
            (host, scheme) => Some(endpoint(&format!("{scheme}://{host}/"))?),
        };
        Ok(KmsSpec { keys, endpoint, region })
    }

    /// The keys that may be used.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// In which region it is, by its name, its first key that is an ARN, or the environment.
    pub(super) fn region(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<String, KmsPlaceError> {
        let of_key = || {
            let arn = self.keys.iter().find(|key| key.starts_with("arn:"))?;
            arn.split(':').nth(3).map(str::to_owned)
        };
        let region = self.region.clone().or_else(of_key);
        let region = region.or_else(|| environment("AWS_REGION"));
        let region = region.or_else(|| environment("AWS_DEFAULT_REGION"));
        match region {
            None => Err(KmsPlaceError::NoRegion),
            Some(region) if is_region(&region) => Ok(region),
            Some(region) => Err(KmsPlaceError::Region(region)),
        }
    }

    /// Where it is: where its name says, where the environment says, or where AWS has it.
    pub(super) fn endpoint(
        &self,
        region: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Url, KmsPlaceError> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        for variable in ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"] {
            if let Some(text) = environment(variable) {
                return endpoint(&text)
                    .map_err(|reason| KmsPlaceError::Endpoint { variable, reason });
            }
        }
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        endpoint(&format!("https://kms.{region}.amazonaws.com{china}/"))
            .map_err(|_| KmsPlaceError::Region(region.to_owned()))
    }
}

impl fmt::Display for KmsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("awskms:")?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, "//{}/", endpoint.authority())?;
        }
        f.write_str(&self.keys.join(","))?;
        let scheme = self.endpoint.as_ref().filter(|endpoint| endpoint.scheme() == "http");
        let options = [
            self.region.as_ref().map(|region| format!("region={region}")),
            scheme.map(|_| "scheme=http".to_owned()),
        ];
        let options: Vec<String> = options.into_iter().flatten().collect();
        if options.is_empty() { Ok(()) } else { write!(f, "?{}", options.join("&")) }
    }
}

/// An address that keys may be sent to: over TLS, or to this machine.
fn endpoint(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "its host cannot be one")?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("it has no host"),
    };
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => return Err("keys go in the clear to this machine alone: https is needed"),
        _ => return Err("https is needed"),
    }
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    if bare { Ok(url) } else { Err("it is a host and a port, and nothing else") }
}

/// What KMS takes as a key's identifier.
fn is_key(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b":/_-".contains(&byte);
    (1..=NAME_TEXT_MAX).contains(&text.len()) && text.bytes().all(good)
}

fn is_region(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(good)
}

#[cfg(test)]
mod tests;
