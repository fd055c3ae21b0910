//! Reconciles StreamJobs. [`reconcile`] is the table of contents: observe, validate, decide, build, apply, status.
//!
//! Deciding and building are pure; observing, applying and the status talk to the cluster and decide nothing.

pub mod apply;
pub mod assign;
pub mod build;
pub mod decide;
pub mod delete;
pub mod events;
pub mod facts;
pub mod observe;
pub mod status;
pub mod validate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::v1alpha1::StreamJob;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt as _};
use tracing::{Instrument as _, field, info_span};

use crate::access::Access;
use crate::args::Args;
use crate::job_client::JobClient;
use crate::metrics::{Metrics, Outcome};
use apply::{Applied, AppliedCache};
use decide::{Assign, Recorded, decide, decide_invalid};
use status::NewStatus;

/// Shortest and longest wait after an error; doubled from one to the next.
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(500)..=Duration::from_secs(300);

/// Shortest wait between two looks at a job's progress.
const POLL_MIN: Duration = Duration::from_secs(2);

/// Wait between two looks at a job without pods, of which nothing changes that is not told.
const POLL_IDLE: Duration = Duration::from_secs(300);

/// What every reconcile needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The jobs' pods.
    pub pods: Arc<dyn JobClient>,
    /// How the operator proves to them who it is.
    pub access: Access,
    /// Events of ours.
    pub recorder: Recorder,
    /// Metrics of ours.
    pub metrics: Arc<Metrics>,
    /// Arguments of ours.
    pub args: Args,
    /// What was applied, so that nothing is written twice.
    pub applied: AppliedCache,
    /// Errors in a row, per job.
    pub failures: Mutex<HashMap<String, u32>>,
}

