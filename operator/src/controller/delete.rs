//! The end of a job's object: its finalizer, and the steps before it is removed. What to do is decided in `decide.rs`.
//!
//! Only pods are waited for. Everything else belongs to the object and is collected by Kubernetes after it; volumes go with the
//! StatefulSet by its retention policy.

use std::time::Duration;

use crds::names::{self, Reason};
use crds::v1alpha1::{Phase, StreamJob};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use super::decide::{Deletion, Verdict, decide_deletion};
use super::events::{self, Note};
use super::observe;
use super::status::{self, NewStatus};
use super::{Context, Error, apply};
use crate::metrics::Write;

/// How often to look whether the pods are gone, besides being told.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Added to a job's own grace period, for the kubelet.
const KUBELET_TIME: Duration = Duration::from_secs(60);

/// Puts our finalizer on a job that has none, before anything is created for it. Returns the job as it is then.
pub async fn ensure_finalizer(context: &Context, api: &Api<StreamJob>, job: StreamJob) -> Result<StreamJob, Error> {
    if job.finalizers().iter().any(|name| name == names::FINALIZER) {
        return Ok(job);
    }
    let mut finalizers = job.finalizers().to_vec();
    finalizers.push(names::FINALIZER.to_owned());
    let metadata = write_finalizers(context, api, &job, &finalizers).await?;
    Ok(StreamJob { metadata, ..job })
}

/// Writes the list of finalizers, unless somebody else changed the job meanwhile.
async fn write_finalizers(
    context: &Context,
    api: &Api<StreamJob>,
    job: &StreamJob,
    finalizers: &[String],
) -> Result<ObjectMeta, Error> {
    let patch = json!({"metadata": {"resourceVersion": job.resource_version(), "finalizers": finalizers}});
    match api.patch_metadata(&job.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(written) => {
            context.metrics.wrote(Write::Finalizer);
            Ok(written.metadata)
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Err(Error::Changed),
        Err(error) => Err(Error::Finalizer(error)),
    }
}

/// One step of the end of a job.
pub async fn delete(context: &Context, api: &Api<StreamJob>, job: &StreamJob, key: &str) -> Result<Action, Error> {
    if !job.finalizers().iter().any(|name| name == names::FINALIZER) {
        context.metrics.job(key, None);
        context.applied.forget(key);
        return Ok(Action::await_change());
    }
    let namespace = job.namespace().unwrap_or_default();
    let (pods, set) = match observe::remains(&context.client, job).await {
        Ok(remains) => remains,
        // The whole namespace is being deleted, and our rights in it went first. Kubernetes ends the pods then; what is left to us is to
        // let the job go, or the namespace would never end.
        Err(kube::Error::Api(status)) if status.code == 403 => return release(context, api, job, key).await,
        Err(error) => return Err(Error::Observe(error)),
    };
    let now = Timestamp::now();
    let deleted_at = job.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    match decide_deletion(set.as_ref(), &pods, deleted_at, now, deadline(context, job)) {
        Deletion::EndStatefulSet { uid } => {
            say_deleting(context, api, job, pods.len(), key).await?;
            apply::delete_stateful_set(context, &namespace, &job.name_any(), &uid).await?;
        }
        Deletion::EndPods(alive) => {
            for pod in alive {
                apply::delete_pod(context, &namespace, &pod).await?;
            }
        }
        Deletion::Wait => say_deleting(context, api, job, pods.len(), key).await?,
        Deletion::Release { late } => {
            if late {
                let text =
                    format!("{} pods are still there after the deadline; they are left to the kubelet", pods.len());
                events::publish(context, &job.object_ref(&()), &Note::warning(Reason::DeletionDeadlineExceeded, text))
                    .await;
            }
            return release(context, api, job, key).await;
        }
    }
    Ok(Action::requeue(LOOK_AGAIN))
}

/// Takes our finalizer off: nothing of ours is left to do.
async fn release(context: &Context, api: &Api<StreamJob>, job: &StreamJob, key: &str) -> Result<Action, Error> {
    let others: Vec<_> = job.finalizers().iter().filter(|name| *name != names::FINALIZER).cloned().collect();
    write_finalizers(context, api, job, &others).await?;
    context.metrics.job(key, None);
    context.applied.forget(key);
    tracing::info!("the job is gone");
    Ok(Action::await_change())
}

async fn say_deleting(
    context: &Context,
    api: &Api<StreamJob>,
    job: &StreamJob,
    pods: usize,
    key: &str,
) -> Result<(), Error> {
    let verdict = Verdict::Working(Reason::Deleting, format!("{pods} pods left"));
    let new = NewStatus::of_deleted(job, Phase::Deleting, verdict, pods);
    status::write(context, api, job, new, key).await.map(|_| ())
}

fn deadline(context: &Context, job: &StreamJob) -> SignedDuration {
    let grace = job.spec.template.as_ref().and_then(|template| template.termination_grace_period_seconds).unwrap_or(0);
    let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
    let deadline = context.args.deletion_deadline().max(grace + KUBELET_TIME);
    SignedDuration::try_from(deadline).unwrap_or(SignedDuration::MAX)
}
