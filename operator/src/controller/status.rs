//! The status: built from what was decided, written only when it says something new.
//!
//! Conditions follow kstatus: Ready from the first write, and exactly one of Ready, Reconciling and Stalled is true.

use crds::names::{self, ConditionType, Reason};
use crds::v1alpha1::{LastCheckpoint, Phase, Progress, StreamJob, StreamJobStatus};
use job_api::PodStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use super::decide::{Decision, Verdict, seconds};
use super::facts::{PodFacts, shorten};
use super::observe::{self, Observed};
use super::validate::ValidatedJob;
use super::{Context, Error, events};
use crate::metrics::Write;

/// How often counters alone are worth a write.
const PROGRESS_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// A status that may be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewStatus {
    status: StreamJobStatus,
    verdict: Verdict,
    now: Timestamp,
}

impl NewStatus {
    /// The status of a job that was decided about.
    pub fn of_job(job: &StreamJob, valid: &ValidatedJob, decision: &Decision, observed: &Observed) -> Self {
        let mut new = Self::base(job, decision.phase, decision.verdict.clone(), observed.now);
        new.status.replicas = pods(observed.pods.len());
        new.status.ready_replicas = pods(decision.ready_replicas);
        new.status.current_revision = Some(valid.revision.clone());
        new.status.last_error.clone_from(&decision.last_error);
        new.status.ended.clone_from(&decision.ended);
        new.status.restore_from.clone_from(&valid.restore_from);
        if let Some(progress) = progress(&observed.pods, &valid.revision, observed.now) {
            new.status.progress = Some(progress);
        }
        new
    }

    /// The status of a job that cannot be built. What is known of its last revision stays.
    pub fn of_invalid(job: &StreamJob, phase: Phase, verdict: Verdict, observed: &Observed) -> Self {
        let mut new = Self::base(job, phase, verdict, observed.now);
        new.status.replicas = pods(observed.pods.len());
        new.status.ready_replicas = pods(observed.pods.iter().filter(|pod| pod.ready && !pod.terminating).count());
        new
    }

    /// The status of a job that is being deleted.
    pub fn of_deleted(job: &StreamJob, phase: Phase, verdict: Verdict, left: usize) -> Self {
        let mut new = Self::base(job, phase, verdict, Timestamp::now());
        new.status.replicas = pods(left);
        new.status.ready_replicas = 0;
        new
    }

    /// The old status with what every new one has.
    fn base(job: &StreamJob, phase: Phase, verdict: Verdict, now: Timestamp) -> Self {
        let mut status = job.status.clone().unwrap_or_default();
        status.observed_generation = job.metadata.generation;
        status.phase = Some(phase);
        status.selector = Some(observe::selector(&job.name_any()));
        status.conditions = conditions(&status.conditions, &verdict, job.metadata.generation, now);
        Self { status, verdict, now }
    }

    /// The job's work is distributed over this number of pods from now on, if it is said.
    pub fn assign(&mut self, replicas: Option<u16>) {
        if let Some(replicas) = replicas {
            self.status.assigned_replicas = Some(i32::from(replicas));
        }
    }

    /// The API server refused an object: nothing gets better by itself.
    pub fn refuse(&mut self, object: &str, message: &str) {
        let text = shorten(&format!("{object}: {message}"));
        self.verdict = Verdict::Stalled(Reason::ApplyRefused, text);
        self.status.conditions =
            conditions(&self.status.conditions, &self.verdict, self.status.observed_generation, self.now);
    }

    /// Whether the operator is at work on the job.
    pub fn is_working(&self) -> bool {
        matches!(self.verdict, Verdict::Working(..))
    }

    /// The status itself.
    pub fn status(&self) -> &StreamJobStatus {
        &self.status
    }

    /// Whether writing this would tell anybody anything. Counters alone do, but not at every look.
    pub fn says_something_new(&self, old: Option<&StreamJobStatus>) -> bool {
        let Some(old) = old else { return true };
        let without_progress = |status: &StreamJobStatus| StreamJobStatus { progress: None, ..status.clone() };
        if without_progress(old) != without_progress(&self.status) {
            return true;
        }
        let counters = |progress: &Progress| Progress { observed_at: None, ..progress.clone() };
        if old.progress.as_ref().map(counters) == self.status.progress.as_ref().map(counters) {
            return false;
        }
        let written = old.progress.as_ref().and_then(|progress| progress.observed_at.as_ref());
        written.is_none_or(|written| self.now.duration_since(written.0) >= PROGRESS_EVERY)
    }
}

