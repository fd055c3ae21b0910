//! Checkpoint: one point in time to which a job can return.
//!
//! This version of the operator makes none; it says so in the object's conditions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// One point in time to which a job can return.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "millstream.io",
    version = "v1alpha1",
    kind = "Checkpoint",
    namespaced,
    status = "CheckpointStatus",
    derive = "PartialEq",
    shortname = "sjcp",
    category = "millstream",
    doc = "One point in time to which a StreamJob can return. This version of Millstream makes none: its operator marks the object Stalled with reason NotSupported.",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.jobRef.name", description = "The job"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "Checkpoint or Savepoint"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the job can return to it"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a Checkpoint cannot change; create another one"))]
pub struct CheckpointSpec {
    /// The job whose point in time it is.
    pub job_ref: JobRef,
    /// Whether Millstream may delete it by itself.
    #[serde(rename = "type")]
    pub type_: CheckpointType,
    /// What becomes of the stored data when this object is deleted. Retain unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// Reference to a StreamJob of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobRef {
    /// Name of the StreamJob.
    #[schemars(length(min = 1, max = 45), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// Kinds of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointType {
    /// Periodic; Millstream may delete it.
    Checkpoint,
    /// Asked for; kept until a user deletes it.
    Savepoint,
}

/// What becomes of the stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    Retain,
    /// It is deleted with the object.
    Delete,
}

/// What became of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The generation of the spec that this status is about.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready (the job can return to it), Reconciling, Stalled.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
}
