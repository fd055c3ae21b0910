//! StreamJob: what the user asks for.
//!
//! What became of it is in `status.rs`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::{KeyRef, PodTemplate};
use super::status::StreamJobStatus;
use super::storage::{JobCheckpoint, RestoreFrom};

/// A streaming job: SQL that runs until it is suspended, deleted, or its bounded input ends.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "millstream.io",
    version = "v1alpha1",
    kind = "StreamJob",
    namespaced,
    status = "StreamJobStatus",
    derive = "PartialEq",
    derive = "Default",
    shortname = "sj",
    category = "millstream",
    doc = "A streaming job: SQL in, StatefulSet out. The operator never writes its spec.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the job is in its life"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the job is as its spec asks"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas", description = "Pods that are ready"),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.progress.lagRows",
        description = "Source rows that are there and not yet read"
    ),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.currentRevision", description = "Revision of the spec that is deployed"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why the job is ready or not",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "The same for people",
        priority = "1"
    ),
    validation = Rule::new("size(self.metadata.name) <= 45 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must start with a letter, hold only a-z, 0-9 and -, end with a letter or digit, and be at most 45 characters long: pods and volumes are named after it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.sql) != has(self.sqlFrom)")
        .message("write exactly one of spec.sql and spec.sqlFrom"),
    validation = Rule::new("has(self.clusterRef) == has(oldSelf.clusterRef) && (!has(self.clusterRef) || self.clusterRef.name == oldSelf.clusterRef.name)")
        .message("spec.clusterRef cannot change: the job's committed offsets and state live in that cluster; create another job instead"),
    validation = Rule::new("(has(self.shards) ? self.shards : 16) == (has(oldSelf.shards) ? oldSelf.shards : 16)")
        .message("spec.shards cannot change: state is split by it; take a savepoint and create another job with it in spec.restoreFrom"),
    validation = Rule::new("(has(self.replicas) ? self.replicas : 1) <= (has(self.shards) ? self.shards : 16)")
        .message("spec.replicas must not be more than spec.shards (16 unless said otherwise): a pod needs a shard"),
    validation = Rule::new("(has(self.template) && has(self.template.volumeSize) ? self.template.volumeSize : '') == (has(oldSelf.template) && has(oldSelf.template.volumeSize) ? oldSelf.template.volumeSize : '')")
        .message("spec.template.volumeSize cannot change: Kubernetes cannot change the volume claims of a StatefulSet; create another job instead"),
    validation = Rule::new("(has(self.template) && has(self.template.storageClassName) ? self.template.storageClassName : '') == (has(oldSelf.template) && has(oldSelf.template.storageClassName) ? oldSelf.template.storageClassName : '')")
        .message("spec.template.storageClassName cannot change: Kubernetes cannot change the volume claims of a StatefulSet; create another job instead"),
    validation = Rule::new("!has(self.restoreFrom) || (has(oldSelf.restoreFrom) && self.restoreFrom == oldSelf.restoreFrom)")
        .message("spec.restoreFrom cannot be added or changed: only a new job begins with a savepoint; create another job instead")
)]
pub struct StreamJobSpec {
    /// The StreamCluster of this namespace whose Kafka, image and defaults the job uses. Without it the job uses no Kafka settings but
    /// those of its own tables. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<ClusterRef>,
    /// The job as SQL: CREATE TABLE, CREATE VIEW, INSERT INTO, EXECUTE STATEMENT SET. Exactly one of `sql` and `sqlFrom` is written.
    #[schemars(length(min = 1, max = 262144))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// Where the SQL is, if it is not in `sql`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_from: Option<SqlFrom>,
    /// Whether the job runs. A suspended job has no pods and keeps its state. Running unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DesiredState>,
    /// Number of pods; also served by the scale subresource. 1 unless said otherwise, at most `shards`. More than 1 needs a sink with
    /// connector `kafka`: pods work together through Kafka. May change while the job runs.
    #[schemars(range(min = 1, max = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
    /// Number of parts into which the job's state is split; the most pods that the job can ever use. 16 unless said otherwise. Cannot
    /// change.
    #[schemars(range(min = 1, max = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<u16>,
    /// How often outputs, state and offsets are committed together, as in `50ms` or `1s`; from 10ms to 60s. The StreamCluster's default,
    /// else 50ms.
    #[schemars(length(min = 2, max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('60s')")
        .message("commitInterval must be from 10ms to 60s"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_interval: Option<String>,
    /// How the job takes snapshots of its state, if its StreamCluster says where they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<JobCheckpoint>,
    /// The savepoint that the job begins with, if it has no state of its own yet. It is for new jobs: it can be left out later, but neither
    /// added nor changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreFrom>,
    /// Memory of a pod for keyed state, as in `512Mi` or `2Gi`, from 10Mi to 9999Gi. State that is larger lies on disk and is read when it is
    /// needed. It is a part of what the pod uses: `template.resources` must have room for it and about 200Mi more. 256Mi unless said otherwise.
    #[schemars(length(max = 8), regex(pattern = r"^([1-9][0-9]{1,5}Mi|[1-9][0-9]{0,3}Gi)$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_memory: Option<String>,
    /// Worker threads per pod. One per core that the pod may use unless said otherwise.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u16>,
    /// What the pods look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodTemplate>,
}

/// Reference to a StreamCluster of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the StreamCluster.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}

/// Where the SQL is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SqlFrom {
    /// Key of a ConfigMap of the same namespace that holds the SQL.
    pub config_map_key_ref: KeyRef,
}

/// Whether the job runs. A suspended job has no pods and keeps its state. Running unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// The job runs.
    #[default]
    Running,
    /// The job has no pods and keeps its state.
    Suspended,
}
