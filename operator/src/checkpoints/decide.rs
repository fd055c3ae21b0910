//! What shall become of a Checkpoint: wait, order, or say how it ended. Pure, over recorded and observed facts.
//!
//! It neither asks pods nor reads the cluster, and takes the time as a fact.
//!
//! ```text
//! Pending ── a pod is ready ──► Ordered ── a pod takes the order ──► Draining ──► Uploading ──► Completed
//!    ▲ no job, no pods,            │ the order is wrong, the job is gone    │          │
//!    └ no storage: said so         └───────────────────────► Failed ◄──────────────────┘ the pods say so
//! ```

use std::net::IpAddr;
use std::time::Duration;

use crds::names::Reason;
use crds::v1alpha1::{CheckpointPhase, CheckpointStatus, CheckpointType, OrderedSavepoint, Phase};
use job_api::orders::{SavepointPhase, SavepointStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::controller::decide::{Verdict, seconds};
use crate::controller::facts::shorten;

/// How long the job's pods may refuse an order, or not answer, before the checkpoint is called stalled. It is tried on.
const TAKE_DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// How long a savepoint may take before it is called stalled. It is looked at on.
const MAKE_DEADLINE: SignedDuration = SignedDuration::from_hours(1);
/// After one pod says that a savepoint is complete, the others have this long to say how large their parts are.
const SIZES_DEADLINE: SignedDuration = SignedDuration::from_secs(15);

/// When to look again: at a savepoint that is being made, at a job that should be there soon, at what needs somebody's hand.
const LOOK_RUNNING: Duration = Duration::from_secs(1);
const LOOK_WAITING: Duration = Duration::from_secs(5);
const LOOK_STALLED: Duration = Duration::from_secs(30);

/// What is recorded in the status from earlier decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// How far it was.
    pub phase: Option<CheckpointPhase>,
    /// What was ordered.
    pub ordered: Option<OrderedSavepoint>,
    /// When it was seen complete.
    pub completed_at: Option<Timestamp>,
    /// Whether the sizes of all parts are known.
    pub sized: bool,
}

/// The job of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum JobSeen {
    /// It does not exist.
    Missing {
        /// Its name.
        name: String,
    },
    /// It is there.
    Found(JobFacts),
}

/// What matters of a job that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFacts {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Where it is in its life; deleting if it is being deleted.
    pub phase: Option<Phase>,
    /// Whether its StreamCluster names a place for snapshots.
    pub storage: bool,
    /// Its pods that are ready.
    pub ready: Vec<ReadyPod>,
}

/// A pod that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyPod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// No pod is asked; this is how it stands.
    Say(Outcome),
    /// Ask the pods, and give them the order if none knows it.
    Pursue(Pursuit),
}

/// An order, and whom to ask about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pursuit {
    /// The order.
    pub ordered: OrderedSavepoint,
    /// Whether it may be given; a savepoint that is complete is only asked about.
    pub may_order: bool,
    /// Whom to ask.
    pub pods: Vec<ReadyPod>,
}

/// What a pod said about an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// How far it is.
    Known(SavepointStatus),
    /// It knows of no such savepoint.
    Unknown,
    /// It does not take the order, or does not answer to us.
    Refused {
        /// HTTP status.
        code: u16,
        /// In its words.
        message: String,
    },
    /// Nothing.
    Silent {
        /// Why.
        message: String,
    },
}

/// How a checkpoint stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In one word; none for a kind that is not carried out.
    pub phase: Option<CheckpointPhase>,
    /// What the conditions say.
    pub verdict: Verdict,
    /// What is ordered.
    pub ordered: Option<OrderedSavepoint>,
    /// What is known of it once it is complete.
    pub complete: Option<Complete>,
    /// When to look again; when something changes if not said.
    pub look: Option<Duration>,
}

/// A savepoint that is complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Complete {
    /// Where it is.
    pub location: String,
    /// Size over all pods, if all of them said it.
    pub size_bytes: Option<i64>,
    /// Longest pause of a pod's sources.
    pub pause_ms: Option<i64>,
    /// From the order until it was seen complete.
    pub duration_ms: i64,
    /// When it was seen complete.
    pub at: Timestamp,
}

impl Recorded {
    /// What a status records.
    pub fn from_status(status: Option<&CheckpointStatus>) -> Self {
        let Some(status) = status else { return Self::default() };
        Self {
            phase: status.phase,
            ordered: status.savepoint.clone(),
            completed_at: status.completed_at.as_ref().map(|time| time.0),
            sized: status.size_bytes.is_some(),
        }
    }

    /// Whether nothing can change any more.
    pub fn is_done(&self, now: Timestamp) -> bool {
        match self.phase {
            Some(CheckpointPhase::Failed) => true,
            Some(CheckpointPhase::Completed) => {
                self.sized || self.completed_at.is_none_or(|at| sizes_are_late(at, now))
            }
            Some(
                CheckpointPhase::Pending
                | CheckpointPhase::Ordered
                | CheckpointPhase::Draining
                | CheckpointPhase::Uploading,
            )
            | None => false,
        }
    }
}

