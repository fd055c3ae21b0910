//! Status of a StreamJob: what became of the spec. Part of the API, not internal.
//!
//! It is also the controller's memory: what it must know after a restart and cannot see in the cluster is recorded here before it acts.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// What became of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamJobStatus {
    /// The generation of the spec that this status is about.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the job is in its life, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Ready (the job is as its spec asks), Reconciling (the operator is at work), Stalled (something stands in the way; the reason names it).
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Pods that exist.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub replicas: i32,
    /// Pods that run the current revision and are ready.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, for the scale subresource.
    #[schemars(length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Revision of the spec that is deployed: a hash of everything that decides what the pods do.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_revision: Option<String>,
    /// How far the job is, as its pods say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last thing that went wrong, in the pod's own words. It stays until something else goes wrong or another revision runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// Number of pods that the job's work was last distributed over by an order of the operator, or that the job began with.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_replicas: Option<i32>,
    /// Where the job was told to get its first state from: the location that `spec.restoreFrom` came to. It holds also when the Checkpoint is
    /// deleted.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<String>,
    /// Set when the job came to an end by itself; it is then kept without pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Pods are being created, replaced or are starting.
    Deploying,
    /// All pods run the current revision and are ready.
    Running,
    /// Asked to have no pods.
    Suspended,
    /// Bounded input came to its end and everything is committed.
    Finished,
    /// The job cannot go on without a change from outside.
    Failed,
    /// The object is being deleted.
    Deleting,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 6] =
        [Self::Deploying, Self::Running, Self::Suspended, Self::Finished, Self::Failed, Self::Deleting];

    /// The phase as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "Deploying",
            Self::Running => "Running",
            Self::Suspended => "Suspended",
            Self::Finished => "Finished",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }
}

/// How far a job is. Counters are those of the running process and start at zero with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Commits made.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub commits: i64,
    /// Rows read.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub rows_in: i64,
    /// Rows written.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub rows_out: i64,
    /// Source rows that are there and not yet read, if the sources can say.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<i64>,
    /// The pod whose sources are held, and for what, while another pod has not read what it was sent.
    #[schemars(length(max = 8192))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// Event time up to which the job is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Time>,
    /// When the last commit was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit_time: Option<Time>,
    /// The job's snapshots, if it takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// When the operator asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
}

/// The last snapshots of a job's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastCheckpoint {
    /// When every pod had completed its last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Time>,
    /// Size of what they hold, in bytes.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub bytes: i64,
    /// Snapshots that failed since the pods started.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub failed: i64,
    /// Why the last try of a pod failed; not there when all last ones succeeded.
    #[schemars(length(max = 8192))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The last thing that went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// What kind of trouble; one of the reasons of conditions.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// For people: the place, what is wrong, what to do.
    #[schemars(length(max = 8192))]
    pub message: String,
    /// The pod that said so.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Exit code of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// When it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// How a job came to an end by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Well or not.
    pub phase: EndedPhase,
    /// Revision that ended. A failed job starts again when its revision changes.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// Hash of the SQL that ended. A finished job starts again when its SQL changes.
    #[schemars(length(max = 64))]
    pub sql_hash: String,
    /// When the operator saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// How a job came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndedPhase {
    /// Bounded input came to its end.
    Finished,
    /// Only an edit helps.
    Failed,
}
