//! AWS KMS's API: data keys that a key in KMS wraps, made and unwrapped by requests of its own protocol.
//!
//! Requests are signed by what signs the store's (`object_store`: Signature Version 4 and the credentials of the environment,
//! of a web identity, a container or a machine) and go over its HTTP client and TLS. What is added is three calls of JSON. They
//! are bounded in time, size and number of tries, whatever the other side does.
//!
//! Only the keys that the service was set up with are used: an artifact's record lies in a store, and whoever can write there
//! could name a key of their own, which KMS would gladly unwrap with.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object_store::ClientOptions;
use object_store::RetryConfig;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector as _, HttpRequest, ReqwestConnector};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt as _;
use url::Url;
use zeroize::{Zeroize as _, Zeroizing};

use crate::keys::{Answer, Context, DataKey, KeyError, KeyService, OpenKeysError};
use crate::limits::WRAPPED_KEY_MAX;
use crate::seal::Secret;

pub use answer::{KeyState, KmsError};
pub use spec::KmsSpec;

mod answer;
mod spec;

/// The most bytes of an answer. A data key's has less than 3 KiB: the longest wrapped key and name in Base64 and JSON.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// How often a call is tried: what passes by itself has passed by then, and more would only burden a service in trouble.
const TRIES: u32 = 3;

/// How long calls wait. A start of an environment waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsLimits {
    /// For a connection: within a region it takes some milliseconds.
    pub connect: Duration,
    /// For one try, from its first byte to the last of its answer. KMS answers within some ten milliseconds.
    pub attempt: Duration,
    /// For a call with all its tries, and the credentials that it needs first.
    pub call: Duration,
    /// Before the second try; twice that before the third. A random part of up to all of it is taken off.
    pub pause: Duration,
}

impl Default for KmsLimits {
    fn default() -> KmsLimits {
        KmsLimits {
            connect: Duration::from_secs(2),
            attempt: Duration::from_secs(4),
            call: Duration::from_secs(10),
            pause: Duration::from_millis(200),
        }
    }
}

