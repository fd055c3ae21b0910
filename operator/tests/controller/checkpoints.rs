//! What becomes of a Checkpoint: as a table, and as whole lives against an API server in memory with an operator that dies at any write.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crds::v1alpha1::{Checkpoint, CheckpointPhase, CheckpointType, OrderedSavepoint, Phase};
use job_api::orders::{SavepointPhase, SavepointStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::DeserializeGuard;
use operator::checkpoints::decide::{
    Answer, JobFacts, JobSeen, Outcome, Pursuit, ReadyPod, Recorded, Step, judge, must_order, step,
};
use operator::checkpoints::{CheckpointError, reconcile, status_of};
use operator::controller::decide::{Verdict, seconds};
use serde_json::{Value, json};

use crate::fake_api::{Failure, FakePods};
use crate::fixtures::{at, cluster};
use crate::scenarios::World;

const UID: &str = "0c7a51a8-3e5c-4a57-b0ce-5b1f6ad7a1cd";
const PATH: &str = "/apis/millstream.io/v1alpha1/namespaces/team-a/checkpoints/before-upgrade";
const CLUSTER: &str = "/apis/millstream.io/v1alpha1/namespaces/team-a/streamclusters/default";

fn pod(number: u8) -> ReadyPod {
    ReadyPod { name: format!("delays-{number}"), address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)) }
}

fn running_job() -> JobFacts {
    JobFacts {
        name: "delays".to_owned(),
        uid: "job".to_owned(),
        phase: Some(Phase::Running),
        storage: true,
        ready: vec![pod(0), pod(1)],
    }
}

fn order_at(time: Timestamp) -> OrderedSavepoint {
    OrderedSavepoint { name: format!("cp-{UID}"), job_uid: "job".to_owned(), at: seconds(time) }
}

fn ordered_at(time: Timestamp) -> Recorded {
    Recorded { phase: Some(CheckpointPhase::Ordered), ordered: Some(order_at(time)), ..Recorded::default() }
}

/// Phase, reason of readiness and what the conditions say, in one line.
fn line(outcome: &Outcome) -> String {
    let (kind, reason) = match &outcome.verdict {
        Verdict::Settled(reason, _) => ("settled", reason),
        Verdict::Working(reason, _) => ("working", reason),
        Verdict::Stalled(reason, _) => ("stalled", reason),
    };
    let phase = outcome.phase.map_or_else(|| "-".to_owned(), |phase| format!("{phase:?}"));
    format!("{phase} {kind} {reason}")
}

fn said(recorded: &Recorded, job: &JobSeen) -> String {
    match step(CheckpointType::Savepoint, UID, recorded, job, at(0)) {
        Step::Say(outcome) => line(&outcome),
        Step::Pursue(pursuit) => {
            assert_eq!(
                pursuit.ordered.name,
                format!("cp-{UID}"),
                "the name is the object's, however often it is asked"
            );
            format!("pursue, {}", if pursuit.may_order { "may order" } else { "only ask" })
        }
    }
}

