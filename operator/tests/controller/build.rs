//! What a job's objects are: whole objects as snapshots, and what holds for every job as properties.

use std::collections::BTreeMap;

use crds::names::Reason;
use crds::v1alpha1::StreamJobStatus;
use job_api::PodSettings;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use operator::controller::build::{JobObjects, build};
use operator::controller::observe::{CheckpointFacts, Referenced};
use operator::controller::validate::validate;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

use crate::fixtures::{access, cluster, job, nothing, small, valid};

/// The objects as one YAML text, with paths and content in a fixed order.
fn yaml(objects: &JobObjects) -> String {
    let all = [
        serde_json::to_value(&objects.config_map),
        serde_json::to_value(&objects.service),
        serde_json::to_value(&objects.network_policy),
        serde_json::to_value(&objects.pod_disruption_budget),
        serde_json::to_value(&objects.stateful_set),
    ];
    all.into_iter()
        .map(|value| serde_saphyr::to_string(&value.expect("an object is JSON")).expect("an object is YAML"))
        .collect::<Vec<_>>()
        .join("---\n")
}

#[test]
fn the_smallest_job() {
    insta::assert_snapshot!("smallest_job", yaml(&build(&small(), 1, "millstream-system")));
}

#[test]
fn a_job_with_everything() {
    let mut observed = nothing();
    observed.cluster = Referenced::Found(cluster(json!({
        "image": "registry.example/millstream:1", "imagePullPolicy": "IfNotPresent",
        "kafka": {
            "bootstrapServers": "kafka:9093", "properties": {"security.protocol": "SASL_SSL"},
            "credentialsSecretRef": {"name": "kafka-user"}, "internalTopics": {"replicationFactor": 2}
        },
        "storage": {"checkpoints": {"s3": {
            "bucket": "streams", "prefix": "team-a", "endpoint": "https://minio:9000", "region": "eu-central-1",
            "credentialsSecretRef": {"name": "bucket-key"}
        }}},
        "defaults": {"commitInterval": "100ms", "resources": {"requests": {"cpu": "1"}}}
    })));
    observed.access = Some(access());
    observed.sql = Referenced::Found("CREATE TABLE a (x INT);\nINSERT INTO b SELECT x FROM a;\n".to_owned());
    let object = job(json!({
        "clusterRef": {"name": "default"},
        "sqlFrom": {"configMapKeyRef": {"name": "queries", "key": "delays.sql"}},
        "restoreFrom": {"location": "s3://streams/team-a/old/uid/savepoints/one"},
        "workers": 2, "shards": 32, "checkpoint": {"interval": "30s", "retention": {"count": 3, "age": "2h"}},
        "template": {
            "labels": {"team": "a"}, "annotations": {"note": "x"}, "serviceAccountName": "delays",
            "nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "priorityClassName": "high", "terminationGracePeriodSeconds": 60,
            "imagePullSecrets": [{"name": "pull"}], "volumeSize": "10Gi", "storageClassName": "standard",
            "env": [
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "RUST_LOG", "value": "debug"}
            ]
        }
    }));
    let job = validate(&object, &observed, "unused").expect("the job is valid");
    insta::assert_snapshot!("job_with_everything", yaml(&build(&job, 1, "millstream-system")));
}

#[test]
fn what_the_pods_read_is_what_the_contract_says() {
    let objects = build(&valid(json!({"sql": "SELECT ': #' \n-- |\nFROM t"})), 1, "ns");
    let data = objects.config_map.data.expect("the ConfigMap has data");
    let settings: PodSettings = serde_saphyr::from_str(&data["settings.yaml"]).expect("the settings can be read");
    assert_eq!(settings.version, job_api::VERSION);
    assert_eq!(settings.job_uid, "6d9d4d0c-52cb-4d2c-9a34-6a1b3b6d1c11");
    let job: serde_json::Value = serde_saphyr::from_str(&data["job.yaml"]).expect("the job can be read");
    assert_eq!(job["spec"]["sql"], "SELECT ': #' \n-- |\nFROM t");
    assert_eq!(job["spec"]["commitInterval"], "50ms");
}

