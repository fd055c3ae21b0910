//! What others read in the status: kstatus (Argo CD, Flux, `kubectl wait`) must come to the right conclusion at every step.

use crds::names::Reason;
use crds::v1alpha1::{LastCheckpoint, Phase, Progress, StreamJobStatus};
use job_api::PodPhase;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use operator::controller::decide::{Assign, Decision, Verdict, seconds};
use operator::controller::events;
use operator::controller::observe::Observed;
use operator::controller::status::{NewStatus, conditions, progress};
use serde_json::json;

use crate::fixtures::{at, job, nothing, pod_in, small};

/// The rules of kstatus for an object with conditions, as its library applies them: generation, then the abnormal conditions, then Ready.
fn kstatus(generation: i64, status: &StreamJobStatus) -> &'static str {
    if status.observed_generation != Some(generation) {
        return "InProgress";
    }
    for condition in &status.conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Reconciling", "True") => return "InProgress",
            ("Stalled", "True") => return "Failed",
            _ => {}
        }
    }
    match status.conditions.iter().find(|condition| condition.type_ == "Ready") {
        Some(Condition { status, .. }) if status == "True" => "Current",
        Some(_) => "InProgress",
        None => "Current",
    }
}

fn status_with(verdict: Verdict) -> StreamJobStatus {
    let decision = Decision {
        replicas: 1,
        assign: Assign::Nothing,
        replace: None,
        phase: Phase::Running,
        verdict,
        ready_replicas: 1,
        ended: None,
        last_error: None,
    };
    NewStatus::of_job(&job(json!({"sql": "SELECT 1"})), &small(), &decision, &nothing()).status().clone()
}

#[test]
fn others_come_to_the_right_conclusion() {
    let text = String::new;
    assert_eq!(kstatus(1, &status_with(Verdict::Settled(Reason::Running, text()))), "Current");
    assert_eq!(kstatus(1, &status_with(Verdict::Settled(Reason::Suspended, text()))), "Current");
    assert_eq!(kstatus(1, &status_with(Verdict::Working(Reason::Deploying, text()))), "InProgress");
    assert_eq!(kstatus(1, &status_with(Verdict::Stalled(Reason::InvalidJob, text()))), "Failed");
    assert_eq!(
        kstatus(2, &status_with(Verdict::Settled(Reason::Running, text()))),
        "InProgress",
        "an edit is not seen yet"
    );
}

#[test]
fn the_first_write_has_all_conditions_and_exactly_one_is_true() {
    for verdict in [
        Verdict::Settled(Reason::Running, String::new()),
        Verdict::Working(Reason::Deploying, String::new()),
        Verdict::Stalled(Reason::CrashLoop, String::new()),
    ] {
        let written = conditions(&[], &verdict, Some(3), at(0));
        assert_eq!(written.len(), 3);
        assert_eq!(written.iter().filter(|condition| condition.status == "True").count(), 1, "{verdict:?}");
        assert!(written.iter().all(|condition| condition.observed_generation == Some(3)));
    }
}

#[test]
fn a_conditions_time_changes_only_with_its_status() {
    let old = conditions(&[], &Verdict::Working(Reason::Deploying, "a".to_owned()), Some(1), at(0));
    let new = conditions(&old, &Verdict::Stalled(Reason::CrashLoop, "b".to_owned()), Some(1), at(60));
    let times: Vec<_> = new.iter().map(|condition| condition.last_transition_time.clone()).collect();
    assert_eq!(times, [seconds(at(0)), seconds(at(60)), seconds(at(60))]);
}

#[test]
fn a_status_that_says_nothing_new_is_not_written() {
    let mut observed: Observed = nothing();
    observed.pods = vec![pod_in(&small(), PodPhase::Running)];
    let decision = Decision {
        replicas: 1,
        assign: Assign::Nothing,
        replace: None,
        phase: Phase::Running,
        verdict: Verdict::Settled(Reason::Running, "1 pod ready".to_owned()),
        ready_replicas: 1,
        ended: None,
        last_error: None,
    };
    let mut object = job(json!({"sql": "SELECT 1"}));
    let first = NewStatus::of_job(&object, &small(), &decision, &observed);
    assert!(first.says_something_new(None));
    object.status = Some(first.status().clone());

    observed.now = at(3600);
    let same = NewStatus::of_job(&object, &small(), &decision, &observed);
    assert!(!same.says_something_new(object.status.as_ref()), "time alone is nothing new");

    if let Some(status) = &mut observed.pods[0].status {
        status.commits += 1;
    }
    observed.now = at(10);
    let counted = NewStatus::of_job(&object, &small(), &decision, &observed);
    assert!(!counted.says_something_new(object.status.as_ref()), "counters alone wait");
    observed.now = at(40);
    let counted = NewStatus::of_job(&object, &small(), &decision, &observed);
    assert!(counted.says_something_new(object.status.as_ref()), "and are written in the end");
}

#[test]
fn progress_is_the_sum_of_what_the_pods_say() {
    let job = small();
    let mut pods = [pod_in(&job, PodPhase::Running), pod_in(&job, PodPhase::Running)];
    if let Some(status) = &mut pods[1].status {
        status.waits = Some("waits for shard 5 of pod 0".to_owned());
    }
    let waits = format!("{}: waits for shard 5 of pod 0", pods[1].name);
    let expected = Progress {
        commits: 14,
        rows_in: 200,
        rows_out: 20,
        lag_rows: Some(6),
        waits: Some(waits),
        watermark: Some(seconds(at(-400))),
        last_commit_time: Some(seconds(at(-1))),
        last_checkpoint: Some(LastCheckpoint {
            completed_at: Some(seconds(at(-10))),
            bytes: 8192,
            failed: 0,
            error: None,
        }),
        observed_at: Some(seconds(at(0))),
    };
    assert_eq!(progress(&pods, &job.revision, at(0)), Some(expected));
    assert_eq!(progress(&pods, "another revision", at(0)), None);
}

#[test]
fn the_end_of_time_is_no_watermark() {
    let job = small();
    let mut pod = pod_in(&job, PodPhase::Finished);
    if let Some(status) = &mut pod.status {
        status.watermark_ms = Some(i64::MAX);
    }
    assert_eq!(progress(&[pod], &job.revision, at(0)).and_then(|progress| progress.watermark), None);
}

#[test]
fn an_event_tells_what_changed_and_nothing_else() {
    let deploying = Verdict::Working(Reason::Deploying, "0 of 1 pod ready".to_owned());
    let running = Verdict::Settled(Reason::Running, "1 pod ready".to_owned());
    let old = status_with(deploying);
    let new = status_with(running.clone());
    let notes = events::between(Some(&old), &new, &running);
    assert_eq!(notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [Reason::Running]);
    assert_eq!(events::between(Some(&new), &new, &running), []);
    let other = StreamJobStatus { current_revision: Some("other".to_owned()), ..new.clone() };
    let notes = events::between(Some(&other), &new, &running);
    assert_eq!(notes.iter().map(|note| note.reason).collect::<Vec<_>>(), [Reason::RevisionChanged]);
}