fn sizes_are_late(completed_at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(completed_at) > SIZES_DEADLINE
}

/// Decides whether pods are to be asked.
pub fn step(type_: CheckpointType, uid: &str, recorded: &Recorded, job: &JobSeen, now: Timestamp) -> Step {
    match type_ {
        CheckpointType::Savepoint => {}
        CheckpointType::Checkpoint => return Step::Say(not_supported()),
    }
    let job = match (job, &recorded.ordered) {
        (JobSeen::Found(job), Some(ordered)) if job.uid != ordered.job_uid => {
            let text = format!("StreamJob {} is another one than the savepoint was ordered from", job.name);
            return Step::Say(gone(recorded, text));
        }
        (JobSeen::Missing { name }, Some(_)) => {
            return Step::Say(gone(
                recorded,
                format!("StreamJob {name} was deleted before the savepoint was complete"),
            ));
        }
        (JobSeen::Missing { name }, None) => {
            let text = format!("spec.jobRef names StreamJob {name}, which does not exist in this namespace: create it");
            return Step::Say(pending(Verdict::Stalled(Reason::JobNotFound, text)));
        }
        (JobSeen::Found(job), _) => job,
    };
    if let Some(ordered) = &recorded.ordered {
        let may_order = recorded.phase != Some(CheckpointPhase::Completed);
        return Step::Pursue(Pursuit { ordered: ordered.clone(), may_order, pods: job.ready.clone() });
    }
    if let Some(obstacle) = obstacle(job) {
        return Step::Say(pending(obstacle));
    }
    let ordered = OrderedSavepoint { name: format!("cp-{uid}"), job_uid: job.uid.clone(), at: seconds(now) };
    Step::Pursue(Pursuit { ordered, may_order: true, pods: job.ready.clone() })
}

/// What stands in the way of an order.
fn obstacle(job: &JobFacts) -> Option<Verdict> {
    let name = &job.name;
    let idle = |how: &str| {
        let text = format!("StreamJob {name} {how}: a savepoint is made by pods that run");
        Some(Verdict::Stalled(Reason::JobNotRunning, text))
    };
    if !job.storage {
        let text = format!(
            "StreamJob {name} has no place for snapshots: write spec.storage.checkpoints.s3 in its StreamCluster"
        );
        return Some(Verdict::Stalled(Reason::NoStorage, text));
    }
    match job.phase {
        Some(Phase::Suspended) => return idle("is suspended"),
        Some(Phase::Finished) => return idle("is finished"),
        Some(Phase::Failed) => return idle("has failed"),
        Some(Phase::Deleting) => return idle("is being deleted"),
        Some(Phase::Running | Phase::Deploying) | None => {}
    }
    job.ready.is_empty().then(|| {
        let text = format!("StreamJob {name} has no pod that is ready; its own status says why");
        Verdict::Working(Reason::WaitingForJob, text)
    })
}

fn not_supported() -> Outcome {
    let text = "periodic checkpoints are the pods' own affair and need no object: a job takes them if its StreamCluster names a place for \
                them; write type: Savepoint for one that is kept";
    Outcome {
        phase: None,
        verdict: Verdict::Stalled(Reason::NotSupported, text.to_owned()),
        ordered: None,
        complete: None,
        look: None,
    }
}

fn pending(verdict: Verdict) -> Outcome {
    let look = match verdict {
        Verdict::Settled(..) | Verdict::Working(..) => LOOK_WAITING,
        Verdict::Stalled(..) => LOOK_STALLED,
    };
    Outcome { phase: Some(CheckpointPhase::Pending), verdict, ordered: None, complete: None, look: Some(look) }
}

/// The job that could tell is gone. A savepoint that was complete stays so.
fn gone(recorded: &Recorded, text: String) -> Outcome {
    if recorded.phase == Some(CheckpointPhase::Completed) {
        let verdict = Verdict::Settled(Reason::Completed, COMPLETE.to_owned());
        return Outcome { phase: recorded.phase, verdict, ordered: None, complete: None, look: None };
    }
    failed(Reason::JobNotFound, text)
}

const COMPLETE: &str = "the savepoint is complete: a job can be started from it";

fn failed(reason: Reason, text: String) -> Outcome {
    Outcome {
        phase: Some(CheckpointPhase::Failed),
        verdict: Verdict::Stalled(reason, shorten(&text)),
        ordered: None,
        complete: None,
        look: None,
    }
}

/// What is recorded before the order is given.
pub fn ordered(pursuit: &Pursuit) -> Outcome {
    let text = "the order is recorded and on its way to the job's pods".to_owned();
    Outcome {
        phase: Some(CheckpointPhase::Ordered),
        verdict: Verdict::Working(Reason::SavepointRunning, text),
        ordered: Some(pursuit.ordered.clone()),
        complete: None,
        look: Some(LOOK_RUNNING),
    }
}