/// A step of a reconcile that failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job, what it refers to, or its objects cannot be read.
    #[error("cannot observe the job")]
    Observe(#[source] kube::Error),
    /// The finalizer cannot be written.
    #[error("cannot write the job's finalizer")]
    Finalizer(#[source] kube::Error),
    /// An object cannot be written, for a reason that may pass.
    #[error("cannot apply {object}")]
    Apply {
        /// Kind and name.
        object: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A pod or StatefulSet cannot be deleted.
    #[error("cannot delete {object}")]
    Delete {
        /// Kind and name.
        object: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// The status cannot be written.
    #[error("cannot write the job's status")]
    Status(#[source] kube::Error),
    /// Somebody changed the job while it was decided about; it is decided anew.
    #[error("the job was changed meanwhile")]
    Changed,
}

/// Name of a job in maps, logs and metrics.
fn key(job: &DeserializeGuard<StreamJob>) -> String {
    format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any())
}

/// Makes the cluster look like the job says.
pub async fn reconcile(seen: Arc<DeserializeGuard<StreamJob>>, context: Arc<Context>) -> Result<Action, Error> {
    let key = key(&seen);
    let span = info_span!("reconcile", job = key, revision = field::Empty);
    let started = Instant::now();
    let result = steps(&seen, &context, &key).instrument(span).await;
    let outcome = if result.is_ok() { Outcome::Ok } else { Outcome::Error };
    context.metrics.reconciled(outcome, started.elapsed());
    if result.is_ok() {
        context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
    result
}

async fn steps(seen: &DeserializeGuard<StreamJob>, context: &Context, key: &str) -> Result<Action, Error> {
    if let Err(invalid) = &seen.0 {
        // Only another version of the definition can have let it in. It is left as it is, and its neighbours are not disturbed.
        tracing::error!(error = %invalid, "this StreamJob cannot be read");
        context.metrics.malformed();
        return Ok(Action::await_change());
    }
    let api: Api<StreamJob> = Api::namespaced(context.client.clone(), &seen.namespace().unwrap_or_default());
    // The watch may lag behind our own last write; the API server does not.
    let Some(job) = api.get_opt(&seen.name_any()).await.map_err(Error::Observe)? else {
        context.metrics.job(key, None);
        context.applied.forget(key);
        return Ok(Action::await_change());
    };
    if job.metadata.deletion_timestamp.is_some() {
        return delete::delete(context, &api, &job, key).await;
    }
    let job = delete::ensure_finalizer(context, &api, job).await?;

    // observe (client required)
    let observed = observe::observe(context, &job).await.map_err(Error::Observe)?;
    // validate (no client required)
    let valid = match validate::validate(&job, &observed, &context.args.job_image) {
        Ok(valid) => valid,
        Err(invalid) => {
            let (phase, verdict) = decide_invalid(&invalid, &observed.pods);
            let new = NewStatus::of_invalid(&job, phase, verdict, &observed);
            status::write(context, &api, &job, new, key).await?;
            return Ok(Action::requeue(context.args.poll_interval()));
        }
    };
    tracing::Span::current().record("revision", &valid.revision);
    // decide (no client required)
    let recorded = Recorded::from_status(job.status.as_ref(), job.metadata.generation);
    let decision = decide(&valid, &recorded, observed.stateful_set.as_ref(), &observed.pods, observed.now);
    // An end is recorded before the pods are taken away, and where the first state comes from before there are pods: what a restart cannot
    // see any more must be known from the status.
    let job = if decision.ended == recorded.ended && valid.restore_from == recorded.restore_from {
        job
    } else {
        status::write(context, &api, &job, NewStatus::of_job(&job, &valid, &decision, &observed), key).await?
    };
    // order (pods required)
    let assigned = assign::assign(context, &job, &valid, &decision, &observed.pods).await;
    // build (no client required)
    let objects = build::build(&valid, decision.replicas, &context.args.namespace);
    // apply (client required)
    let applied = apply::apply(context, &objects, &decision, &observed, key).await?;
    // status (client required)
    let mut new = NewStatus::of_job(&job, &valid, &decision, &observed);
    new.assign(assigned);
    if let Applied::Refused { object, message } = &applied {
        new.refuse(object, message);
    }
    let longest = context.args.poll_interval();
    let look = match (decision.assign, assigned) {
        // Not taken, or not carried out yet.
        (Assign::Order(_), None) => POLL_MIN.min(longest),
        (Assign::Order(_) | Assign::Nothing | Assign::Record(_), _) => next_look(&new, &job, observed.now, longest),
    };
    status::write(context, &api, &job, new, key).await?;
    Ok(Action::requeue(look))
}

/// When to look again without being told of a change: soon while a job is young or changing, because a short bounded job should be seen to
/// finish soon; seldom later; hardly ever when it has no pods. ConfigMaps with SQL are not watched, so those are looked at as if it had.
fn next_look(new: &NewStatus, job: &StreamJob, now: Timestamp, longest: Duration) -> Duration {
    if new.is_working() {
        return POLL_MIN.min(longest);
    }
    if new.status().replicas == 0 && job.spec.sql_from.is_none() {
        return POLL_IDLE.max(longest);
    }
    let changed = new.status().conditions.iter().map(|condition| condition.last_transition_time.0).max();
    let age =
        changed.map_or(Duration::ZERO, |changed| Duration::try_from(now.duration_since(changed)).unwrap_or_default());
    (age / 10).clamp(POLL_MIN.min(longest), longest)
}

/// What to do after an error: wait, twice as long as the last time.
pub fn error_policy(job: Arc<DeserializeGuard<StreamJob>>, error: &Error, context: Arc<Context>) -> Action {
    let key = key(&job);
    match error {
        Error::Changed => {
            tracing::debug!(job = key, "changed meanwhile");
            Action::requeue(*BACKOFF.start())
        }
        Error::Observe(_) | Error::Finalizer(_) | Error::Apply { .. } | Error::Delete { .. } | Error::Status(_) => {
            let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
            let count = failures.entry(key.clone()).or_default();
            let wait = backoff(*count);
            *count = count.saturating_add(1);
            let error = ErrorChain(error).to_string();
            tracing::warn!(job = key, error, retry_ms = wait.as_millis(), "a reconcile failed");
            Action::requeue(wait)
        }
    }
}

/// Wait after so many errors in a row.
fn backoff(failures: u32) -> Duration {
    BACKOFF.start().saturating_mul(2_u32.saturating_pow(failures.min(16))).min(*BACKOFF.end())
}

/// An error with all its causes in one line.
struct ErrorChain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            // The client prints an answer of the API server as a structure, and twice.
            if let Some(kube::Error::Api(status)) = error.downcast_ref() {
                return write!(f, ": {} ({} {})", status.message, status.code, status.reason);
            }
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        assert_eq!(backoff(0), Duration::from_millis(500));
        assert_eq!(backoff(3), Duration::from_secs(4));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(300));
    }
}
