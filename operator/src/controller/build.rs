//! The objects of a job, from a validated job. Pure and infallible: what can fail was checked before.
//!
//! It does not know what is in the cluster.

mod config_map;
mod network_policy;
mod pod;
mod service;
mod stateful_set;

use std::collections::BTreeMap;

use crds::names;
use crds::v1alpha1::StreamJob;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;

use super::validate::ValidatedJob;

/// Name of the only container of a job's pods.
pub const JOB_CONTAINER: &str = "job";

/// Kinds of a job's objects, as messages name them.
pub const CONFIG_MAP: &str = "ConfigMap";
/// See [`CONFIG_MAP`].
pub const SERVICE: &str = "Service";
/// See [`CONFIG_MAP`].
pub const POLICY: &str = "NetworkPolicy";
/// See [`CONFIG_MAP`].
pub const BUDGET: &str = "PodDisruptionBudget";
/// See [`CONFIG_MAP`].
pub const STATEFUL_SET: &str = "StatefulSet";

/// The objects of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobObjects {
    /// The job and its settings, as the pods read them.
    pub config_map: ConfigMap,
    /// Names for the pods.
    pub service: Service,
    /// Who may reach the pods.
    pub network_policy: NetworkPolicy,
    /// How many pods a drain may take at a time.
    pub pod_disruption_budget: PodDisruptionBudget,
    /// The pods.
    pub stateful_set: StatefulSet,
}

/// Name of a job's ConfigMap. Not the job's own name: users like to give that to the ConfigMap with the SQL.
pub fn config_map_name(job: &str) -> String {
    format!("{job}-millstream")
}

/// Builds all objects of a job with this number of pods. `operator_namespace` is where the pods that may reach the control port live.
pub fn build(job: &ValidatedJob, replicas: u16, operator_namespace: &str) -> JobObjects {
    JobObjects {
        config_map: config_map::build(job),
        service: service::build(job),
        network_policy: network_policy::build(job, operator_namespace),
        pod_disruption_budget: pod_disruption_budget(job),
        stateful_set: stateful_set::build(job, replicas),
    }
}

fn pod_disruption_budget(job: &ValidatedJob) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(job, &job.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(job)),
            // A pod that is not ready serves nobody; it must not hold up the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Metadata of an object of the job: its labels, and its owner, so that Kubernetes collects it with the job.
fn metadata(job: &ValidatedJob, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels(job)),
        owner_references: Some(vec![owner(job)]),
        ..ObjectMeta::default()
    }
}

/// Labels of everything that belongs to the job. The user's labels are not copied: they may belong to the tool that applied the job, which
/// would then take our objects for its own and prune them.
fn labels(job: &ValidatedJob) -> BTreeMap<String, String> {
    let labels = [
        (names::LABEL_NAME, names::APP_NAME),
        (names::LABEL_INSTANCE, job.name.as_str()),
        (names::LABEL_COMPONENT, names::COMPONENT_JOB),
        (names::LABEL_PART_OF, names::APP_NAME),
        (names::LABEL_MANAGED_BY, names::CONTROLLER),
        (names::LABEL_JOB, job.name.as_str()),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Labels by which the job's pods are found; never changed, because a StatefulSet's selector cannot change.
fn selector_labels(job: &ValidatedJob) -> BTreeMap<String, String> {
    let labels = [(names::LABEL_NAME, names::APP_NAME), (names::LABEL_JOB, job.name.as_str())];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn selector(job: &ValidatedJob) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(job)), match_expressions: None }
}

fn owner(job: &ValidatedJob) -> OwnerReference {
    OwnerReference {
        api_version: StreamJob::api_version(&()).into_owned(),
        kind: StreamJob::kind(&()).into_owned(),
        name: job.name.clone(),
        uid: job.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
