//! Function versions whose code is an artifact: found when they are registered, a lazy disk when they run.

use crate::artifacts::{ArtifactName, Attached, OpenError, Origin, ResolveError};
use crate::causes::with_causes;
use crate::worker::api::RegisterError;
use crate::worker::launcher::{LaunchError, LaunchOrder};
use crate::worker::registry::CodeImage;

/// The artifact of this identity.
pub(super) async fn find(
    origin: Option<&Origin>,
    identity: &str,
) -> Result<ArtifactName, RegisterError> {
    let refused =
        |code, reason: &str| RegisterError::Artifact { code, reason: String::from(reason) };
    let Some(origin) = origin else {
        let reason = "this worker has no store of artifacts";
        return Err(refused("InvalidParameterValueException", reason));
    };
    let resolved = origin.resolve(identity).await.map_err(|error| describe(identity, &error))?;
    if !resolved.config.is_empty() {
        return Err(refused("InvalidParameterValueException", "it is a container image"));
    }
    Ok(resolved.name)
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

/// The disk of the code, if it is an artifact.
pub(super) async fn attach(
    origin: Option<&Origin>,
    order: &LaunchOrder,
) -> Result<Option<Attached>, LaunchError> {
    let CodeImage::Artifact(name) = &order.images.code else { return Ok(None) };
    let missing = || LaunchError::new(String::from("this worker has no store of artifacts"));
    let origin = origin.ok_or_else(missing)?;
    let attached = origin.artifacts().attach(name, None).await;
    attached.map(Some).map_err(|error| not_attached(&error))
}

fn not_attached(error: &OpenError) -> LaunchError {
    let code = error.code();
    // What else fails is the host's business, and the operator's.
    let code = code.starts_with("KMS").then_some(code);
    LaunchError { code, text: with_causes(error) }
}
