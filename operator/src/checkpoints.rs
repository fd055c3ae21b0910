//! Reconciles Checkpoint objects. [`reconcile`] is the table of contents: observe, decide, record, order, judge, status.
//!
//! A Checkpoint of type Savepoint is an order to the job's pods, given once and by a name of its own: what is ordered is in the status before
//! it is ordered. Nothing stored is read or deleted from here: the data belongs to the pods, and stays when the object goes.

pub mod decide;
pub mod observe;

use std::sync::Arc;
use std::time::Duration;

use crds::names::{self, ConditionType};
use crds::v1alpha1::{Checkpoint, CheckpointStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::controller::Context;
use crate::controller::decide::{Verdict, seconds};
use crate::controller::events::{self, Note};
use crate::controller::status::conditions;
use crate::metrics::Write;
use decide::{Outcome, Recorded, Step};

/// Wait after an error, and after somebody else changed the object.
const RETRY: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(500);

/// A step of a reconcile that failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The object, its job or the job's pods cannot be read.
    #[error("cannot observe the checkpoint")]
    Observe(#[source] kube::Error),
    /// The status cannot be written.
    #[error("cannot write the checkpoint's status")]
    Status(#[source] kube::Error),
    /// Somebody changed the object while it was decided about; it is decided anew.
    #[error("the checkpoint was changed meanwhile")]
    Changed,
}

/// Makes of a Checkpoint what it asks for.
pub async fn reconcile(
    seen: Arc<DeserializeGuard<Checkpoint>>,
    context: Arc<Context>,
) -> Result<Action, CheckpointError> {
    if seen.0.is_err() {
        context.metrics.malformed();
        return Ok(Action::await_change());
    }
    let api: Api<Checkpoint> = Api::namespaced(context.client.clone(), &seen.namespace().unwrap_or_default());
    // The watch may lag behind our own last write; the API server does not.
    let found = api.get_opt(&seen.name_any()).await.map_err(CheckpointError::Observe)?;
    let Some(checkpoint) = found.filter(|checkpoint| checkpoint.metadata.deletion_timestamp.is_none()) else {
        return Ok(Action::await_change());
    };
    let recorded = Recorded::from_status(checkpoint.status.as_ref());
    if recorded.is_done(Timestamp::now()) {
        return Ok(Action::await_change());
    }
    let job = observe::job(&context, &checkpoint).await.map_err(CheckpointError::Observe)?;
    let now = Timestamp::now();
    let uid = checkpoint.uid().unwrap_or_default();
    match decide::step(checkpoint.spec.type_, &uid, &recorded, &job, now) {
        Step::Say(outcome) => write(&context, &api, &checkpoint, &recorded, &outcome).await.map(|(_, action)| action),
        Step::Pursue(pursuit) => {
            let checkpoint = if recorded.ordered.is_some() {
                checkpoint
            } else {
                let ordered = decide::ordered(&pursuit);
                write(&context, &api, &checkpoint, &recorded, &ordered).await?.0
            };
            let answers = observe::pursue(&context, &pursuit).await;
            let outcome = decide::judge(&pursuit, &recorded, &answers, Timestamp::now());
            write(&context, &api, &checkpoint, &recorded, &outcome).await.map(|(_, action)| action)
        }
    }
}

/// The status that an outcome means for this object.
pub fn status_of(checkpoint: &Checkpoint, outcome: &Outcome, now: Timestamp) -> CheckpointStatus {
    let old = checkpoint.status.clone().unwrap_or_default();
    let (Verdict::Settled(_, text) | Verdict::Working(_, text) | Verdict::Stalled(_, text)) = &outcome.verdict;
    let mut status = CheckpointStatus {
        observed_generation: checkpoint.metadata.generation,
        conditions: conditions(&old.conditions, &outcome.verdict, checkpoint.metadata.generation, now),
        phase: outcome.phase,
        message: Some(text.clone()),
        savepoint: outcome.ordered.clone().or(old.savepoint),
        location: old.location,
        size_bytes: old.size_bytes,
        pause_ms: old.pause_ms,
        duration_ms: old.duration_ms,
        completed_at: old.completed_at,
    };
    if let Some(complete) = &outcome.complete {
        status.location = Some(complete.location.clone());
        status.size_bytes = complete.size_bytes;
        status.pause_ms = complete.pause_ms;
        status.duration_ms = Some(complete.duration_ms);
        status.completed_at = Some(seconds(complete.at));
    }
    status
}

/// Writes the status if it says something new, and an event if the reason of readiness is another one.
async fn write(
    context: &Context,
    api: &Api<Checkpoint>,
    checkpoint: &Checkpoint,
    recorded: &Recorded,
    outcome: &Outcome,
) -> Result<(Checkpoint, Action), CheckpointError> {
    let action = outcome.look.map_or_else(Action::await_change, Action::requeue);
    let status = status_of(checkpoint, outcome, Timestamp::now());
    if checkpoint.status.as_ref() == Some(&status) {
        return Ok((checkpoint.clone(), action));
    }
    // With the version that was decided upon: of two operators, or of two looks, one orders.
    let patch = json!({
        "apiVersion": Checkpoint::api_version(&()),
        "kind": Checkpoint::kind(&()),
        "metadata": {"name": checkpoint.name_any(), "resourceVersion": checkpoint.resource_version()},
        "status": status,
    });
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let written = match api.patch_status(&checkpoint.name_any(), &parameters, &Patch::Apply(&patch)).await {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Err(CheckpointError::Changed),
        Err(error) => return Err(CheckpointError::Status(error)),
    };
    context.metrics.wrote(Write::Status);
    let note = match &outcome.verdict {
        Verdict::Settled(reason, text) | Verdict::Working(reason, text) => Note::normal(*reason, text.clone()),
        Verdict::Stalled(reason, text) => Note::warning(*reason, text.clone()),
    };
    if reason_of(checkpoint) != Some(note.reason.as_str()) {
        let ordered = recorded.ordered.as_ref().map(|ordered| ordered.name.as_str());
        tracing::info!(checkpoint = checkpoint.name_any(), savepoint = ordered, reason = %note.reason, message = note.text, "changed");
        events::publish(context, &checkpoint.object_ref(&()), &note).await;
    }
    Ok((written, action))
}

fn reason_of(checkpoint: &Checkpoint) -> Option<&str> {
    let conditions = &checkpoint.status.as_ref()?.conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
    Some(&ready.reason)
}

/// What to do after an error: wait.
pub fn error_policy(seen: Arc<DeserializeGuard<Checkpoint>>, error: &CheckpointError, _: Arc<Context>) -> Action {
    match error {
        CheckpointError::Changed => Action::requeue(AGAIN),
        CheckpointError::Observe(cause) | CheckpointError::Status(cause) => {
            tracing::warn!(checkpoint = seen.name_any(), %error, %cause, "a reconcile failed");
            Action::requeue(RETRY)
        }
    }
}
