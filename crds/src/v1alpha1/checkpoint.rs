//! Checkpoint: one point in time to which a job can return.
//!
//! The operator makes savepoints: what a user asks for. Periodic checkpoints are the pods' own affair and have no objects; one that is
//! created is told so in its conditions.

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
    doc = "One point in time to which a StreamJob can return. Creating one of type Savepoint makes the operator order a savepoint from the job's pods. Periodic checkpoints have no objects in this version: one of type Checkpoint is marked Stalled with reason NotSupported.",
    printcolumn(name = "Job", type_ = "string", json_path = ".spec.jobRef.name", description = "The job"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type", description = "Checkpoint or Savepoint"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "How far it is"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether a job can be started from it"
    ),
    printcolumn(
        name = "Bytes",
        type_ = "integer",
        json_path = ".status.sizeBytes",
        description = "Size of what it holds"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = "1"
    ),
    printcolumn(
        name = "Location",
        type_ = "string",
        json_path = ".status.location",
        description = "Where it is",
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
    /// What becomes of the stored data when this object is deleted: it stays, in this version always.
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
}

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointPhase {
    /// Not ordered yet; the conditions say what is waited for.
    Pending,
    /// The order is recorded and on its way to the job's pods.
    Ordered,
    /// Sources pause, what is on the way between pods is read, every pod commits.
    Draining,
    /// The job goes on; the pods' files are on their way to the store.
    Uploading,
    /// A job can be started from it.
    Completed,
    /// It cannot be used, and will not be tried again: create another one.
    Failed,
}

/// An order to the job's pods. It is recorded before it is given, so that an operator that starts anew goes on with the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderedSavepoint {
    /// Name of the savepoint, made of this object's uid.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Uid of the job that it was ordered from.
    #[schemars(length(min = 1, max = 64))]
    pub job_uid: String,
    /// When it was recorded, just before it was ordered.
    pub at: Time,
}

/// What became of the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The generation of the spec that this status is about.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready (a job can be started from it), Reconciling, Stalled.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// How far it is, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<CheckpointPhase>,
    /// What was ordered from the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<OrderedSavepoint>,
    /// Where it is: what `spec.restoreFrom.location` of another job takes.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Size of what it holds, over all pods.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Milliseconds that the job's sources stood still for it, in the pod where it took longest.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<i64>,
    /// Milliseconds from the order until the operator saw it complete; it looks every second.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// When it was seen complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// What happened last, for people.
    #[schemars(length(max = 8192))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
