//! What shall become of a job: how many pods, which pod must go, what the status says. Pure, over recorded and observed facts.
//!
//! It neither reads nor writes the cluster, and takes the time as a fact.
//!
//! ```text
//!            edit                        all pods ready                input ended, all committed
//! (new) ──► Deploying ────────────────► Running ──────────────────────► Finished
//!              │  ▲ pod lost, new revision │                               │ other SQL: Deploying
//!              │  └────────────────────────┘
//!              ├── pod says InvalidJob ──► Failed ── other revision: Deploying
//!              └── state: Suspended ─────► Suspended ── state: Running: Deploying      any ── deleted ──► Deleting
//! ```

use crds::names::{ConditionType, Reason};
use crds::v1alpha1::{DesiredState, Ended, EndedPhase, LastError, Phase, StreamJobStatus};
use job_api::PodPhase;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::facts::{PodFacts, StatefulSetFacts};
use super::validate::{Invalid, ValidatedJob};

/// How long the StatefulSet controller may take to create a pod before the job is called stalled.
const PODS_DEADLINE: SignedDuration = SignedDuration::from_secs(30);

/// How long pods may take to become ready, without a known reason, before the job is called stalled.
const READY_DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// How long pods that are to go may wait for their work to be distributed over the others. The kubelet brings new settings to pods within two
/// minutes, and the others have ten to fetch the state.
const LEAVE_DEADLINE: SignedDuration = SignedDuration::from_mins(15);

/// What is recorded in the status from earlier decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// How the job ended.
    pub ended: Option<Ended>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// The revision that was deployed.
    pub revision: Option<String>,
    /// The blocker that was named, and for which generation it still holds.
    pub stalled: Option<Reason>,
    /// Since when the operator is at work.
    pub working_since: Option<Timestamp>,
    /// Number of pods that the work is distributed over, as far as the operator ordered it.
    pub assigned: Option<u16>,
    /// Where the job's first state comes from.
    pub restore_from: Option<String>,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Pods that the StatefulSet should have.
    pub replicas: u16,
    /// What is to be said to the pods about their number.
    pub assign: Assign,
    /// The pod of an older revision that goes now, so that the StatefulSet makes it anew.
    pub replace: Option<PodRef>,
    /// Where the job is in its life.
    pub phase: Phase,
    /// What the conditions say.
    pub verdict: Verdict,
    /// Pods of the current revision that are ready.
    pub ready_replicas: usize,
    /// How the job ended, if it did.
    pub ended: Option<Ended>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
}

/// What is to be said to a job's pods about their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assign {
    /// Nothing.
    Nothing,
    /// Nothing, but it is to be recorded: the job began with this number.
    Record(u16),
    /// Distribute the work over so many pods.
    Order(u16),
}

/// One very pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What the three conditions say together: exactly one of them is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The job is as its spec asks.
    Settled(Reason, String),
    /// The operator is at work and expects to get there by itself.
    Working(Reason, String),
    /// Something stands in the way.
    Stalled(Reason, String),
}

impl Recorded {
    /// What the status of an object of this generation records. A blocker of an earlier generation is forgotten: an edit may have removed it.
    pub fn from_status(status: Option<&StreamJobStatus>, generation: Option<i64>) -> Self {
        let Some(status) = status else { return Self::default() };
        let find = |type_: ConditionType| -> Option<&Condition> {
            status.conditions.iter().find(|condition| condition.type_ == type_.as_str() && condition.status == "True")
        };
        let stalled = find(ConditionType::Stalled).filter(|_| status.observed_generation == generation);
        Self {
            ended: status.ended.clone(),
            last_error: status.last_error.clone(),
            revision: status.current_revision.clone(),
            stalled: stalled.and_then(|condition| {
                Reason::ALL.iter().map(|(reason, _)| *reason).find(|reason| reason.as_str() == condition.reason)
            }),
            working_since: find(ConditionType::Reconciling).map(|condition| condition.last_transition_time.0),
            assigned: status.assigned_replicas.and_then(|count| u16::try_from(count).ok()),
            restore_from: status.restore_from.clone(),
        }
    }
}