/// AWS KMS, as a key service.
pub struct AwsKms {
    keys: Vec<String>,
    endpoint: Url,
    region: String,
    client: HttpClient,
    credentials: AwsCredentialProvider,
    limits: KmsLimits,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GenerateDataKey<'a> {
    key_id: &'a str,
    key_spec: &'a str,
    encryption_context: &'a Context,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypt<'a> {
    key_id: &'a str,
    ciphertext_blob: String,
    encryption_context: &'a Context,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeKey<'a> {
    key_id: &'a str,
}

impl AwsKms {
    /// The service that `spec` names, with the environment's credentials. Nobody is asked for anything yet.
    ///
    /// # Errors
    /// [`OpenKeysError::Client`]
    pub fn open(spec: KmsSpec) -> Result<AwsKms, OpenKeysError> {
        let name = spec.to_string();
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let client = |source: Box<dyn std::error::Error + Send + Sync>| OpenKeysError::Client {
            spec: name.clone(),
            source,
        };
        let region = spec.region(environment).map_err(|error| client(error.into()))?;
        let endpoint = spec.endpoint(&region, environment).map_err(|error| client(error.into()))?;
        let limits = KmsLimits::default();
        // What has credentials for a bucket in this region has them for KMS: no request goes to any bucket.
        let bucket = AmazonS3Builder::from_env()
            .with_bucket_name("none")
            .with_region(&region)
            .with_retry(RetryConfig {
                max_retries: 2,
                retry_timeout: limits.call,
                ..RetryConfig::default()
            })
            .build()
            .map_err(|error| client(error.into()))?;
        // A try's limit is ours, and may be changed: the client has none.
        let options = ClientOptions::new()
            .with_allow_http(endpoint.scheme() == "http")
            .with_http1_only()
            .with_connect_timeout(limits.connect)
            .with_timeout_disabled();
        let http = ReqwestConnector::default().connect(&options);
        Ok(AwsKms {
            keys: spec.keys,
            endpoint,
            region,
            client: http.map_err(|error| client(error.into()))?,
            credentials: bucket.credentials().clone(),
            limits,
        })
    }

    /// As it is, with other limits. That of a connection is never longer than it was.
    #[must_use]
    pub fn with_limits(self, limits: KmsLimits) -> AwsKms {
        AwsKms { limits, ..self }
    }

    /// As it is, with credentials of another source than the environment.
    #[must_use]
    pub fn with_credentials(self, credentials: AwsCredentialProvider) -> AwsKms {
        AwsKms { credentials, ..self }
    }

    /// The keys that may be used; the first one is used where none is named.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// What KMS says about a key.
    ///
    /// # Errors
    /// [`KeyError`]
    pub async fn describe(&self, key: &str) -> Result<KeyState, KeyError> {
        let body = self.call(key, "DescribeKey", &DescribeKey { key_id: key }).await;
        body.and_then(|body| answer::key_state(&body)).map_err(|error| error.about(key))
    }

    async fn generate_now(&self, key: &str, context: &Context) -> Result<DataKey, KmsError> {
        let request =
            GenerateDataKey { key_id: key, key_spec: "AES_256", encryption_context: context };
        answer::data_key(&self.call(key, "GenerateDataKey", &request).await?)
    }

    async fn unwrap_now(
        &self,
        key: &str,
        wrapped: &[u8],
        context: &Context,
    ) -> Result<Secret, KmsError> {
        if !(1..=WRAPPED_KEY_MAX).contains(&wrapped.len()) {
            return Err(KmsError::Wrapped);
        }
        let ciphertext_blob = STANDARD.encode(wrapped);
        let request = Decrypt { key_id: key, ciphertext_blob, encryption_context: context };
        answer::plain(&self.call(key, "Decrypt", &request).await?)
    }

    /// Makes a call, and gives the answer's body.
    async fn call(
        &self,
        key: &str,
        operation: &str,
        request: &impl Serialize,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        if !self.keys.iter().any(|one| one == key) {
            return Err(KmsError::OtherKey);
        }
        let body = serde_json::to_vec(request).map_err(|_| KmsError::Malformed)?;
        let slow = |_| KmsError::Slow { limit: self.limits.call };
        timeout(self.limits.call, self.tries(operation, &body)).await.map_err(slow)?
    }

    async fn tries(&self, operation: &str, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let mut pause = self.limits.pause;
        for _ in 1..TRIES {
            match self.attempt(operation, body).await {
                Err(error) if error.passes() => {}
                ended => return ended,
            }
            sleep(jittered(pause)).await;
            pause *= 2;
        }
        self.attempt(operation, body).await
    }

    async fn attempt(&self, operation: &str, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        // The credentials have the whole call's time: they may come from several requests, and are kept for the next call.
        let credential = self
            .credentials
            .get_credential()
            .await
            .map_err(|error| KmsError::Credentials(error.into()))?;
        let mut request = HttpRequest::new(body.to_vec().into());
        *request.method_mut() = "POST".parse().map_err(|_| KmsError::Malformed)?;
        *request.uri_mut() = self.endpoint.as_str().parse().map_err(|_| KmsError::Malformed)?;
        let target = format!("TrentService.{operation}");
        for (name, value) in
            [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())]
        {
            let value = value.parse().map_err(|_| KmsError::Malformed)?;
            request.headers_mut().insert(name, value);
        }
        let authorizer = AwsAuthorizer::new(&credential, "kms", &self.region);
        let signed = authorizer.try_authorize(&mut request, None);
        signed.map_err(|error| KmsError::Credentials(error.into()))?;
        let slow = |_| KmsError::Slow { limit: self.limits.attempt };
        timeout(self.limits.attempt, self.exchange(request)).await.map_err(slow)?
    }

    /// Sends a request and reads its answer: the body of a good one, the refusal of another.
    async fn exchange(&self, request: HttpRequest) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let failed = |error| KmsError::Http(Box::new(error));
        let response = self.client.execute(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        // All of it is there from the beginning: a copy that grows would leave pieces of a key behind.
        let mut whole = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
        let mut pieces = body.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            if whole.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(KmsError::TooLarge);
            }
            whole.extend_from_slice(&piece);
            // The client's own copy, if nobody else holds it.
            if let Ok(mut piece) = piece.try_into_mut() {
                piece.as_mut().zeroize();
            }
        }
        match head.status.as_u16() {
            200 => Ok(whole),
            status => Err(answer::refusal(status, &head.headers, &whole)),
        }
    }
}

impl KeyService for AwsKms {
    fn generate<'a>(&'a self, key: &'a str, context: &'a Context) -> Answer<'a, DataKey> {
        Box::pin(
            async move { self.generate_now(key, context).await.map_err(|error| error.about(key)) },
        )
    }

    fn unwrap<'a>(
        &'a self,
        key: &'a str,
        wrapped: &'a [u8],
        context: &'a Context,
    ) -> Answer<'a, Secret> {
        Box::pin(async move {
            self.unwrap_now(key, wrapped, context).await.map_err(|error| error.about(key))
        })
    }

    fn default_key(&self) -> &str {
        self.keys.first().map_or(super::KEY_DEFAULT, String::as_str)
    }
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKms")
            .field("keys", &self.keys)
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

/// Some time up to `most`: callers that failed together do not come back together.
fn jittered(most: Duration) -> Duration {
    let mut random = [0];
    // Without random bytes it is all of it.
    let _ = rand::fill(&mut random);
    most - most.mul_f64(f64::from(random[0]) / 256.0)
}

#[cfg(test)]
mod tests;