#[test]
fn a_savepoint_is_ordered_only_from_a_job_that_can_make_one() {
    let new = Recorded::default;
    let ordered = || ordered_at(at(-5));
    let completed =
        || Recorded { phase: Some(CheckpointPhase::Completed), completed_at: Some(at(-1)), ..ordered_at(at(-5)) };
    let job = |change: fn(&mut JobFacts)| {
        let mut job = running_job();
        change(&mut job);
        JobSeen::Found(job)
    };
    let missing = || JobSeen::Missing { name: "delays".to_owned() };
    let table: [(&str, Recorded, JobSeen, &str); 16] = [
        ("all is well", new(), job(|_| ()), "pursue, may order"),
        ("no job", new(), missing(), "Pending stalled JobNotFound"),
        ("no bucket", new(), job(|job| job.storage = false), "Pending stalled NoStorage"),
        ("suspended", new(), job(|job| job.phase = Some(Phase::Suspended)), "Pending stalled JobNotRunning"),
        ("finished", new(), job(|job| job.phase = Some(Phase::Finished)), "Pending stalled JobNotRunning"),
        ("failed", new(), job(|job| job.phase = Some(Phase::Failed)), "Pending stalled JobNotRunning"),
        ("going", new(), job(|job| job.phase = Some(Phase::Deleting)), "Pending stalled JobNotRunning"),
        ("no pod is ready", new(), job(|job| job.ready.clear()), "Pending working WaitingForJob"),
        ("just created", new(), job(|job| (job.phase, job.ready) = (None, vec![])), "Pending working WaitingForJob"),
        (
            "one pod is ready of those that are deployed",
            new(),
            job(|job| job.phase = Some(Phase::Deploying)),
            "pursue, may order",
        ),
        ("ordered", ordered(), job(|_| ()), "pursue, may order"),
        ("ordered, and no pod is ready", ordered(), job(|job| job.ready.clear()), "pursue, may order"),
        ("ordered, and the job is gone", ordered(), missing(), "Failed stalled JobNotFound"),
        ("ordered from another job", ordered(), job(|job| job.uid = "new".to_owned()), "Failed stalled JobNotFound"),
        ("complete, sizes missing", completed(), job(|_| ()), "pursue, only ask"),
        ("complete, and the job is gone", completed(), missing(), "Completed settled Completed"),
    ];
    for (name, recorded, job, expected) in table {
        assert_eq!(said(&recorded, &job), expected, "{name}");
    }
}

#[test]
fn a_periodic_checkpoint_is_no_order() {
    let job = JobSeen::Found(running_job());
    let Step::Say(outcome) = step(CheckpointType::Checkpoint, UID, &Recorded::default(), &job, at(0)) else {
        panic!("nothing is asked of pods");
    };
    assert_eq!(line(&outcome), "- stalled NotSupported");
}

fn told(phase: SavepointPhase, bytes: Option<u64>) -> Answer {
    let complete = phase == SavepointPhase::Completed;
    Answer::Known(SavepointStatus {
        version: job_api::VERSION,
        name: format!("cp-{UID}"),
        phase,
        location: complete.then(|| "s3://streams/one".to_owned()),
        pause_ms: bytes.map(|bytes| bytes / 10),
        bytes,
        message: (phase == SavepointPhase::Failed).then(|| "the disk is full".to_owned()),
    })
}

fn refused(code: u16) -> Answer {
    Answer::Refused { code, message: "in the pod's words".to_owned() }
}

fn silent() -> Answer {
    Answer::Silent { message: "no answer".to_owned() }
}

fn judged(ordered: Timestamp, answers: &[Answer]) -> Outcome {
    let pursuit = Pursuit { ordered: order_at(ordered), may_order: true, pods: running_job().ready };
    judge(&pursuit, &ordered_at(ordered), answers, at(0))
}

#[test]
fn what_the_pods_say_is_what_the_status_says() {
    use SavepointPhase::{Completed, Draining, Failed, Uploading};
    let (now, long_ago) = (at(-5), at(-4000));
    let table: [(&str, Timestamp, Vec<Answer>, &str); 14] = [
        ("taken", now, vec![told(Draining, None), Answer::Unknown], "Draining working SavepointRunning"),
        (
            "one is further",
            now,
            vec![told(Draining, None), told(Uploading, None)],
            "Uploading working SavepointRunning",
        ),
        (
            "one says complete",
            now,
            vec![told(Uploading, None), told(Completed, Some(1))],
            "Completed settled Completed",
        ),
        ("complete, one is away", now, vec![told(Completed, Some(1)), silent()], "Completed settled Completed"),
        ("failed", now, vec![told(Uploading, None), told(Failed, None)], "Failed stalled SavepointFailed"),
        ("the order is wrong", now, vec![refused(400), Answer::Unknown], "Failed stalled OrderRefused"),
        ("another savepoint runs", now, vec![refused(409), Answer::Unknown], "Ordered working OrderRefused"),
        ("no control settings yet", now, vec![refused(403), refused(403)], "Ordered working OrderRefused"),
        ("nobody answers", now, vec![silent(), silent()], "Ordered working WaitingForJob"),
        ("nobody is there", now, vec![], "Ordered working WaitingForJob"),
        ("refused for long", long_ago, vec![refused(409), Answer::Unknown], "Ordered stalled OrderRefused"),
        ("silent for long", long_ago, vec![silent()], "Ordered stalled WaitingForJob"),
        ("slow", long_ago, vec![told(Uploading, None)], "Uploading stalled DeadlineExceeded"),
        ("slow, and complete", long_ago, vec![told(Completed, Some(1))], "Completed settled Completed"),
    ];
    for (name, ordered, answers, expected) in table {
        let outcome = judged(ordered, &answers);
        assert_eq!(line(&outcome), expected, "{name}");
        let ends = matches!(outcome.phase, Some(CheckpointPhase::Failed));
        assert!(ends || outcome.look.is_some() || outcome.complete.is_some(), "{name}: what can change is looked at");
    }
    let text = format!("{:?}", judged(now, &[told(Failed, None)]).verdict);
    assert!(text.contains("the disk is full; the job went on"), "{text}");
}

