//! What the pods read: the job and the settings, each a YAML file. It knows the layout of both, and of nothing else.

use std::collections::BTreeMap;

use crds::v1alpha1::StreamJob;
use job_api::{JOB_FILE, PodSettings, SETTINGS_FILE, VERSION};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use serde::Serialize;
use serde_json::json;

use super::{config_map_name, metadata};
use crate::controller::validate::ValidatedJob;

/// Builds the ConfigMap.
pub(super) fn build(job: &ValidatedJob) -> ConfigMap {
    let data =
        BTreeMap::from([(JOB_FILE.to_owned(), yaml(&job_file(job))), (SETTINGS_FILE.to_owned(), yaml(&settings(job)))]);
    ConfigMap { metadata: metadata(job, &config_map_name(&job.name)), data: Some(data), ..ConfigMap::default() }
}

/// The StreamJob with its SQL in it and its defaults written out. What only concerns Kubernetes is left out: the pod has no use for it.
fn job_file(job: &ValidatedJob) -> serde_json::Value {
    let definition = &job.definition;
    let mut spec = json!({
        "replicas": job.replicas,
        "shards": definition.shards,
        "commitInterval": definition.commit_interval,
    });
    if let Some(cluster) = &definition.cluster {
        spec["clusterRef"] = json!({"name": cluster});
    }
    if let Some(workers) = definition.workers {
        spec["workers"] = json!(workers);
    }
    if let Some(memory) = &definition.state_memory {
        spec["stateMemory"] = json!(memory);
    }
    if let Some(checkpoint) = &definition.checkpoint {
        spec["checkpoint"] = json!(checkpoint);
    }
    spec["sql"] = json!(definition.sql);
    json!({
        "apiVersion": StreamJob::api_version(&()),
        "kind": StreamJob::kind(&()),
        "metadata": {"name": job.name, "namespace": job.namespace, "uid": job.uid},
        "spec": spec,
    })
}

fn settings(job: &ValidatedJob) -> PodSettings {
    PodSettings {
        version: VERSION,
        job_uid: job.uid.clone(),
        revision: job.revision.clone(),
        replicas: job.replicas,
        kafka: job.definition.kafka.clone(),
        checkpoints: job.definition.checkpoints.clone(),
        restore_from: job.restore_from.clone(),
        control: job.control.clone(),
    }
}

fn yaml<T: Serialize>(value: &T) -> String {
    serde_saphyr::to_string(value).expect("strings, numbers and maps with string keys can be written as YAML")
}
