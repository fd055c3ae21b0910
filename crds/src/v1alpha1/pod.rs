//! What a user may say about a job's pods: a typed list, so that nothing can weaken a pod's security.
//!
//! Everything else of the pod is the operator's.

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, StringMap};

/// What the pods of a job look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Image of the job runtime. The StreamCluster's, else the operator's default.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9][-A-Za-z0-9._/:@]*$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets of this namespace with which the image is pulled.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalRef>,
    /// Service account of the pods, for the identity that object stores see. The API token of the account is never mounted.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Labels of the pods besides the operator's own.
    #[schemars(schema_with = "schema::string_map::<32>")]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('millstream.io/'))")
        .message("labels that start with app.kubernetes.io/ or millstream.io/ are the operator's"))]
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub labels: StringMap,
    /// Annotations of the pods besides the operator's own.
    #[schemars(schema_with = "schema::string_map::<32>")]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('millstream.io/'))")
        .message("annotations that start with millstream.io/ are the operator's"))]
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub annotations: StringMap,
    /// CPU and memory of the pod, as in a container. The StreamCluster's default, else 500m CPU and 512Mi of memory requested, 2Gi of
    /// memory as the limit.
    #[schemars(schema_with = "schema::resources")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have, as in a Pod.
    #[schemars(schema_with = "schema::string_map::<32>")]
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub node_selector: StringMap,
    /// Taints that the pods tolerate, as in a Pod.
    #[schemars(schema_with = "schema::pruned_list::<Toleration, 32>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Rules for choosing a node, as in a Pod.
    #[schemars(schema_with = "schema::pruned::<Affinity>")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods spread over the cluster, as in a Pod. Over nodes where possible unless said otherwise.
    #[schemars(schema_with = "schema::pruned_list::<TopologySpreadConstraint, 8>")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of the pods.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Seconds that a pod has to make its last commit and leave; from 30 to 3600, 30 unless said otherwise.
    #[schemars(range(min = 30, max = 3600))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
    /// Environment of the job's process, for connectors that take their credentials from it.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Size of the volume for local state, as in `10Gi`. Without it local state lies on the node's disk and goes with the pod; a job with a
    /// Kafka sink rebuilds it from its newest snapshot and its changelog, another job goes on from its newest snapshot, or starts anew if it
    /// takes none. Cannot change.
    #[schemars(length(max = 16), regex(pattern = r"^[1-9][0-9]*(Mi|Gi|Ti)$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size: Option<String>,
    /// Storage class of that volume. The cluster's default unless said otherwise. Cannot change.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

/// One variable of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.valueFrom)").message("write exactly one of value and valueFrom"),
    validation = Rule::new("!(self.name in ['POD_NAME', 'POD_NAMESPACE'])").message("POD_NAME and POD_NAMESPACE are set by the operator")
)]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Value of the variable. Secrets belong into `valueFrom`.
    #[schemars(length(max = 32768))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvVarSource>,
}

/// Where the value of a variable is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretKeyRef) != has(self.configMapKeyRef)")
    .message("write exactly one of secretKeyRef and configMapKeyRef"))]
pub struct EnvVarSource {
    /// Key of a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// Key of a ConfigMap of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// One key of an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// An object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}
