//! What becomes of a job, as a table: recorded facts and what is seen, in; pods, phase and conditions, out.

use crds::names::Reason;
use crds::v1alpha1::{Ended, EndedPhase, LastError, Phase};
use job_api::PodPhase;
use k8s_openapi::jiff::SignedDuration;
use operator::controller::decide::{
    Assign, Decision, Deletion, PodRef, Recorded, Verdict, decide, decide_deletion, decide_invalid, seconds,
};
use operator::controller::facts::{Blocker, PodFacts, StatefulSetFacts};
use operator::controller::validate::{Invalid, ValidatedJob};
use serde_json::json;

use crate::fixtures::{access, at, ended_pod, pod_in, ready_pod, set, small, starting_pod, valid};

/// Decides about a job that has a StatefulSet and was deployed before.
fn check(job: &ValidatedJob, recorded: Recorded, pods: &[PodFacts]) -> Decision {
    let recorded = Recorded { revision: recorded.revision.or_else(|| Some(job.revision.clone())), ..recorded };
    decide(job, &recorded, Some(&set()), pods, at(0))
}

/// Pods, phase, reason of readiness and what the conditions say, in one line.
fn line(decision: &Decision) -> String {
    let (kind, reason) = match &decision.verdict {
        Verdict::Settled(reason, _) => ("settled", reason),
        Verdict::Working(reason, _) => ("working", reason),
        Verdict::Stalled(reason, _) => ("stalled", reason),
    };
    format!("{} {} {kind} {reason}", decision.replicas, decision.phase.as_str())
}

fn ended(job: &ValidatedJob, phase: EndedPhase) -> Recorded {
    let ended = Ended { phase, revision: job.revision.clone(), sql_hash: job.sql_hash.clone(), at: None };
    Recorded { ended: Some(ended), ..Recorded::default() }
}

#[test]
fn a_job_goes_through_its_life() {
    let job = small();
    let suspended = valid(json!({"sql": "SELECT 1", "state": "Suspended"}));
    let none = Recorded::default;
    let finished = || ended(&job, EndedPhase::Finished);
    let failed = || ended(&job, EndedPhase::Failed);
    let old = PodFacts { revision: Some("old".to_owned()), ..ready_pod(&job) };
    let leaving = PodFacts { terminating: true, ..ready_pod(&job) };
    let table: [(&str, &ValidatedJob, Recorded, Vec<PodFacts>, &str); 15] = [
        ("new", &job, none(), vec![], "1 Deploying working Deploying"),
        ("starting", &job, none(), vec![starting_pod(&job)], "1 Deploying working Deploying"),
        ("ready", &job, none(), vec![ready_pod(&job)], "1 Running settled Running"),
        ("an old pod is not this revision", &job, none(), vec![old.clone()], "1 Deploying working Deploying"),
        ("a leaving pod does not count", &job, none(), vec![leaving.clone()], "1 Deploying working Deploying"),
        ("input ended", &job, none(), vec![pod_in(&job, PodPhase::Finished)], "0 Finished working Finishing"),
        ("still running", &job, none(), vec![pod_in(&job, PodPhase::Running)], "1 Running settled Running"),
        ("finished", &job, finished(), vec![], "0 Finished settled Finished"),
        ("finished, pod leaving", &job, finished(), vec![leaving.clone()], "0 Finished working Finishing"),
        ("wrong text", &job, none(), vec![ended_pod(&job, Reason::InvalidJob, "x")], "0 Failed stalled InvalidJob"),
        ("failed", &job, failed(), vec![], "0 Failed stalled InvalidJob"),
        (
            "no broker",
            &job,
            none(),
            vec![ended_pod(&job, Reason::ConnectorFailed, "x")],
            "1 Deploying stalled ConnectorFailed",
        ),
        ("suspending", &suspended, none(), vec![ready_pod(&suspended)], "0 Suspended working Suspending"),
        ("suspended", &suspended, none(), vec![], "0 Suspended settled Suspended"),
        ("suspended though finished", &suspended, finished(), vec![], "0 Finished settled Finished"),
    ];
    for (name, job, recorded, pods, expected) in table {
        assert_eq!(line(&check(job, recorded, &pods)), expected, "{name}");
    }
}

