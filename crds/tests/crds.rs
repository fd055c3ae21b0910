//! Promises of the resource definitions: small enough, described, bounded, rules that hold, generated files that are not stale.
//!
//! No cluster: the API server's own view is tested in e2e.

use crds::reference::generated_files;
use crds::v1alpha1::{self, StreamCluster, StreamJob};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube_cel::Validator;
use serde_json::{Value, json};

/// What `kubectl apply` can carry in its annotation.
const SIZE_MAX: usize = 262_144;

#[test]
fn every_definition_fits_into_the_annotation_of_kubectl_apply() {
    for definition in v1alpha1::definitions() {
        let size = serde_json::to_string(&definition).expect("a definition is JSON").len();
        assert!(size < SIZE_MAX, "{:?} has {size} bytes", definition.metadata.name);
    }
}

#[test]
fn no_generated_file_is_stale() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in generated_files().expect("the definitions can be rendered") {
        let text = std::fs::read_to_string(root.join(&file.path)).unwrap_or_default();
        assert!(text == file.text, "{} is stale: run `cargo run -p crds --bin generate`", file.path);
    }
}

#[test]
fn the_yaml_means_the_same_as_the_definition() {
    for definition in v1alpha1::definitions() {
        let yaml = crds::reference::definition_yaml(&definition).expect("a definition is YAML");
        let back: Value = serde_saphyr::from_str(&yaml).expect("what we write can be read");
        assert_eq!(back, serde_json::to_value(&definition).expect("a definition is JSON"));
        assert!(!yaml.contains("{{"), "Helm would read braces in {:?}", definition.metadata.name);
    }
}

/// Every field of ours says what it is for, every string, list and map is bounded, and no field has a default that another actor would
/// fight with.
#[test]
fn every_field_is_described_and_bounded() {
    for definition in v1alpha1::definitions() {
        let root = root_schema(&definition);
        for part in ["spec", "status"] {
            if let Some(schema) =
                root.properties.iter().flatten().find_map(|(name, schema)| (name == part).then_some(schema))
            {
                check_fields(part, schema);
            }
        }
    }
}

/// Fields whose inner part is a Kubernetes type: described by the Pod's documentation, bounded by the API server.
const EMBEDDED: [&str; 7] = [
    "spec.template.affinity",
    "spec.template.resources",
    "spec.template.tolerations",
    "spec.template.topologySpreadConstraints",
    "spec.defaults.resources",
    "status.conditions",
    "status.progress.watermark",
];

fn check_fields(path: &str, schema: &JSONSchemaProps) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray;
    assert!(schema.default.is_none() || !path.starts_with("spec"), "{path} has a default");
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(field.description.as_ref().is_some_and(|text| text.len() > 8), "{path} has no description");
        if EMBEDDED.contains(&path.as_str()) {
            continue;
        }
        match field.type_.as_deref() {
            Some("string") => {
                let bounded =
                    field.max_length.is_some() || field.enum_.is_some() || field.format.as_deref() == Some("date-time");
                assert!(bounded, "{path} is not bounded");
            }
            Some("array") => assert!(field.max_items.is_some(), "{path} is not bounded"),
            Some("integer") => {
                let bounded = field.minimum.is_some() || path.ends_with("exitCode");
                assert!(bounded, "{path} is not bounded");
            }
            _ => {}
        }
        if field.additional_properties.is_some() {
            assert!(field.max_properties.is_some(), "{path} is not bounded");
        }
        check_fields(&path, field);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &field.items {
            check_fields(&format!("{path}[]"), items);
        }
    }
}

fn root_schema(definition: &CustomResourceDefinition) -> &JSONSchemaProps {
    definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()).expect("a schema")
}

/// Messages of the rules that refuse `object`, when it is created or when it replaces `old`.
fn refusals(definition: &CustomResourceDefinition, object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = serde_json::to_value(root_schema(definition)).expect("a schema is JSON");
    match Validator::new().validate(&schema, object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| format!("{:?} {error}", error.kind)).collect(),
    }
}

fn job(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "millstream.io/v1alpha1", "kind": "StreamJob", "metadata": {"name": name}, "spec": spec})
}

#[track_caller]
fn accepted(spec: Value) {
    let crd = crd_of::<StreamJob>();
    assert_eq!(refusals(&crd, &job("delays", spec), None), Vec::<String>::new());
}

