//! Whole lives of jobs against an API server in memory: what is written, in which order, and that an operator which dies at any write
//! comes to the same end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use crds::v1alpha1::StreamJob;
use job_api::{PodPhase, PodStatus};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use operator::access::Access;
use operator::args::Args;
use operator::controller::apply::AppliedCache;
use operator::controller::{Context, Error, reconcile};
use operator::metrics::Metrics;
use serde_json::{Value, json};

use crate::fake_api::{Failure, FakeApi, FakePods};
use crate::fixtures::{job, pod_in, valid};

/// Path of the job.
pub(crate) const JOB: &str = "/apis/millstream.io/v1alpha1/namespaces/team-a/streamjobs/delays";
const SET: &str = "/apis/apps/v1/namespaces/team-a/statefulsets/delays";

/// A cluster with one job, and an operator that can be started anew.
pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) pods: Arc<FakePods>,
    pub(crate) context: Arc<Context>,
}

impl World {
    pub(crate) fn new(spec: Value) -> Self {
        let api = FakeApi::default();
        let mut object = serde_json::to_value(job(spec)).expect("a job is JSON");
        object["metadata"]["resourceVersion"] = json!("0");
        api.lock().objects.insert(JOB.to_owned(), object);
        let pods = Arc::new(FakePods::default());
        let context = Self::context(&api, &pods);
        Self { api, pods, context }
    }

    fn context(api: &FakeApi, pods: &Arc<FakePods>) -> Arc<Context> {
        let client = api.client();
        let reporter = Reporter { controller: "test".to_owned(), instance: Some("test".to_owned()) };
        Arc::new(Context {
            recorder: Recorder::new(client.clone(), reporter),
            access: Access::new(client.clone(), "millstream-system", "millstream-operator"),
            client,
            pods: Arc::<FakePods>::clone(pods),
            metrics: Arc::new(Metrics::new().expect("names are distinct")),
            args: Args::try_parse_from(["operator", "--job-image", "millstream:test"])
                .expect("all arguments have defaults"),
            applied: AppliedCache::default(),
            failures: Mutex::default(),
        })
    }

    /// The operator dies and starts anew: all that it remembers is in the cluster.
    pub(crate) fn restart(&mut self) {
        self.context = Self::context(&self.api, &self.pods);
    }

    async fn reconcile(&self) -> Result<(), Error> {
        let seen: StreamJob = serde_json::from_value(json!({
            "apiVersion": "millstream.io/v1alpha1", "kind": "StreamJob",
            "metadata": {"name": "delays", "namespace": "team-a"}, "spec": {"sql": "what the watch saw is not what counts"}
        }))
        .expect("the job is a StreamJob");
        reconcile(Arc::new(DeserializeGuard(Ok(seen))), Arc::clone(&self.context)).await.map(|_| ())
    }

    /// Reconciles and lets Kubernetes act until nothing is written any more. An error restarts the operator.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..30 {
            let before = self.api.lock().writes.len();
            if self.reconcile().await.is_err() {
                self.restart();
                continue;
            }
            self.api.lock().run_stateful_sets();
            let quiet = self.api.lock().writes.len() == before;
            if quiet {
                return;
            }
        }
        panic!("never quiet: {:#?}", self.api.lock().writes);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.api.lock().objects.get(path).cloned()
    }

    pub(crate) fn status(&self) -> Value {
        self.object(JOB).expect("the job exists")["status"].clone()
    }

    /// What happens to the job from its making to its end: it runs, is edited, its input ends.
    async fn live(&mut self) {
        self.settle().await;
        let second = json!({"sql": "SELECT 2"});
        self.api.lock().edit(JOB, &second);
        self.settle().await;
        let finished = pod_in(&valid(second), PodPhase::Finished).status;
        *self.pods.status.lock().expect("nothing panicked") = finished;
        self.settle().await;
    }

    /// Everything but what differs from run to run: versions, uids, times.
    fn picture(&self) -> BTreeMap<String, Value> {
        let mut objects = self.api.lock().objects.clone();
        objects.values_mut().for_each(forget_run);
        objects
    }
}

/// Removes what differs from run to run.
fn forget_run(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in
                ["resourceVersion", "uid", "generation", "observedGeneration", "lastTransitionTime", "at", "observedAt"]
            {
                map.remove(key);
            }
            map.values_mut().for_each(forget_run);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_run),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn small() -> Value {
    json!({"sql": "SELECT 1"})
}