/// New keys of the API server reach the pods' files, and restart nothing.
#[test]
fn new_keys_are_no_new_revision() {
    let object = job(json!({"sql": "SELECT 1"}));
    let mut observed = nothing();
    let of = |observed: &_| validate(&object, observed, "image").expect("the job is valid");
    let without = of(&observed);
    observed.access = Some(access());
    let with = of(&observed);
    assert_eq!(with.revision, without.revision);
    let (before, after) = (build(&without, 1, "ns"), build(&with, 1, "ns"));
    assert_eq!(before.stateful_set, after.stateful_set);
    assert_ne!(before.config_map, after.config_map);
    let settings = &after.config_map.data.expect("the ConfigMap has data")["settings.yaml"];
    let settings: PodSettings = serde_saphyr::from_str(settings).expect("the settings can be read");
    assert_eq!(settings.control, Some(access()));
}

#[test]
fn a_savepoint_to_begin_with_is_there_and_complete() {
    let object = job(json!({"sql": "SELECT 1", "restoreFrom": {"checkpoint": "one"}}));
    let mut observed = nothing();
    let mut why = |restore| {
        observed.restore = restore;
        validate(&object, &observed, "image").map(|job| job.restore_from).map_err(|invalid| invalid.reason)
    };
    let facts = |location: Option<&str>, failed| {
        Referenced::Found(CheckpointFacts { location: location.map(str::to_owned), failed })
    };
    assert_eq!(why(Referenced::Missing), Err(Reason::CheckpointNotFound));
    assert_eq!(why(facts(None, false)), Err(Reason::CheckpointNotReady));
    assert_eq!(why(facts(None, true)), Err(Reason::CheckpointNotReady));
    assert_eq!(why(facts(Some("s3://b/one"), false)), Ok(Some("s3://b/one".to_owned())));
    let mut recorded = object.clone();
    recorded.status = Some(StreamJobStatus { restore_from: Some("s3://b/one".to_owned()), ..Default::default() });
    let valid = validate(&recorded, &nothing(), "image").expect("what is recorded holds without the object");
    assert_eq!(valid.restore_from.as_deref(), Some("s3://b/one"));
}

#[test]
fn a_job_that_asks_for_snapshots_needs_a_place_for_them() {
    let object = job(json!({"sql": "SELECT 1", "checkpoint": {"interval": "30s"}}));
    let invalid = validate(&object, &nothing(), "image").expect_err("there is no StreamCluster");
    assert!(invalid.message.contains("write spec.storage.checkpoints.s3 in the StreamCluster"), "{}", invalid.message);
}

#[test]
fn what_a_spec_refers_to_must_be_there() {
    let mut observed = nothing();
    observed.cluster = Referenced::Missing;
    let with_cluster = job(json!({"sql": "SELECT 1", "clusterRef": {"name": "default"}}));
    let error = validate(&with_cluster, &observed, "i").expect_err("there is no cluster");
    assert_eq!(error.reason, Reason::ClusterNotFound);
    assert!(error.message.contains("StreamCluster default"), "{}", error.message);

    let mut observed = nothing();
    observed.sql = Referenced::Missing;
    let with_reference = job(json!({"sqlFrom": {"configMapKeyRef": {"name": "queries", "key": "a.sql"}}}));
    let error = validate(&with_reference, &observed, "i").expect_err("there is no SQL");
    assert_eq!(error.reason, Reason::SqlNotFound);
    assert!(error.message.contains("key a.sql of ConfigMap queries"), "{}", error.message);
}

#[test]
fn an_object_of_somebody_else_is_never_taken_over() {
    let mut observed = nothing();
    observed.taken = Some("Service delays".to_owned());
    let error = validate(&job(json!({"sql": "SELECT 1"})), &observed, "i").expect_err("the name is taken");
    assert_eq!(error.reason, Reason::NameTaken);
}