/// Decides about a job that can be built.
pub fn decide(
    job: &ValidatedJob,
    recorded: &Recorded,
    set: Option<&StatefulSetFacts>,
    pods: &[PodFacts],
    now: Timestamp,
) -> Decision {
    let ended = decide_ended(job, recorded, pods, now);
    let last_error = decide_last_error(job, recorded, pods, now);
    let wanted = match (&ended, job.state) {
        (Some(_), _) | (None, DesiredState::Suspended) => 0,
        (None, DesiredState::Running) => decide_replicas(job, recorded, set, pods, now),
    };
    let ready = pods.iter().filter(|pod| is_current(pod, job, set) && pod.ready && !pod.terminating).count();
    let verdict = match (&ended, job.state) {
        (Some(ended), _) => verdict_ended(ended, last_error.as_ref(), pods),
        (None, DesiredState::Suspended) => verdict_suspended(pods),
        (None, DesiredState::Running) if wanted > job.replicas => {
            let (from, to) = (count(usize::from(wanted)), job.replicas);
            Verdict::Working(Reason::Rescaling, format!("{from} stay until their work is distributed over {to}"))
        }
        (None, DesiredState::Running) => verdict_running(job, recorded, set, pods, ready, now),
    };
    let phase = match (&ended, job.state) {
        (Some(Ended { phase: EndedPhase::Finished, .. }), _) => Phase::Finished,
        (Some(Ended { phase: EndedPhase::Failed, .. }), _) => Phase::Failed,
        (None, DesiredState::Suspended) => Phase::Suspended,
        (None, DesiredState::Running) => match verdict {
            Verdict::Settled(..) => Phase::Running,
            Verdict::Working(..) | Verdict::Stalled(..) => Phase::Deploying,
        },
    };
    Decision {
        replicas: wanted,
        assign: decide_assignment(job, recorded, wanted, &verdict, pods),
        replace: decide_replacement(set, pods).filter(|_| wanted > 0),
        phase,
        verdict,
        ready_replicas: ready,
        ended,
        last_error,
    }
}

/// How many pods a job that runs should have. Pods that are to go stay until the work is distributed over the others, so that what they own is
/// released and not only missed; but not for ever.
fn decide_replicas(
    job: &ValidatedJob,
    recorded: &Recorded,
    set: Option<&StatefulSetFacts>,
    pods: &[PodFacts],
    now: Timestamp,
) -> u16 {
    let Some(assigned) = recorded.assigned.filter(|assigned| *assigned > job.replicas) else { return job.replicas };
    let there = set.is_some_and(|set| set.replicas > i32::from(job.replicas));
    let waited = recorded.working_since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    let can_be_told = job.control.is_some() && pods.iter().any(|pod| pod.ready && !pod.terminating);
    if there && can_be_told && waited < LEAVE_DEADLINE { assigned } else { job.replicas }
}

/// What the pods are told about their number. An order waits until pod 0 would read the new number from its settings: a process that begins
/// anew with the old one would ask for the old number again.
fn decide_assignment(
    job: &ValidatedJob,
    recorded: &Recorded,
    wanted: u16,
    verdict: &Verdict,
    pods: &[PodFacts],
) -> Assign {
    let assigned = match (recorded.assigned, verdict) {
        _ if wanted == 0 => return Assign::Nothing,
        (None, Verdict::Settled(..)) => return Assign::Record(job.replicas),
        (None, Verdict::Working(..) | Verdict::Stalled(..)) => return Assign::Nothing,
        (Some(assigned), _) => assigned,
    };
    let knows = |pod: &&PodFacts| pod.status.as_ref().and_then(|status| status.settings_replicas) == Some(job.replicas);
    let first = pods.iter().find(|pod| pod.name == format!("{}-0", job.name));
    let first = first.filter(|pod| pod.ready && !pod.terminating).filter(knows);
    if assigned == job.replicas || job.control.is_none() || first.is_none() {
        return Assign::Nothing;
    }
    Assign::Order(job.replicas)
}

/// Decides about a job that cannot be built: its objects stay as they are, and it waits for an edit of what the reason names.
pub fn decide_invalid(invalid: &Invalid, pods: &[PodFacts]) -> (Phase, Verdict) {
    let runs = pods.iter().any(|pod| pod.ready && !pod.terminating);
    let phase = if runs { Phase::Running } else { Phase::Failed };
    (phase, Verdict::Stalled(invalid.reason, invalid.message.clone()))
}

