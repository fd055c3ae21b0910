//! Where snapshots go (StreamCluster), and how often a job takes one (StreamJob).
//!
//! What lies there is the job runtime's; the operator never reads it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::LocalRef;

/// Where jobs keep what must outlive their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStorage {
    /// Where snapshots of the jobs' state go. Without it jobs take none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointStorage>,
}

/// Where snapshots go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStorage {
    /// A bucket of S3, or of a server that speaks its protocol and knows conditional puts.
    pub s3: S3Storage,
}

/// A bucket and how the pods reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Storage {
    /// Name of the bucket. It must exist.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-a-z0-9.]*[a-z0-9]$"))]
    pub bucket: String,
    /// What all keys begin with, as in `team-a/streams`. A job's objects lie below the prefix, its name and its uid; nothing else is
    /// touched.
    #[schemars(length(max = 256), regex(pattern = r"^([A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)*)?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Address of the server, as in `https://minio.storage:9000`. AWS unless said otherwise.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-z0-9-]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the bucket's name is part of the path and not of the server's name; most servers besides AWS want it. True if `endpoint`
    /// is written, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Secret of this namespace with `accessKeyId` and `secretAccessKey`; the kubelet puts them into the pods' environment, the operator
    /// cannot read them. Without it the pods use the identity of their service account or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
}

/// How a job takes snapshots. The StreamCluster says where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobCheckpoint {
    /// Time between two snapshots, as in `60s`; from 1s to 24h. 60s unless said otherwise. Output does not wait for snapshots: they only
    /// make recovery fast, and bound the changelog.
    #[schemars(length(min = 2, max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("checkpoint.interval must be from 1s to 24h"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How many are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<CheckpointRetention>,
}

/// How many snapshots are kept. The newest is kept whatever is written here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointRetention {
    /// At most so many; 10 unless said otherwise.
    #[schemars(range(min = 1, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
    /// None that is older, as in `24h`, which holds unless said otherwise; from 1m to 87600h.
    #[schemars(length(min = 2, max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('87600h')")
        .message("checkpoint.retention.age must be from 1m to 87600h"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
}

/// The savepoint that a new job begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.checkpoint) != has(self.location)")
    .message("write exactly one of restoreFrom.checkpoint and restoreFrom.location"))]
pub struct RestoreFrom {
    /// Name of a Checkpoint of this namespace that is complete.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Where the savepoint is: `status.location` of a Checkpoint.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}
