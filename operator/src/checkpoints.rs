//! Checkpoint objects: this version makes none, and says so in each instead of leaving it without an answer.
//!
//! It makes no checkpoints and deletes none.

use std::sync::Arc;

use crds::names::{self, Reason};
use crds::v1alpha1::{Checkpoint, CheckpointStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use std::time::Duration;

use crate::controller::Context;
use crate::controller::decide::Verdict;
use crate::controller::status::conditions;
use crate::metrics::Write;

/// Wait after an error.
const RETRY: Duration = Duration::from_secs(30);

/// The status cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the checkpoint's status")]
pub struct CheckpointError(#[source] kube::Error);

/// What the status of every checkpoint is.
pub fn status_of(checkpoint: &Checkpoint, now: Timestamp) -> CheckpointStatus {
    let old = checkpoint.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let text = "this version of Millstream makes no checkpoints; a job's state is in its changelog or on its volume";
    let verdict = Verdict::Stalled(Reason::NotSupported, text.to_owned());
    CheckpointStatus {
        observed_generation: checkpoint.metadata.generation,
        conditions: conditions(old, &verdict, checkpoint.metadata.generation, now),
        completed_at: None,
    }
}

/// Says in a checkpoint that it will not be made.
pub async fn reconcile(
    seen: Arc<DeserializeGuard<Checkpoint>>,
    context: Arc<Context>,
) -> Result<Action, CheckpointError> {
    let Ok(checkpoint) = &seen.0 else {
        context.metrics.malformed();
        return Ok(Action::await_change());
    };
    let status = status_of(checkpoint, Timestamp::now());
    if checkpoint.metadata.deletion_timestamp.is_some() || checkpoint.status.as_ref() == Some(&status) {
        return Ok(Action::await_change());
    }
    let api: Api<Checkpoint> = Api::namespaced(context.client.clone(), &checkpoint.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": Checkpoint::api_version(&()),
        "kind": Checkpoint::kind(&()),
        "metadata": {"name": checkpoint.name_any()},
        "status": status,
    });
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch_status(&checkpoint.name_any(), &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => context.metrics.wrote(Write::Status),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(CheckpointError(error)),
    }
    Ok(Action::await_change())
}

/// What to do after an error: wait.
pub fn error_policy(seen: Arc<DeserializeGuard<Checkpoint>>, error: &CheckpointError, _: Arc<Context>) -> Action {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(checkpoint = seen.name_any(), %error, cause, "a reconcile failed");
    Action::requeue(RETRY)
}
