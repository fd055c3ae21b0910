//! Jobs, pods and facts for the tests, each with one helper to vary it.

use std::collections::BTreeMap;

use crds::names::Reason;
use crds::v1alpha1::{StreamCluster, StreamJob};
use job_api::control::{ControlAccess, IssuerKey};
use job_api::{PodPhase, PodStatus, SnapshotStatus, VERSION};
use k8s_openapi::jiff::Timestamp;
use operator::controller::facts::{LastWords, PodFacts, StatefulSetFacts};
use operator::controller::observe::{Observed, Referenced};
use operator::controller::validate::{ValidatedJob, validate};
use serde_json::{Value, json};

/// The time at which the tests decide.
pub(crate) const NOW: i64 = 1_795_244_400;

/// A time some seconds after [`NOW`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).expect("the time exists")
}

/// A StreamJob with this spec.
pub(crate) fn job(spec: Value) -> StreamJob {
    let object = json!({
        "apiVersion": "millstream.io/v1alpha1", "kind": "StreamJob",
        "metadata": {"name": "delays", "namespace": "team-a", "uid": "6d9d4d0c-52cb-4d2c-9a34-6a1b3b6d1c11", "generation": 1},
        "spec": spec
    });
    serde_json::from_value(object).expect("the job is a StreamJob")
}

/// A StreamCluster with this spec.
pub(crate) fn cluster(spec: Value) -> StreamCluster {
    let object = json!({
        "apiVersion": "millstream.io/v1alpha1", "kind": "StreamCluster",
        "metadata": {"name": "default", "namespace": "team-a"}, "spec": spec
    });
    serde_json::from_value(object).expect("the cluster is a StreamCluster")
}

/// What is seen of a job that is new and refers to nothing.
pub(crate) fn nothing() -> Observed {
    Observed {
        now: at(0),
        cluster: Referenced::NotNamed,
        sql: Referenced::NotNamed,
        restore: Referenced::NotNamed,
        access: None,
        stateful_set: None,
        pods: Vec::new(),
        children: BTreeMap::new(),
        taken: None,
    }
}

/// Whose orders the pods of [`job`] take.
pub(crate) fn access() -> ControlAccess {
    ControlAccess {
        issuer: "https://kubernetes.default.svc".to_owned(),
        audience: "millstream/6d9d4d0c-52cb-4d2c-9a34-6a1b3b6d1c11".to_owned(),
        subject: "system:serviceaccount:millstream-system:millstream-operator".to_owned(),
        keys: vec![IssuerKey::Rsa { kid: "a".to_owned(), n: "AQAB".to_owned(), e: "AQAB".to_owned() }],
    }
}

/// The job with this spec, validated.
pub(crate) fn valid(spec: Value) -> ValidatedJob {
    validate(&job(spec), &nothing(), "millstream:test").expect("the job is valid")
}

/// A job that is as small as can be.
pub(crate) fn small() -> ValidatedJob {
    valid(json!({"sql": "SELECT 1"}))
}

/// The StatefulSet of a running job.
pub(crate) fn set() -> StatefulSetFacts {
    StatefulSetFacts {
        uid: "set".to_owned(),
        observed: true,
        update_revision: Some("delays-1".to_owned()),
        replicas: 1,
        terminating: false,
    }
}

/// A pod of this job that is ready.
pub(crate) fn ready_pod(job: &ValidatedJob) -> PodFacts {
    PodFacts {
        name: "delays-0".to_owned(),
        uid: "pod".to_owned(),
        ip: None,
        revision: Some(job.revision.clone()),
        controller_revision: Some("delays-1".to_owned()),
        ready: true,
        running: true,
        terminating: false,
        blocker: None,
        last_words: None,
        status: None,
    }
}

/// A pod of this job that is not ready.
pub(crate) fn starting_pod(job: &ValidatedJob) -> PodFacts {
    PodFacts { ready: false, ..ready_pod(job) }
}

/// A pod of this job whose process ended like this.
pub(crate) fn ended_pod(job: &ValidatedJob, reason: Reason, message: &str) -> PodFacts {
    let last_words = LastWords { reason: Some(reason), message: message.to_owned(), exit_code: 2, at: Some(at(-5)) };
    PodFacts { running: false, last_words: Some(last_words), ..starting_pod(job) }
}

/// A pod of this job that says it is in this phase.
pub(crate) fn pod_in(job: &ValidatedJob, phase: PodPhase) -> PodFacts {
    let status = PodStatus {
        version: VERSION,
        revision: job.revision.clone(),
        phase,
        commits: 7,
        last_commit_ms: Some(1_795_244_399_123),
        rows_in: 100,
        rows_out: 10,
        lag_rows: Some(3),
        waits: None,
        watermark_ms: Some(1_795_244_000_000),
        settings_replicas: Some(job.replicas),
        snapshots: Some(SnapshotStatus {
            number: Some(3),
            last_ms: Some(1_795_244_390_456),
            bytes: 4096,
            taken: 3,
            ..SnapshotStatus::default()
        }),
        operators: Vec::new(),
        error: None,
    };
    PodFacts { status: Some(status), ..ready_pod(job) }
}