#[test]
fn a_finished_job_runs_again_for_other_sql_only() {
    let job = small();
    let recorded = ended(&job, EndedPhase::Finished);
    let other_image = valid(json!({"sql": "SELECT 1", "template": {"image": "other:1"}}));
    let other_sql = valid(json!({"sql": "SELECT 2"}));
    assert_eq!(line(&check(&other_image, recorded.clone(), &[])), "0 Finished settled Finished");
    assert_eq!(line(&check(&other_sql, recorded, &[])), "1 Deploying working Deploying");
}

#[test]
fn a_failed_job_is_tried_again_with_any_other_revision() {
    let job = small();
    let recorded = ended(&job, EndedPhase::Failed);
    let other_image = valid(json!({"sql": "SELECT 1", "template": {"image": "other:1"}}));
    assert_eq!(line(&check(&other_image, recorded, &[])), "1 Deploying working Deploying");
}

#[test]
fn an_old_pods_failure_does_not_fail_the_new_revision() {
    let job = small();
    let old = PodFacts { revision: Some("old".to_owned()), ..ended_pod(&job, Reason::InvalidJob, "old text") };
    let decision = check(&job, Recorded::default(), &[old]);
    assert_eq!(line(&decision), "1 Deploying working Deploying");
    assert_eq!(decision.last_error, None);
}

#[test]
fn what_stands_in_the_way_is_said_at_once_and_in_its_own_words() {
    let job = small();
    let pull = Blocker { reason: Reason::ImagePullFailed, message: "no such image".to_owned() };
    let pod = PodFacts { blocker: Some(pull), running: false, ..starting_pod(&job) };
    let decision = check(&job, Recorded::default(), &[pod]);
    let expected = Verdict::Stalled(Reason::ImagePullFailed, "pod delays-0: no such image".to_owned());
    assert_eq!(decision.verdict, expected);
    let error = decision.last_error.expect("the blocker is the last error");
    assert_eq!(
        (error.reason.as_str(), error.pod.as_deref(), error.at),
        ("ImagePullFailed", Some("delays-0"), Some(seconds(at(0))))
    );
}

#[test]
fn an_error_seen_twice_is_written_once() {
    let job = small();
    let pull = |message: &str| PodFacts {
        blocker: Some(Blocker { reason: Reason::ImagePullFailed, message: message.to_owned() }),
        running: false,
        ..starting_pod(&job)
    };
    let first = check(&job, Recorded::default(), &[pull("not found")]).last_error;
    let recorded = Recorded { last_error: first.clone(), revision: Some(job.revision.clone()), ..Recorded::default() };
    let later = decide(&job, &recorded, Some(&set()), &[pull("Back-off pulling image")], at(60));
    assert_eq!(later.last_error, first);
}

#[test]
fn the_last_error_stays_until_another_revision_runs() {
    let job = small();
    let error = LastError {
        reason: "ConnectorFailed".to_owned(),
        message: "no broker".to_owned(),
        pod: None,
        exit_code: Some(3),
        at: Some(seconds(at(-60))),
    };
    let recorded = Recorded { last_error: Some(error.clone()), ..Recorded::default() };
    assert_eq!(check(&job, recorded.clone(), &[ready_pod(&job)]).last_error, Some(error));
    let elsewhere = Recorded { revision: Some("other".to_owned()), ..recorded };
    assert_eq!(check(&job, elsewhere, &[ready_pod(&job)]).last_error, None);
}

#[test]
fn pods_that_are_never_created_are_noticed() {
    let job = small();
    let since = |seconds: i64| Recorded { working_since: Some(at(-seconds)), ..Recorded::default() };
    assert_eq!(line(&check(&job, since(10), &[])), "1 Deploying working Deploying");
    assert_eq!(line(&check(&job, since(31), &[])), "1 Deploying stalled PodsRefused");
    let stays = Recorded { stalled: Some(Reason::PodsRefused), ..Recorded::default() };
    assert_eq!(line(&check(&job, stays.clone(), &[])), "1 Deploying stalled PodsRefused");
    assert_eq!(line(&check(&job, stays, &[starting_pod(&job)])), "1 Deploying working Deploying");
}