/// The three conditions that a verdict means. The time of a condition changes only with its status.
pub fn conditions(old: &[Condition], verdict: &Verdict, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let settled = (false, Reason::Settled, "");
    let free = (false, Reason::NotStalled, "");
    let (ready, reconciling, stalled) = match verdict {
        Verdict::Settled(reason, text) => ((true, *reason, text.as_str()), settled, free),
        Verdict::Working(reason, text) => ((false, *reason, text.as_str()), (true, *reason, text.as_str()), free),
        Verdict::Stalled(reason, text) => ((false, *reason, text.as_str()), settled, (true, *reason, text.as_str())),
    };
    ConditionType::ALL
        .into_iter()
        .map(|type_| {
            let (is_true, reason, message) = match type_ {
                ConditionType::Ready => ready,
                ConditionType::Reconciling => reconciling,
                ConditionType::Stalled => stalled,
            };
            let status = if is_true { "True" } else { "False" };
            let same = old.iter().find(|condition| condition.type_ == type_.as_str() && condition.status == status);
            Condition {
                last_transition_time: same
                    .map_or_else(|| seconds(now), |condition| condition.last_transition_time.clone()),
                message: message.to_owned(),
                observed_generation: generation,
                reason: reason.into(),
                status: status.to_owned(),
                type_: type_.as_str().to_owned(),
            }
        })
        .collect()
}

/// Sums and extremes over the pods of a revision that answered.
pub fn progress(pods: &[PodFacts], revision: &str, now: Timestamp) -> Option<Progress> {
    let answered: Vec<(&str, &PodStatus)> = pods
        .iter()
        .filter_map(|pod| Some((pod.name.as_str(), pod.status.as_ref()?)))
        .filter(|(_, status)| status.revision == revision)
        .collect();
    if answered.is_empty() {
        return None;
    }
    let waits = answered.iter().find_map(|(pod, status)| Some(shorten(&format!("{pod}: {}", status.waits.as_ref()?))));
    let statuses: Vec<&PodStatus> = answered.into_iter().map(|(_, status)| status).collect();
    let sum = |values: &mut dyn Iterator<Item = u64>| i64::try_from(values.sum::<u64>()).unwrap_or(i64::MAX);
    let lag: Option<Vec<u64>> = statuses.iter().map(|status| status.lag_rows).collect();
    let watermark: Option<Vec<i64>> = statuses.iter().map(|status| status.watermark_ms).collect();
    let last_commit = statuses.iter().filter_map(|status| status.last_commit_ms).max();
    let time = |ms: i64| Timestamp::from_millisecond(ms).ok().map(seconds);
    Some(Progress {
        commits: sum(&mut statuses.iter().map(|status| status.commits)),
        rows_in: sum(&mut statuses.iter().map(|status| status.rows_in)),
        rows_out: sum(&mut statuses.iter().map(|status| status.rows_out)),
        lag_rows: lag.map(|lag| sum(&mut lag.into_iter())),
        waits,
        // The end of time, which ends bounded input, is no time that Kubernetes can write.
        watermark: watermark.and_then(|all| all.into_iter().min()).and_then(time),
        last_commit_time: last_commit.and_then(|ms| i64::try_from(ms).ok()).and_then(time),
        last_checkpoint: last_checkpoint(&statuses),
        observed_at: Some(seconds(now)),
    })
}

/// The pods' snapshots: together they are complete when the slowest is.
fn last_checkpoint(statuses: &[&PodStatus]) -> Option<LastCheckpoint> {
    let all: Vec<_> = statuses.iter().filter_map(|status| status.snapshots.as_ref()).collect();
    if all.is_empty() {
        return None;
    }
    let sum = |values: &mut dyn Iterator<Item = u64>| i64::try_from(values.sum::<u64>()).unwrap_or(i64::MAX);
    let last: Option<Vec<u64>> = all.iter().map(|one| one.last_ms).collect();
    let last = last.and_then(|all| all.into_iter().min()).and_then(|ms| i64::try_from(ms).ok());
    Some(LastCheckpoint {
        completed_at: last.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(seconds),
        bytes: sum(&mut all.iter().map(|one| one.bytes)),
        failed: sum(&mut all.iter().map(|one| one.failed)),
        error: all.iter().find_map(|one| one.error.as_deref()).map(shorten),
    })
}

fn pods(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Writes the status if it says something new, and the events that go with it. Returns the job with the status that holds now.
pub async fn write(
    context: &Context,
    api: &Api<StreamJob>,
    job: &StreamJob,
    new: NewStatus,
    key: &str,
) -> Result<StreamJob, Error> {
    context.metrics.job(key, new.status.phase);
    if !new.says_something_new(job.status.as_ref()) {
        return Ok(job.clone());
    }
    // With the version that was decided upon: if somebody changed the job meanwhile, it is decided anew.
    let patch = json!({
        "apiVersion": StreamJob::api_version(&()),
        "kind": StreamJob::kind(&()),
        "metadata": {"name": job.name_any(), "resourceVersion": job.resource_version()},
        "status": new.status,
    });
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let written = match api.patch_status(&job.name_any(), &parameters, &Patch::Apply(&patch)).await {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Err(Error::Changed),
        Err(error) => return Err(Error::Status(error)),
    };
    context.metrics.wrote(Write::Status);
    for note in events::between(job.status.as_ref(), &new.status, &new.verdict) {
        tracing::info!(reason = %note.reason, message = note.text, "changed");
        events::publish(context, &job.object_ref(&()), &note).await;
    }
    Ok(written)
}