#[test]
fn an_order_is_given_only_if_no_pod_knows_of_it() {
    let pursuit = |may_order| Pursuit { ordered: order_at(at(0)), may_order, pods: running_job().ready };
    let table = [
        (vec![Answer::Unknown, Answer::Unknown], true),
        (vec![Answer::Unknown, silent()], true),
        (vec![Answer::Unknown, told(SavepointPhase::Draining, None)], false),
        (vec![silent(), refused(503)], false),
        (vec![], false),
    ];
    for (answers, expected) in table {
        assert_eq!(must_order(&pursuit(true), &answers), expected, "{answers:?}");
        assert!(!must_order(&pursuit(false), &answers), "a savepoint that is complete is never ordered again");
    }
}

#[test]
fn the_size_is_the_sum_over_all_pods_or_not_known() {
    let all = judged(at(-5), &[told(SavepointPhase::Completed, Some(100)), told(SavepointPhase::Completed, Some(300))]);
    let complete = all.complete.expect("it is complete");
    assert_eq!((complete.size_bytes, complete.pause_ms, complete.duration_ms), (Some(400), Some(30), 5000));
    assert_eq!((complete.at, all.look), (at(0), None));
    // One pod has not seen yet that it is complete: it is asked again, but not for ever.
    let part = [told(SavepointPhase::Completed, Some(100)), told(SavepointPhase::Uploading, None)];
    let some = judged(at(-5), &part);
    assert_eq!(some.complete.as_ref().expect("it is complete").size_bytes, None);
    assert!(some.look.is_some());
    let recorded = |seconds| Recorded {
        phase: Some(CheckpointPhase::Completed),
        completed_at: Some(at(seconds)),
        ..ordered_at(at(-60))
    };
    assert!(!recorded(-5).is_done(at(0)));
    assert!(recorded(-20).is_done(at(0)));
    assert!(Recorded { sized: true, ..recorded(0) }.is_done(at(0)));
    // What was recorded as the end stays the end.
    let pursuit = Pursuit { ordered: order_at(at(-60)), may_order: false, pods: running_job().ready };
    let later = judge(&pursuit, &recorded(-5), &part, at(0));
    assert_eq!(later.complete.expect("it is complete").at, at(-5));
    assert_eq!(line(&judge(&pursuit, &recorded(-5), &[silent()], at(0))), "Completed settled Completed");
}

fn checkpoint(type_: &str) -> Value {
    json!({
        "apiVersion": "millstream.io/v1alpha1", "kind": "Checkpoint",
        "metadata": {"name": "before-upgrade", "namespace": "team-a", "uid": UID, "generation": 1, "resourceVersion": "0"},
        "spec": {"jobRef": {"name": "delays"}, "type": type_}
    })
}

#[test]
fn others_come_to_the_right_conclusion_at_every_step() {
    let object: Checkpoint = serde_json::from_value(checkpoint("Savepoint")).expect("it is a Checkpoint");
    for answers in [
        vec![told(SavepointPhase::Draining, None)],
        vec![told(SavepointPhase::Completed, Some(1))],
        vec![told(SavepointPhase::Failed, None)],
    ] {
        let status = status_of(&object, &judged(at(-5), &answers), at(0));
        let holding = status.conditions.iter().filter(|condition| condition.status == "True").count();
        assert_eq!(holding, 1, "{:?}", status.conditions);
        assert_eq!(status.observed_generation, Some(1));
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").expect("there is one");
        assert_eq!(ready.status == "True", status.phase == Some(CheckpointPhase::Completed));
    }
}