#[tokio::test]
async fn a_new_job_gets_its_finalizer_then_its_objects_then_its_status() {
    let world = World::new(small());
    world.reconcile().await.expect("the API server answers");
    let writes = world.api.lock().writes.clone();
    let expected = [
        "PATCH /apis/millstream.io/v1alpha1/namespaces/team-a/streamjobs/delays",
        "PATCH /api/v1/namespaces/team-a/configmaps/delays-millstream",
        "PATCH /api/v1/namespaces/team-a/services/delays",
        "PATCH /apis/networking.k8s.io/v1/namespaces/team-a/networkpolicies/delays",
        "PATCH /apis/policy/v1/namespaces/team-a/poddisruptionbudgets/delays",
        "PATCH /apis/apps/v1/namespaces/team-a/statefulsets/delays",
        "PATCH /apis/millstream.io/v1alpha1/namespaces/team-a/streamjobs/delays/status",
        "POST /apis/events.k8s.io/v1/namespaces/team-a/events",
    ];
    assert_eq!(writes, expected);
}

#[tokio::test]
async fn a_job_that_runs_is_left_alone() {
    let mut world = World::new(small());
    world.settle().await;
    assert_eq!(world.status()["phase"], "Running");
    let before = world.api.lock().writes.len();
    for _ in 0..3 {
        world.reconcile().await.expect("the API server answers");
    }
    assert_eq!(world.api.lock().writes.len(), before);
    assert_eq!(world.object(JOB).expect("the job exists")["spec"], small(), "the spec is the user's");
}

#[tokio::test]
async fn an_edit_replaces_the_pod() {
    let mut world = World::new(small());
    world.settle().await;
    let pod = |world: &World| {
        world.object("/api/v1/namespaces/team-a/pods/delays-0").expect("the pod exists")["metadata"]["uid"].clone()
    };
    let old = pod(&world);
    world.api.lock().edit(JOB, &json!({"sql": "SELECT 2"}));
    world.settle().await;
    assert_ne!(pod(&world), old);
    assert_eq!(world.status()["phase"], "Running");
}

#[tokio::test]
async fn what_somebody_changes_is_put_right() {
    let mut world = World::new(small());
    world.settle().await;
    let before = world.picture();
    let mut set = world.object(SET).expect("the StatefulSet exists");
    set["spec"]["replicas"] = json!(5);
    set["metadata"]["generation"] = json!(9);
    world.api.lock().objects.insert(SET.to_owned(), set);
    world.api.lock().objects.remove("/api/v1/namespaces/team-a/services/delays");
    world.settle().await;
    assert_eq!(world.picture(), before);
}

#[tokio::test]
async fn a_finished_job_has_no_pods_and_is_recorded_before_they_go() {
    let mut world = World::new(small());
    world.live().await;
    assert_eq!(world.status()["phase"], "Finished");
    assert_eq!(world.object(SET).expect("the StatefulSet stays")["spec"]["replicas"], 0);
    let writes = world.api.lock().writes.clone();
    let last_set = writes.iter().rposition(|write| write.ends_with("statefulsets/delays")).expect("it was scaled");
    assert!(writes[..last_set].last().is_some_and(|write| write.starts_with("POST")), "an event: {writes:#?}");
    assert!(writes[..last_set].iter().rev().nth(1).is_some_and(|write| write.ends_with("/status")), "{writes:#?}");
}