#[test]
fn the_revision_changes_with_what_pods_do_and_with_nothing_else() {
    let base = small().revision;
    for spec in [
        json!({"sql": "SELECT 2"}),
        json!({"sql": "SELECT 1", "commitInterval": "1s"}),
        json!({"sql": "SELECT 1", "template": {"resources": {"limits": {"memory": "3Gi"}}}}),
    ] {
        assert_ne!(valid(spec.clone()).revision, base, "{spec}");
    }
    for spec in [
        json!({"sql": "SELECT 1", "state": "Suspended"}),
        json!({"sql": "SELECT 1", "replicas": 1}),
        json!({"sql": "SELECT 1", "shards": 16, "commitInterval": "50ms"}),
    ] {
        assert_eq!(valid(spec.clone()).revision, base, "{spec}");
    }
}

/// What the restricted pod security standard asks, and a little more.
fn assert_restricted(pod: &PodSpec) {
    let security = pod.security_context.as_ref().expect("the pod has a security context");
    assert_eq!(security.run_as_non_root, Some(true));
    assert_eq!(security.seccomp_profile.as_ref().map(|profile| profile.type_.as_str()), Some("RuntimeDefault"));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
    assert!(pod.init_containers.is_none());
    for container in &pod.containers {
        assert_container_restricted(container);
    }
    for volume in pod.volumes.iter().flatten() {
        assert!(volume.host_path.is_none(), "{volume:?}");
    }
}

fn assert_container_restricted(container: &Container) {
    let security = container.security_context.as_ref().expect("the container has a security context");
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.read_only_root_filesystem, Some(true));
    let capabilities = security.capabilities.as_ref().expect("capabilities are dropped");
    assert_eq!(capabilities.drop.as_deref(), Some(["ALL".to_owned()].as_slice()));
    assert!(capabilities.add.is_none() && security.privileged.is_none());
}

fn label(text: &str) -> bool {
    text.len() <= 63 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn spec() -> impl Strategy<Value = serde_json::Value> {
    let env = proptest::collection::vec("[A-Z_]{1,12}", 0..4);
    let labels = proptest::collection::btree_map("[a-z/.]{1,40}", ".{0,40}", 0..4);
    let grace = prop_oneof![Just(None), (30_i64..3600).prop_map(Some)];
    (".{0,200}", env, labels, grace, any::<bool>()).prop_map(|(sql, env, labels, grace, volume)| {
        let env: Vec<_> = env.into_iter().map(|name| json!({"name": name, "value": "x"})).collect();
        let mut template = json!({"env": env, "labels": labels});
        if let Some(grace) = grace {
            template["terminationGracePeriodSeconds"] = json!(grace);
        }
        if volume {
            template["volumeSize"] = json!("1Gi");
        }
        json!({"sql": sql, "template": template})
    })
}

proptest! {
    /// Whatever a user writes, the pods stay restricted, names fit, and a name written twice reaches the API server once.
    #[test]
    fn every_job_can_be_built(name in "[a-z]([-a-z0-9]{0,43}[a-z0-9])?", spec in spec()) {
        let mut object = job(spec);
        object.metadata.name = Some(name.clone());
        let job = validate(&object, &nothing(), "millstream:test").expect("the job is valid");
        let objects = build(&job, 1, "ns");
        let set = objects.stateful_set.spec.expect("a StatefulSet has a spec");
        let template = set.template;
        let labels = template.metadata.and_then(|meta| meta.labels).unwrap_or_default();
        prop_assert_eq!(labels.get("millstream.io/job"), Some(&name));
        for (key, value) in objects.stateful_set.metadata.labels.iter().flatten() {
            prop_assert!(label(value), "{key}: {value}");
        }
        // The longest name that Kubernetes makes of ours: the StatefulSet's revision as a label.
        prop_assert!(name.len() + "-0123456789".len() <= 63);
        let pod = template.spec.expect("a template has a spec");
        assert_restricted(&pod);
        let mut seen = BTreeMap::new();
        for variable in pod.containers[0].env.iter().flatten() {
            prop_assert!(seen.insert(variable.name.clone(), ()).is_none(), "{} twice", variable.name);
        }
        prop_assert!(seen.contains_key("POD_NAME"));
    }
}