/// Whether the order must be given: no pod knows it, and there is one that could take it.
pub fn must_order(pursuit: &Pursuit, answers: &[Answer]) -> bool {
    let known = answers.iter().any(|answer| matches!(answer, Answer::Known(_)));
    pursuit.may_order && !known && answers.contains(&Answer::Unknown)
}

/// Decides how a savepoint stands from what the pods said.
pub fn judge(pursuit: &Pursuit, recorded: &Recorded, answers: &[Answer], now: Timestamp) -> Outcome {
    let known: Vec<&SavepointStatus> = answers
        .iter()
        .filter_map(|answer| match answer {
            Answer::Known(status) => Some(status),
            Answer::Unknown | Answer::Refused { .. } | Answer::Silent { .. } => None,
        })
        .collect();
    let in_phase = |phase| known.iter().find(|status| status.phase == phase);
    let waited = now.duration_since(pursuit.ordered.at.0);
    if let Some(complete) = complete(pursuit, recorded, &known, answers.len(), now) {
        let wait = complete.size_bytes.is_none() && !sizes_are_late(complete.at, now);
        return Outcome {
            phase: Some(CheckpointPhase::Completed),
            verdict: Verdict::Settled(Reason::Completed, COMPLETE.to_owned()),
            ordered: None,
            complete: Some(complete),
            look: wait.then_some(LOOK_RUNNING),
        };
    }
    if recorded.phase == Some(CheckpointPhase::Completed) {
        // The pods that told are gone; what they told stands.
        return gone(recorded, String::new());
    }
    if let Some(status) = in_phase(SavepointPhase::Failed) {
        let why = status.message.as_deref().unwrap_or("the job does not say why");
        return failed(Reason::SavepointFailed, format!("{why}; the job went on"));
    }
    if in_phase(SavepointPhase::Uploading).is_some() {
        let text = "the job goes on; the pods' files are on their way to the store";
        return running(CheckpointPhase::Uploading, text, waited);
    }
    if !known.is_empty() {
        let text = "the job's sources pause until everything on the way is committed";
        return running(CheckpointPhase::Draining, text, waited);
    }
    not_taken(answers, waited)
}

/// What is known of a savepoint that is complete.
fn complete(
    pursuit: &Pursuit,
    recorded: &Recorded,
    known: &[&SavepointStatus],
    pods: usize,
    now: Timestamp,
) -> Option<Complete> {
    let done = known.iter().filter(|status| status.phase == SavepointPhase::Completed);
    let location = done.clone().find_map(|status| status.location.clone())?;
    let sizes: Vec<u64> = done.filter_map(|status| status.bytes).collect();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let at = recorded.completed_at.unwrap_or(now);
    Some(Complete {
        location,
        size_bytes: (sizes.len() == pods).then(|| number(sizes.iter().sum())),
        pause_ms: known.iter().filter_map(|status| status.pause_ms).max().map(number),
        duration_ms: i64::try_from(at.duration_since(pursuit.ordered.at.0).as_millis()).unwrap_or(i64::MAX).max(0),
        at,
    })
}

fn running(phase: CheckpointPhase, text: &str, waited: SignedDuration) -> Outcome {
    let (verdict, look) = if waited > MAKE_DEADLINE {
        let text = format!("not complete after an hour: {text}");
        (Verdict::Stalled(Reason::DeadlineExceeded, text), LOOK_STALLED)
    } else {
        (Verdict::Working(Reason::SavepointRunning, text.to_owned()), LOOK_RUNNING)
    };
    Outcome { phase: Some(phase), verdict, ordered: None, complete: None, look: Some(look) }
}

/// No pod has the order.
fn not_taken(answers: &[Answer], waited: SignedDuration) -> Outcome {
    let mut wrong = answers.iter().filter_map(|answer| match answer {
        Answer::Refused { code: 400, message } => Some(message),
        Answer::Known(_) | Answer::Unknown | Answer::Refused { .. } | Answer::Silent { .. } => None,
    });
    if let Some(message) = wrong.next() {
        return failed(Reason::OrderRefused, message.clone());
    }
    let refusal = answers.iter().find_map(|answer| match answer {
        Answer::Refused { message, .. } => Some((Reason::OrderRefused, message.clone())),
        Answer::Known(_) | Answer::Unknown | Answer::Silent { .. } => None,
    });
    let silence = answers.iter().find_map(|answer| match answer {
        Answer::Silent { message } => Some((Reason::WaitingForJob, message.clone())),
        Answer::Known(_) | Answer::Unknown | Answer::Refused { .. } => None,
    });
    let nobody = || (Reason::WaitingForJob, "no pod of the job is ready to take the order or to tell of it".to_owned());
    let (reason, text) = refusal.or(silence).unwrap_or_else(nobody);
    let text = shorten(&text);
    let (verdict, look) = if waited > TAKE_DEADLINE {
        (Verdict::Stalled(reason, format!("not taken after 10 minutes: {text}")), LOOK_STALLED)
    } else {
        (Verdict::Working(reason, text), LOOK_WAITING)
    };
    Outcome { phase: Some(CheckpointPhase::Ordered), verdict, ordered: None, complete: None, look: Some(look) }
}
