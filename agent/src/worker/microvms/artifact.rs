//! Function versions whose code is an artifact: found when they are registered, a lazy disk when they run.

use sha2::{Digest as _, Sha256};
use votive_artifact::oci::ContainerConfig;

use crate::artifacts::{ArtifactName, Attached, OpenError, Origin, ResolveError};
use crate::causes::with_causes;
use crate::function::{Container, Function, FunctionError};
use crate::microvm::Disk;
use crate::worker::api::RegisterError;
use crate::worker::launcher::{FirstRelease, LaunchError, LaunchOrder};
use crate::worker::registry::CodeImage;
use crate::worker::store::{Sha256Digest, together};

/// The name of a refusal that is about what was asked for.
const INVALID: &str = "InvalidParameterValueException";

/// An artifact that is a function's code.
pub(super) struct Found {
    pub(super) name: ArtifactName,
    /// Of all that is sealed in it.
    pub(super) sha256: Sha256Digest,
    /// Its process, if it is a container image.
    pub(super) container: Option<Container>,
}

/// The artifact of this identity, as the code of `function`.
pub(super) async fn find(
    origin: Option<&Origin>,
    identity: &str,
    function: &Function,
) -> Result<Found, RegisterError> {
    let origin = origin.ok_or_else(|| refused("this worker has no store of artifacts"))?;
    let resolved = origin.resolve(identity).await.map_err(|error| describe(identity, &error))?;
    let (name, config) = (resolved.name, resolved.config);
    let manifest = *name.manifest.as_bytes();
    match (config.is_empty(), function.spec().container.is_some()) {
        (true, false) => Ok(Found { name, sha256: manifest, container: None }),
        (true, true) => Err(refused("it is made of ZIPs: it needs a runtime and a handler")),
        (false, false) => Err(FunctionError::ImageRuntime.into()),
        (false, true) => {
            let image = ContainerConfig::parse(&config);
            let image = image.map_err(|error| refused(&error.to_string()))?;
            let container = Some(Container::new(&image, function)?);
            let sha256 = together(&[manifest, Sha256::digest(&config).into()]);
            Ok(Found { name, sha256, container })
        }
    }
}

fn refused(reason: &str) -> RegisterError {
    RegisterError::Artifact { code: INVALID, reason: reason.to_owned() }
}

fn describe(identity: &str, error: &ResolveError) -> RegisterError {
    tracing::warn!(identity, error = with_causes(error), "an artifact cannot be registered");
    let code = error.code();
    let reason = match code {
        "ServiceException" => String::from("its store or its key service failed"),
        // Named by the caller, or by the artifact.
        _ => with_causes(error),
    };
    RegisterError::Artifact { code, reason }
}

/// A disk that comes while it is read, and what keeps the order of its reads after the first invocation.
pub(super) struct Lazy {
    disk: Disk,
    first_release: FirstRelease,
}

impl Lazy {
    pub(super) fn into_parts(self) -> (Disk, FirstRelease) {
        (self.disk, self.first_release)
    }
}

/// The disk of the code, if it is an artifact.
pub(super) async fn attach(
    origin: Option<&Origin>,
    order: &LaunchOrder,
) -> Result<Option<Lazy>, LaunchError> {
    let CodeImage::Artifact(name) = &order.images.code else { return Ok(None) };
    let missing = || LaunchError::new(String::from("this worker has no store of artifacts"));
    let origin = origin.ok_or_else(missing)?.clone();
    let attached = origin.attach(name).await.map_err(|error| not_attached(&error))?;
    let Attached { disk, reads, .. } = attached;
    let name = name.clone();
    let first_release = Box::new(move || {
        tokio::spawn(async move { origin.keep(name, reads).await });
    });
    Ok(Some(Lazy { disk, first_release }))
}

fn not_attached(error: &OpenError) -> LaunchError {
    let code = error.code();
    // What else fails is the host's business, and the operator's.
    let code = code.starts_with("KMS").then_some(code);
    LaunchError { code, text: with_causes(error) }
}