#[test]
fn waiting_for_readiness_has_a_deadline() {
    let job = small();
    let since = |minutes: i64| Recorded { working_since: Some(at(-minutes * 60)), ..Recorded::default() };
    assert_eq!(line(&check(&job, since(9), &[starting_pod(&job)])), "1 Deploying working Deploying");
    assert_eq!(line(&check(&job, since(11), &[starting_pod(&job)])), "1 Deploying stalled DeadlineExceeded");
    let another = Recorded { revision: Some("other".to_owned()), ..since(11) };
    assert_eq!(line(&check(&job, another, &[starting_pod(&job)])), "1 Deploying working Deploying");
}

#[test]
fn pods_of_an_older_revision_go_one_at_a_time_the_broken_ones_first() {
    let job = small();
    let old = |name: &str, ready: bool| PodFacts {
        name: name.to_owned(),
        uid: name.to_owned(),
        controller_revision: Some("delays-0".to_owned()),
        ready,
        ..ready_pod(&job)
    };
    let replace =
        |set: StatefulSetFacts, pods: &[PodFacts]| decide(&job, &Recorded::default(), Some(&set), pods, at(0)).replace;
    let reference = |name: &str| Some(PodRef { name: name.to_owned(), uid: name.to_owned() });
    assert_eq!(replace(set(), &[old("a", true), old("b", false)]), reference("b"));
    assert_eq!(replace(set(), &[old("a", true)]), reference("a"));
    assert_eq!(replace(set(), &[ready_pod(&job)]), None);
    let leaving = PodFacts { terminating: true, ..old("b", false) };
    assert_eq!(replace(set(), &[old("a", true), leaving]), None, "one at a time");
    let unseen = StatefulSetFacts { observed: false, ..set() };
    assert_eq!(replace(unseen, &[old("a", true)]), None, "its controller has not seen the new template");
}

#[test]
fn a_job_that_cannot_be_built_keeps_what_runs() {
    let job = small();
    let invalid = Invalid { reason: Reason::ClusterNotFound, message: "create it".to_owned() };
    let verdict = Verdict::Stalled(Reason::ClusterNotFound, "create it".to_owned());
    assert_eq!(decide_invalid(&invalid, &[ready_pod(&job)]), (Phase::Running, verdict.clone()));
    assert_eq!(decide_invalid(&invalid, &[]), (Phase::Failed, verdict));
}

#[test]
fn a_deleted_job_ends_its_pods_first_and_never_waits_for_ever() {
    let job = small();
    let deadline = SignedDuration::from_secs(300);
    let step = |set: Option<StatefulSetFacts>, pods: &[PodFacts], waited: i64| {
        decide_deletion(set.as_ref(), pods, at(-waited), at(0), deadline)
    };
    let leaving = StatefulSetFacts { terminating: true, ..set() };
    let pod = ready_pod(&job);
    let reference = PodRef { name: "delays-0".to_owned(), uid: "pod".to_owned() };
    assert_eq!(step(Some(set()), std::slice::from_ref(&pod), 1), Deletion::EndStatefulSet { uid: "set".to_owned() });
    assert_eq!(step(Some(leaving.clone()), std::slice::from_ref(&pod), 1), Deletion::Wait);
    assert_eq!(step(None, std::slice::from_ref(&pod), 1), Deletion::EndPods(vec![reference]));
    assert_eq!(step(None, &[PodFacts { terminating: true, ..pod.clone() }], 1), Deletion::Wait);
    assert_eq!(step(None, &[], 1), Deletion::Release { late: false });
    assert_eq!(step(Some(leaving), std::slice::from_ref(&pod), 301), Deletion::Release { late: true });
}

/// A job of so many pods that takes orders.
fn scaled(replicas: u16) -> ValidatedJob {
    let mut job = valid(json!({"sql": "SELECT 1", "replicas": replicas}));
    job.control = Some(access());
    job
}