/// A job that runs with a bucket, and a checkpoint of it.
struct Life {
    world: World,
}

impl Life {
    async fn new(type_: &str) -> Self {
        let spec = json!({"sql": "SELECT 1", "clusterRef": {"name": "default"}});
        let mut world = World::new(spec);
        let storage = json!({"storage": {"checkpoints": {"s3": {"bucket": "streams"}}}});
        let cluster = serde_json::to_value(cluster(storage)).expect("a cluster is JSON");
        world.api.lock().objects.insert(CLUSTER.to_owned(), cluster);
        world.api.lock().publish_keys("a");
        world.settle().await;
        world.api.lock().objects.insert(PATH.to_owned(), checkpoint(type_));
        Self { world }
    }

    fn pods(&self) -> &FakePods {
        &self.world.pods
    }

    async fn reconcile(&self) -> Result<(), CheckpointError> {
        let seen: Checkpoint = serde_json::from_value(checkpoint("Savepoint")).expect("it is a Checkpoint");
        reconcile(Arc::new(DeserializeGuard(Ok(seen))), Arc::clone(&self.world.context)).await.map(drop)
    }

    /// Looks until a look without a failure; after a failure the operator is another one.
    async fn look(&mut self) {
        for _ in 0..4 {
            if self.reconcile().await.is_ok() {
                return;
            }
            self.world.restart();
        }
        panic!("never without a failure");
    }

    fn status(&self) -> Value {
        self.world.object(PATH).expect("the checkpoint exists")["status"].clone()
    }

    /// Ordered, made, complete.
    async fn live(&mut self) {
        self.look().await;
        self.pods().tell(|status| status.phase = SavepointPhase::Uploading);
        self.look().await;
        self.pods().tell(|status| {
            status.phase = SavepointPhase::Completed;
            (status.location, status.bytes) = (Some("s3://streams/one".to_owned()), Some(4096));
            status.pause_ms = Some(12);
        });
        self.look().await;
        self.look().await;
    }
}

#[tokio::test]
async fn a_savepoint_is_recorded_then_ordered_then_watched_to_its_end() {
    let mut life = Life::new("Savepoint").await;
    life.reconcile().await.expect("the API server answers");
    let status = life.status();
    assert_eq!((&status["phase"], &status["savepoint"]["name"]), (&json!("Draining"), &json!(format!("cp-{UID}"))));
    assert_eq!(life.pods().ordered(), [format!("savepoint cp-{UID}")]);
    life.live().await;
    let status = life.status();
    assert_eq!(status["phase"], "Completed");
    assert_eq!((&status["location"], &status["sizeBytes"]), (&json!("s3://streams/one"), &json!(4096)));
    assert_eq!(status["pauseMs"], 12);
    assert_eq!(life.pods().ordered().len(), 1, "ordered once");
    let writes = life.world.api.lock().writes.len();
    life.look().await;
    assert_eq!(life.world.api.lock().writes.len(), writes, "what is complete is left alone");
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_orders_the_same_savepoint() {
    let writes_of = |life: &Life| life.world.api.lock().writes.len();
    let mut undisturbed = Life::new("Savepoint").await;
    let begin = writes_of(&undisturbed);
    undisturbed.live().await;
    let writes = writes_of(&undisturbed) - begin;
    assert!(writes >= 5, "the life is long enough to be worth disturbing: {writes}");
    for failure in [Failure::Lost, Failure::Unanswered] {
        for number in 0..writes {
            let mut life = Life::new("Savepoint").await;
            let begin = writes_of(&life);
            life.world.api.lock().fail = Some((begin + number, failure));
            life.live().await;
            assert_eq!(life.status()["phase"], "Completed", "{failure:?} at write {number}");
            assert_eq!(life.pods().ordered(), [format!("savepoint cp-{UID}")], "{failure:?} at write {number}");
        }
    }
}

#[tokio::test]
async fn nothing_is_ordered_before_it_is_recorded() {
    let mut life = Life::new("Savepoint").await;
    let begin = life.world.api.lock().writes.len();
    life.world.api.lock().fail = Some((begin, Failure::Lost));
    life.reconcile().await.expect_err("the status could not be written");
    assert_eq!(life.pods().ordered(), [] as [&str; 0]);
    life.world.restart();
    life.look().await;
    assert_eq!(life.pods().ordered().len(), 1);
}

#[tokio::test]
async fn a_job_that_is_busy_is_asked_again_and_one_without_rights_says_so() {
    let mut life = Life::new("Savepoint").await;
    *life.pods().refuse.lock().expect("nothing panicked") = Some((409, "savepoint one is being made"));
    life.look().await;
    let ready = life.status()["conditions"][0].clone();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("OrderRefused")));
    assert_eq!(ready["message"], "savepoint one is being made");
    *life.pods().refuse.lock().expect("nothing panicked") = None;
    life.look().await;
    assert_eq!(life.status()["phase"], "Draining");

    let life = Life::new("Savepoint").await;
    life.world.api.lock().refuse = Some("/token".to_owned());
    life.reconcile().await.expect("it is no error");
    let message = life.status()["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("cannot get a token of service account millstream-operator"), "{message}");
}