/// A finished job stays so while its SQL is the same: a new image must not make it run again. A failed one stays so while its revision is
/// the same: a new image may well understand its SQL.
fn decide_ended(job: &ValidatedJob, recorded: &Recorded, pods: &[PodFacts], now: Timestamp) -> Option<Ended> {
    let still = recorded.ended.clone().filter(|ended| match ended.phase {
        EndedPhase::Finished => ended.sql_hash == job.sql_hash,
        EndedPhase::Failed => ended.revision == job.revision,
    });
    if still.is_some() {
        return still;
    }
    let current: Vec<_> = pods.iter().filter(|pod| has_revision(pod, job)).collect();
    let finished = current.iter().filter(|pod| says_finished(pod, job)).count();
    let invalid = current
        .iter()
        .any(|pod| !pod.ready && pod.last_words.as_ref().is_some_and(|words| words.reason == Some(Reason::InvalidJob)));
    let phase = if finished > 0 && finished >= usize::from(job.replicas) {
        EndedPhase::Finished
    } else if invalid {
        EndedPhase::Failed
    } else {
        return None;
    };
    Some(Ended { phase, revision: job.revision.clone(), sql_hash: job.sql_hash.clone(), at: Some(seconds(now)) })
}

fn says_finished(pod: &PodFacts, job: &ValidatedJob) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase == PodPhase::Finished && status.revision == job.revision)
}

/// The newest trouble of a pod of this revision, else what was recorded for it.
fn decide_last_error(job: &ValidatedJob, recorded: &Recorded, pods: &[PodFacts], now: Timestamp) -> Option<LastError> {
    let known = recorded.last_error.clone().filter(|_| recorded.revision.as_ref() == Some(&job.revision));
    let current = pods.iter().filter(|pod| has_revision(pod, job));
    let Some(seen) = current.filter_map(trouble).max_by_key(|error| error.at.as_ref().map(|at| at.0)) else {
        return known;
    };
    match known {
        Some(known) if same_trouble(&known, &seen) => Some(known),
        // A trouble that was seen later than this one is not forgotten for it.
        Some(known) if seen.at.is_some() && known.at > seen.at => Some(known),
        Some(_) | None => Some(LastError { at: seen.at.or_else(|| Some(seconds(now))), ..seen }),
    }
}

/// The same trouble seen again. Kubernetes alternates between why a pull failed and that it waits before the next; the first is kept.
fn same_trouble(known: &LastError, seen: &LastError) -> bool {
    let same_kind = known.reason == seen.reason && known.pod == seen.pod && known.exit_code == seen.exit_code;
    let same_words = known.message == seen.message || seen.message.starts_with("Back-off");
    same_kind && same_words && (seen.at.is_none() || seen.at == known.at)
}

/// What is or was wrong with a pod. Of a process that ended, it is what the process said, also while the pod starts again.
fn trouble(pod: &PodFacts) -> Option<LastError> {
    if let Some(blocker) = &pod.blocker {
        return Some(LastError {
            reason: blocker.reason.into(),
            message: super::facts::shorten(&blocker.message),
            pod: Some(pod.name.clone()),
            exit_code: None,
            at: None,
        });
    }
    let words = pod.last_words.as_ref()?;
    Some(LastError {
        reason: words.reason?.into(),
        message: words.message.clone(),
        pod: Some(pod.name.clone()),
        exit_code: Some(words.exit_code),
        at: words.at.map(seconds),
    })
}

fn verdict_ended(ended: &Ended, last_error: Option<&LastError>, pods: &[PodFacts]) -> Verdict {
    match ended.phase {
        EndedPhase::Finished if pods.is_empty() => {
            Verdict::Settled(Reason::Finished, "the input came to its end and everything is committed".to_owned())
        }
        EndedPhase::Finished => Verdict::Working(
            Reason::Finishing,
            "the input came to its end and everything is committed; the pods are being ended".to_owned(),
        ),
        EndedPhase::Failed => Verdict::Stalled(
            Reason::InvalidJob,
            last_error.map_or_else(|| "the job's text is wrong".to_owned(), |error| error.message.clone()),
        ),
    }
}

fn verdict_suspended(pods: &[PodFacts]) -> Verdict {
    if pods.is_empty() {
        Verdict::Settled(Reason::Suspended, "no pods, as spec.state asks; the state is kept".to_owned())
    } else {
        Verdict::Working(Reason::Suspending, format!("{} being ended", count(pods.len())))
    }
}