/// A pod of this number, whose settings say so many replicas.
fn numbered(job: &ValidatedJob, number: u16, replicas: u16) -> PodFacts {
    let mut pod = PodFacts { name: format!("delays-{number}"), ..pod_in(job, PodPhase::Running) };
    if let Some(status) = &mut pod.status {
        status.settings_replicas = Some(replicas);
    }
    pod
}

fn rescaled(job: &ValidatedJob, assigned: Option<u16>, in_set: i32, waited: i64, pods: &[PodFacts]) -> Decision {
    let recorded = Recorded {
        assigned,
        revision: Some(job.revision.clone()),
        working_since: Some(at(-waited)),
        ..Recorded::default()
    };
    let set = StatefulSetFacts { replicas: in_set, ..set() };
    decide(job, &recorded, Some(&set), pods, at(0))
}

#[test]
fn the_pods_are_told_their_new_number_once_pod_0_would_begin_anew_with_it() {
    let (two, three) = (scaled(2), scaled(3));
    let pods = |job: &ValidatedJob, count: u16, settings: u16| -> Vec<PodFacts> {
        (0..count).map(|number| numbered(job, number, settings)).collect()
    };
    let starting = |job: &ValidatedJob| {
        let mut all = pods(job, 2, 3);
        all.push(PodFacts { name: "delays-2".to_owned(), ..starting_pod(job) });
        all
    };
    let told = |job, assigned, in_set, pods: &[PodFacts]| rescaled(job, assigned, in_set, 1, pods).assign;
    assert_eq!(told(&two, None, 2, &pods(&two, 2, 2)), Assign::Record(2), "what it began with");
    assert_eq!(told(&two, None, 2, &pods(&two, 1, 2)), Assign::Nothing, "not yet");
    assert_eq!(told(&two, Some(2), 2, &pods(&two, 2, 2)), Assign::Nothing, "nothing new");
    assert_eq!(told(&three, Some(2), 2, &pods(&three, 2, 2)), Assign::Nothing, "pod 0 has the old settings");
    assert_eq!(told(&three, Some(2), 3, &starting(&three)), Assign::Order(3));
    assert_eq!(told(&two, Some(3), 3, &pods(&two, 3, 2)), Assign::Order(2));
    assert_eq!(told(&two, Some(3), 3, &pods(&two, 3, 2)[1..]), Assign::Nothing, "pod 0 is away");
    let without = ValidatedJob { control: None, ..scaled(3) };
    assert_eq!(told(&without, Some(2), 3, &starting(&without)), Assign::Nothing, "its pods take no orders");
    let suspended = ValidatedJob { state: crds::v1alpha1::DesiredState::Suspended, ..scaled(3) };
    assert_eq!(told(&suspended, Some(2), 2, &pods(&suspended, 2, 3)), Assign::Nothing);
}

#[test]
fn pods_that_are_to_go_stay_until_their_work_is_with_the_others_but_not_for_ever() {
    let job = scaled(2);
    let pods: Vec<PodFacts> = (0..3).map(|number| numbered(&job, number, 3)).collect();
    let staying = rescaled(&job, Some(3), 3, 700, &pods);
    assert_eq!(line(&staying), "3 Deploying working Rescaling");
    assert_eq!(rescaled(&job, Some(2), 3, 30, &pods).replicas, 2, "the order is given");
    assert_eq!(rescaled(&job, Some(3), 3, 1_000, &pods).replicas, 2, "it took too long");
    assert_eq!(rescaled(&job, Some(3), 2, 30, &pods).replicas, 2, "they are gone already");
    assert_eq!(rescaled(&job, Some(3), 3, 30, &[]).replicas, 2, "nobody is there to be told");
    let without = ValidatedJob { control: None, ..scaled(2) };
    assert_eq!(rescaled(&without, Some(3), 3, 30, &pods).replicas, 2, "pods that take no orders are not waited for");
    assert_eq!(rescaled(&job, Some(1), 3, 30, &pods).replicas, 2);
}