#[tokio::test]
async fn a_job_that_is_deleted_meanwhile_fails_its_savepoint() {
    let mut life = Life::new("Savepoint").await;
    life.look().await;
    life.world.api.lock().objects.remove(crate::scenarios::JOB);
    life.look().await;
    let status = life.status();
    assert_eq!((&status["phase"], &status["conditions"][2]["reason"]), (&json!("Failed"), &json!("JobNotFound")));
}

#[tokio::test]
async fn a_periodic_checkpoint_says_that_it_is_none() {
    let mut life = Life::new("Checkpoint").await;
    life.look().await;
    assert_eq!(life.status()["conditions"][2]["reason"], "NotSupported");
    assert_eq!(life.pods().ordered(), [] as [&str; 0]);
}

/// A job that begins with a checkpoint waits for it, takes its location, and does not need the object again.
#[tokio::test]
async fn a_job_begins_with_a_checkpoint() {
    let mut life = Life::new("Savepoint").await;
    let spec = json!({"sql": "SELECT 1", "restoreFrom": {"checkpoint": "before-upgrade"}});
    let mut world = World::new(spec);
    let reason = |world: &World| world.status()["conditions"][0]["reason"].clone();
    world.settle().await;
    assert_eq!(reason(&world), "CheckpointNotFound");
    life.look().await;
    let object = life.world.object(PATH).expect("the checkpoint exists");
    world.api.lock().objects.insert(PATH.to_owned(), object);
    world.settle().await;
    assert_eq!(reason(&world), "CheckpointNotReady");
    life.live().await;
    let object = life.world.object(PATH).expect("the checkpoint exists");
    world.api.lock().objects.insert(PATH.to_owned(), object);
    world.settle().await;
    assert_eq!((reason(&world), &world.status()["restoreFrom"]), (json!("Running"), &json!("s3://streams/one")));
    let config_map = "/api/v1/namespaces/team-a/configmaps/delays-millstream";
    let settings = |world: &World| world.object(config_map).expect("it exists")["data"]["settings.yaml"].to_string();
    assert!(settings(&world).contains("s3://streams/one"), "{}", settings(&world));
    world.api.lock().objects.remove(PATH);
    world.settle().await;
    assert_eq!(reason(&world), "Running");
    assert!(settings(&world).contains("s3://streams/one"), "{}", settings(&world));
}

#[test]
fn deadlines_are_longer_than_what_they_wait_for() {
    // The kubelet brings new keys and settings within two minutes; the API server's answer in seconds.
    let waited = |minutes: i64| judged(at(0) - SignedDuration::from_mins(minutes), &[refused(401)]);
    assert_eq!(line(&waited(9)), "Ordered working OrderRefused");
    assert_eq!(line(&waited(11)), "Ordered stalled OrderRefused");
}
