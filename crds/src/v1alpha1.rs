//! Version v1alpha1 of the API: StreamJob, StreamCluster, Checkpoint.
//!
//! Fields that do nothing yet are not here. Rules that a schema can check are in the schema; what only the cluster knows (does the
//! StreamCluster exist?) the controller checks; what only the job knows (is the SQL right?) the pod checks.

mod checkpoint;
mod pod;
mod status;
mod storage;
mod stream_cluster;
mod stream_job;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

pub use checkpoint::{
    Checkpoint, CheckpointPhase, CheckpointSpec, CheckpointStatus, CheckpointType, DeletionPolicy, JobRef,
    OrderedSavepoint,
};
pub use pod::{EnvVar, EnvVarSource, KeyRef, LocalRef, PodTemplate};
pub use status::{Ended, EndedPhase, LastCheckpoint, LastError, Phase, Progress, StreamJobStatus};
pub use storage::{CheckpointRetention, CheckpointStorage, ClusterStorage, JobCheckpoint, RestoreFrom, S3Storage};
pub use stream_cluster::{
    ClusterDefaults, ClusterKafka, ImagePullPolicy, InternalTopics, StreamCluster, StreamClusterSpec,
};
pub use stream_job::{ClusterRef, DesiredState, SqlFrom, StreamJob, StreamJobSpec};

use crate::schema;

/// Shards of a job that names no number.
pub const DEFAULT_SHARDS: u16 = 16;
/// Commit interval of a job whose StreamCluster names none either.
pub const DEFAULT_COMMIT_INTERVAL: &str = "50ms";
/// Replication factor of internal topics when the StreamCluster names none.
pub const DEFAULT_INTERNAL_TOPIC_REPLICATION: u16 = 3;

/// All resource definitions of this version, as they are installed.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [StreamJob::crd(), StreamCluster::crd(), Checkpoint::crd()].map(schema::without_foreign_formats)
}