#[track_caller]
fn refused(object: &Value, old: Option<&Value>, because: &str) {
    let refusals = refusals(&crd_of::<StreamJob>(), object, old);
    assert!(
        refusals.iter().any(|text| text.starts_with("ValidationFailure") && text.contains(because)),
        "{refusals:?}"
    );
}

fn crd_of<K: kube::CustomResourceExt>() -> CustomResourceDefinition {
    K::crd()
}

#[test]
fn a_job_with_sql_or_a_reference_to_it_is_accepted() {
    accepted(json!({"sql": "SELECT 1"}));
    accepted(json!({"sqlFrom": {"configMapKeyRef": {"name": "queries", "key": "delays.sql"}}}));
    accepted(json!({
        "sql": "SELECT 1", "clusterRef": {"name": "default"}, "state": "Suspended", "replicas": 1, "shards": 32,
        "commitInterval": "1m", "workers": 2,
        "template": {"env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    }));
}

#[test]
fn exactly_one_of_sql_and_sql_from() {
    refused(&job("delays", json!({})), None, "exactly one of spec.sql and spec.sqlFrom");
    let both = json!({"sql": "SELECT 1", "sqlFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}});
    refused(&job("delays", both), None, "exactly one of spec.sql and spec.sqlFrom");
}

#[test]
fn names_leave_room_for_what_kubernetes_adds() {
    let spec = json!({"sql": "SELECT 1"});
    for name in ["9lives", "a.b", "ends-", &"x".repeat(46)] {
        refused(&job(name, spec.clone()), None, "at most 45 characters");
    }
    assert_eq!(refusals(&crd_of::<StreamJob>(), &job(&"x".repeat(45), spec), None), Vec::<String>::new());
}

#[test]
fn a_job_has_at_most_as_many_pods_as_shards() {
    let spec = |replicas: u16| json!({"sql": "SELECT 1", "shards": 4, "replicas": replicas});
    refused(&job("delays", spec(5)), None, "must not be more than spec.shards");
    assert_eq!(refusals(&crd_of::<StreamJob>(), &job("delays", spec(4)), None), Vec::<String>::new());
    refused(&job("delays", json!({"sql": "SELECT 1", "replicas": 17})), None, "must not be more than spec.shards");
}

#[test]
fn commit_intervals_are_bounded() {
    for interval in ["9ms", "61s", "2m"] {
        refused(&job("delays", json!({"sql": "SELECT 1", "commitInterval": interval})), None, "from 10ms to 60s");
    }
}

#[test]
fn what_names_the_state_cannot_change() {
    let base = json!({"sql": "SELECT 1", "clusterRef": {"name": "a"}, "template": {"volumeSize": "1Gi"}});
    let cases = [
        (
            json!({"sql": "SELECT 1", "clusterRef": {"name": "b"}, "template": {"volumeSize": "1Gi"}}),
            "spec.clusterRef cannot change",
        ),
        (json!({"sql": "SELECT 1", "template": {"volumeSize": "1Gi"}}), "spec.clusterRef cannot change"),
        (
            json!({"sql": "SELECT 1", "clusterRef": {"name": "a"}, "shards": 8, "template": {"volumeSize": "1Gi"}}),
            "spec.shards cannot change",
        ),
        (json!({"sql": "SELECT 1", "clusterRef": {"name": "a"}}), "spec.template.volumeSize cannot change"),
        (
            json!({"sql": "SELECT 1", "clusterRef": {"name": "a"}, "template": {"volumeSize": "1Gi", "storageClassName": "fast"}}),
            "spec.template.storageClassName cannot change",
        ),
    ];
    let old = job("delays", base.clone());
    for (spec, because) in cases {
        refused(&job("delays", spec), Some(&old), because);
    }
    let mut same = base;
    same["shards"] = json!(16);
    same["sql"] = json!("SELECT 2");
    same["replicas"] = json!(3);
    assert_eq!(refusals(&crd_of::<StreamJob>(), &job("delays", same), Some(&old)), Vec::<String>::new());
}

#[test]
fn a_job_is_restored_from_one_place_and_only_when_it_is_new() {
    let with = |from: Value| json!({"sql": "SELECT 1", "restoreFrom": from});
    let one = with(json!({"checkpoint": "before-upgrade"}));
    accepted(one.clone());
    accepted(with(json!({"location": "s3://streams/team-a/delays/uid/savepoints/one"})));
    refused(&job("delays", with(json!({}))), None, "exactly one of restoreFrom.checkpoint and restoreFrom.location");
    let both = with(json!({"checkpoint": "a", "location": "s3://b/c"}));
    refused(&job("delays", both), None, "exactly one of restoreFrom.checkpoint and restoreFrom.location");
    let (without, other) = (job("delays", json!({"sql": "SELECT 1"})), with(json!({"checkpoint": "another"})));
    refused(&job("delays", one.clone()), Some(&without), "spec.restoreFrom cannot be added or changed");
    refused(&job("delays", other), Some(&job("delays", one.clone())), "spec.restoreFrom cannot be added or changed");
    let crd = crd_of::<StreamJob>();
    assert_eq!(refusals(&crd, &job("delays", one.clone()), Some(&job("delays", one.clone()))), Vec::<String>::new());
    assert_eq!(refusals(&crd, &without, Some(&job("delays", one))), Vec::<String>::new(), "it may be left out later");
}

#[test]
fn a_variable_has_one_value_and_a_name_of_its_own() {
    let with = |env: Value| job("delays", json!({"sql": "SELECT 1", "template": {"env": [env]}}));
    refused(&with(json!({"name": "A"})), None, "exactly one of value and valueFrom");
    refused(&with(json!({"name": "A", "valueFrom": {}})), None, "exactly one of secretKeyRef and configMapKeyRef");
    refused(&with(json!({"name": "POD_NAME", "value": "x"})), None, "set by the operator");
}

#[test]
fn the_operators_labels_cannot_be_overwritten() {
    let spec = json!({"sql": "SELECT 1", "template": {"labels": {"millstream.io/job": "other"}}});
    refused(&job("delays", spec), None, "are the operator's");
}

#[test]
fn secrets_and_dangerous_properties_have_no_place_in_a_cluster() {
    for key in [
        "sasl.password",
        "ssl.key.location",
        "plugin.library.paths",
        "sasl.kerberos.kinit.cmd",
        "sasl.oauthbearer.client.secret",
    ] {
        let object = json!({
            "apiVersion": "millstream.io/v1alpha1", "kind": "StreamCluster", "metadata": {"name": "default"},
            "spec": {"kafka": {"bootstrapServers": "kafka:9092", "properties": {key: "x"}}}
        });
        let refusals = refusals(&crd_of::<StreamCluster>(), &object, None);
        assert!(refusals.iter().any(|text| text.contains("credentialsSecretRef")), "{key}: {refusals:?}");
    }
}

#[test]
fn a_checkpoint_cannot_change() {
    let crd = crd_of::<v1alpha1::Checkpoint>();
    let object = |type_: &str| {
        json!({
            "apiVersion": "millstream.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": "one"},
            "spec": {"jobRef": {"name": "delays"}, "type": type_}
        })
    };
    assert_eq!(refusals(&crd, &object("Savepoint"), Some(&object("Savepoint"))), Vec::<String>::new());
    assert!(!refusals(&crd, &object("Savepoint"), Some(&object("Checkpoint"))).is_empty());
}

#[test]
fn the_status_of_a_checkpoint_can_be_read_again() {
    let value = json!({
        "observedGeneration": 1, "phase": "Completed",
        "savepoint": {"name": "cp-1", "jobUid": "6d9d4d0c", "at": "2026-11-21T07:00:00Z"},
        "location": "s3://streams/one", "sizeBytes": 4096, "pauseMs": 12, "durationMs": 1500,
        "completedAt": "2026-11-21T07:00:01Z", "message": "complete"
    });
    let status: v1alpha1::CheckpointStatus = serde_json::from_value(value.clone()).expect("it is a status");
    assert_eq!(serde_json::to_value(&status).expect("a status is JSON"), value);
    // As the last version wrote it.
    let old = json!({"observedGeneration": 1, "conditions": []});
    serde_json::from_value::<v1alpha1::CheckpointStatus>(old).expect("an old status is a status");
}

#[test]
fn what_is_written_can_be_read_again() {
    let text = include_str!("streamjob.json");
    let value: Value = serde_json::from_str(text).expect("the fixture is JSON");
    let job: StreamJob = serde_json::from_value(value.clone()).expect("the fixture is a StreamJob");
    assert_eq!(serde_json::to_value(&job).expect("a StreamJob is JSON"), value);
}