fn verdict_running(
    job: &ValidatedJob,
    recorded: &Recorded,
    set: Option<&StatefulSetFacts>,
    pods: &[PodFacts],
    ready: usize,
    now: Timestamp,
) -> Verdict {
    let wanted = usize::from(job.replicas);
    if ready == wanted && pods.len() == wanted {
        return Verdict::Settled(Reason::Running, format!("{} ready", count(ready)));
    }
    let troubled = pods.iter().filter(|pod| has_revision(pod, job) && !pod.ready && !pod.terminating);
    for pod in troubled {
        if let Some((reason, message)) = blocking(pod) {
            return Verdict::Stalled(reason, format!("pod {}: {message}", pod.name));
        }
    }
    let same_revision = recorded.revision.as_ref() == Some(&job.revision);
    let waited = recorded.working_since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
    let passed = |deadline, reason| waited > deadline || recorded.stalled == Some(reason);
    if pods.is_empty() && set.is_some() && same_revision && passed(PODS_DEADLINE, Reason::PodsRefused) {
        return Verdict::Stalled(
            Reason::PodsRefused,
            format!(
                "no pod is created: `kubectl describe statefulset {}` shows why the API server refuses it",
                job.name
            ),
        );
    }
    if same_revision && passed(READY_DEADLINE, Reason::DeadlineExceeded) {
        return Verdict::Stalled(
            Reason::DeadlineExceeded,
            format!(
                "{ready} of {} ready after 10 minutes: `kubectl describe pod -l millstream.io/job={}`",
                count(wanted),
                job.name
            ),
        );
    }
    Verdict::Working(Reason::Deploying, format!("{ready} of {} ready", count(wanted)))
}

fn blocking(pod: &PodFacts) -> Option<(Reason, &str)> {
    if let Some(blocker) = &pod.blocker {
        return Some((blocker.reason, &blocker.message));
    }
    let words = pod.last_words.as_ref()?;
    Some((words.reason?, &words.message))
}

/// The pod to replace: of those not made from the StatefulSet's newest revision, one that is not ready if there is one, and only one at a
/// time. The StatefulSet itself is told to wait for deletions, because by itself it never leaves a revision whose pods do not become ready.
fn decide_replacement(set: Option<&StatefulSetFacts>, pods: &[PodFacts]) -> Option<PodRef> {
    let set = set.filter(|set| set.observed && !set.terminating)?;
    let newest = set.update_revision.as_ref()?;
    if pods.iter().any(|pod| pod.terminating) {
        return None;
    }
    let old = pods.iter().filter(|pod| pod.controller_revision.as_ref() != Some(newest));
    let pod = old.min_by_key(|pod| pod.ready)?;
    Some(PodRef { name: pod.name.clone(), uid: pod.uid.clone() })
}

fn has_revision(pod: &PodFacts, job: &ValidatedJob) -> bool {
    pod.revision.as_ref() == Some(&job.revision)
}

fn is_current(pod: &PodFacts, job: &ValidatedJob, set: Option<&StatefulSetFacts>) -> bool {
    let newest = set.and_then(|set| set.update_revision.as_ref());
    has_revision(pod, job) && pod.controller_revision.as_ref() == newest
}

fn count(pods: usize) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}

/// A time as Kubernetes stores it.
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// What to do next about a job that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Delete the StatefulSet and with it the pods.
    EndStatefulSet {
        /// Of this very StatefulSet.
        uid: String,
    },
    /// Delete pods that have lost their StatefulSet.
    EndPods(Vec<PodRef>),
    /// Wait until the pods are gone.
    Wait,
    /// Let the object go; Kubernetes collects the rest.
    Release {
        /// Whether pods are still there, because the deadline passed.
        late: bool,
    },
}

/// Decides about a job that is being deleted: first the pods, so that nothing of the job runs when its name is free again.
pub fn decide_deletion(
    set: Option<&StatefulSetFacts>,
    pods: &[PodFacts],
    deleted_at: Timestamp,
    now: Timestamp,
    deadline: SignedDuration,
) -> Deletion {
    if set.is_none() && pods.is_empty() {
        return Deletion::Release { late: false };
    }
    if now.duration_since(deleted_at) > deadline {
        return Deletion::Release { late: true };
    }
    match set {
        Some(set) if !set.terminating => Deletion::EndStatefulSet { uid: set.uid.clone() },
        Some(_) => Deletion::Wait,
        None => {
            let alive: Vec<_> = pods
                .iter()
                .filter(|pod| !pod.terminating)
                .map(|pod| PodRef { name: pod.name.clone(), uid: pod.uid.clone() })
                .collect();
            if alive.is_empty() { Deletion::Wait } else { Deletion::EndPods(alive) }
        }
    }
}