#[tokio::test]
async fn an_operator_that_dies_at_any_write_comes_to_the_same_end() {
    let mut undisturbed = World::new(small());
    undisturbed.live().await;
    let picture = undisturbed.picture();
    let writes = undisturbed.api.lock().writes.len();
    assert!(writes > 15, "the life is long enough to be worth disturbing: {writes}");
    for failure in [Failure::Lost, Failure::Unanswered] {
        for at in 0..writes {
            let mut world = World::new(small());
            world.api.lock().fail = Some((at, failure));
            world.live().await;
            let end = world.picture();
            assert!(end.keys().eq(picture.keys()), "{failure:?} at write {at}: {:?}", end.keys());
            for (path, object) in &end {
                assert_eq!(object, &picture[path], "{failure:?} at write {at}: {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_deleted_job_leaves_nothing_behind_whenever_the_operator_dies() {
    for failure in [None, Some(Failure::Lost), Some(Failure::Unanswered)] {
        for at in 0..6 {
            let mut world = World::new(small());
            world.settle().await;
            let writes = world.api.lock().writes.len();
            world.api.lock().fail = failure.map(|failure| (writes + at, failure));
            world.api.lock().mark_deleted(JOB);
            world.settle().await;
            assert_eq!(world.picture(), BTreeMap::new(), "{failure:?} at write {at}");
        }
    }
}

#[tokio::test]
async fn a_namespace_that_is_deleted_with_the_operators_rights_in_it_still_ends() {
    let mut world = World::new(small());
    world.settle().await;
    world.api.lock().rights_gone = true;
    world.api.lock().mark_deleted(JOB);
    world.settle().await;
    assert_eq!(world.object(JOB), None);
}

#[tokio::test]
async fn what_the_api_server_refuses_is_said_in_its_own_words() {
    let mut world = World::new(small());
    world.api.lock().refuse = Some("statefulsets/delays".to_owned());
    for _ in 0..3 {
        world.reconcile().await.expect("a refusal is no error");
    }
    let stalled =
        world.status()["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Stalled").cloned();
    let stalled = stalled.expect("there is a condition");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("ApplyRefused")));
    assert_eq!(stalled["message"], "StatefulSet delays: exceeded quota");
    world.api.lock().refuse = None;
    world.settle().await;
    assert_eq!(world.status()["phase"], "Running");
}

#[tokio::test]
async fn an_object_of_somebody_else_stays_theirs() {
    let mut world = World::new(small());
    let path = "/api/v1/namespaces/team-a/services/delays";
    let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "delays", "uid": "theirs", "resourceVersion": "7"}});
    world.api.lock().objects.insert(path.to_owned(), theirs.clone());
    world.settle().await;
    assert_eq!(world.object(path), Some(theirs));
    assert_eq!(world.object(SET), None);
    assert_eq!(world.status()["conditions"][2]["reason"], "NameTaken");
}

#[tokio::test]
async fn a_pod_that_says_nothing_is_no_error() {
    let mut world = World::new(small());
    let nothing: Option<PodStatus> = None;
    *world.pods.status.lock().expect("nothing panicked") = nothing;
    world.settle().await;
    assert_eq!(world.status()["phase"], "Running");
    assert_eq!(world.status()["progress"], Value::Null);
}

#[tokio::test]
async fn new_keys_of_the_api_server_reach_the_pods_settings_and_restart_nothing() {
    let mut world = World::new(small());
    world.api.lock().publish_keys("first");
    world.settle().await;
    let config_map = "/api/v1/namespaces/team-a/configmaps/delays-millstream";
    let settings = |world: &World| world.object(config_map).expect("it exists")["data"]["settings.yaml"].to_string();
    assert!(settings(&world).contains("first"), "{}", settings(&world));
    assert!(settings(&world).contains("system:serviceaccount:millstream-system:millstream-operator"));
    let (set, pod) = (world.object(SET), world.object("/api/v1/namespaces/team-a/pods/delays-0"));
    world.api.lock().publish_keys("second");
    // The operator reads keys every few minutes, and when it starts.
    world.restart();
    world.settle().await;
    assert!(settings(&world).contains("second"), "{}", settings(&world));
    assert_eq!((set, pod), (world.object(SET), world.object("/api/v1/namespaces/team-a/pods/delays-0")));
}

#[tokio::test]
async fn a_new_number_of_pods_is_ordered_from_a_pod_and_recorded() {
    let mut world = World::new(json!({"sql": "SELECT 1", "replicas": 1}));
    world.api.lock().publish_keys("a");
    world.settle().await;
    assert_eq!(world.status()["assignedReplicas"], 1);
    world.api.lock().edit(JOB, &json!({"sql": "SELECT 1", "replicas": 2}));
    let says = |replicas: u16| {
        let mut status = pod_in(&valid(small()), PodPhase::Running).status.expect("it says something");
        status.settings_replicas = Some(replicas);
        Some(status)
    };
    *world.pods.status.lock().expect("nothing panicked") = says(1);
    world.settle().await;
    assert_eq!(world.pods.ordered(), [] as [&str; 0], "the pod would begin anew with the old number");
    *world.pods.status.lock().expect("nothing panicked") = says(2);
    *world.pods.refuse.lock().expect("nothing panicked") = Some((503, "the pod is starting"));
    world.settle().await;
    assert_eq!(world.status()["assignedReplicas"], 1, "a refused order is given again");
    *world.pods.refuse.lock().expect("nothing panicked") = None;
    world.pods.fetching.store(true, Ordering::Relaxed);
    world.settle().await;
    assert_eq!(world.status()["assignedReplicas"], 1, "the pods fetch what they gain");
    world.pods.fetching.store(false, Ordering::Relaxed);
    world.settle().await;
    let ordered = world.pods.ordered();
    assert!(ordered.len() > 1 && ordered.iter().all(|order| order == "assign 2"), "{ordered:?}");
    assert_eq!(world.status()["assignedReplicas"], 2);
}
