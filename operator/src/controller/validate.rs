//! The spec, its StreamCluster and its SQL as one value in which nothing is missing or double. Pure.
//!
//! It checks what the schema cannot see: whether what the spec refers to is there. It does not read the SQL: the pod does.

use std::collections::BTreeMap;

use crds::names::Reason;
use crds::v1alpha1::{
    ClusterKafka, DEFAULT_COMMIT_INTERVAL, DEFAULT_INTERNAL_TOPIC_REPLICATION, DEFAULT_SHARDS, DesiredState,
    ImagePullPolicy, JobCheckpoint, PodTemplate, S3Storage, StreamCluster, StreamJob,
};
use job_api::control::ControlAccess;
use job_api::{CheckpointStorage, KafkaSettings, S3Settings};
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::observe::{Observed, Referenced};

const NO_STORAGE: &str = "spec.checkpoint is written, and the job's StreamCluster names no place for snapshots: write spec.storage.checkpoints.s3 in the StreamCluster, or leave spec.checkpoint out";

/// A job that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedJob {
    /// Name of the StreamJob and of most of its objects.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid: names transactional ids and internal topics.
    pub uid: String,
    /// Whether it should run.
    pub state: DesiredState,
    /// Number of pods when it runs.
    pub replicas: u16,
    /// Whose orders the pods take. No part of the revision: new keys restart nothing.
    pub control: Option<ControlAccess>,
    /// Where a job without state of its own gets it from. No part of the revision: it matters once.
    pub restore_from: Option<String>,
    /// What decides what the pods do.
    pub definition: Definition,
    /// Hash of [`Definition`].
    pub revision: String,
    /// Hash of the SQL alone.
    pub sql_hash: String,
}

/// Everything that decides what a job's pods do; a change of it is a new revision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Definition {
    /// The SQL.
    pub sql: String,
    /// Name of the StreamCluster.
    pub cluster: Option<String>,
    /// Parts of the state.
    pub shards: u16,
    /// Time between commits.
    pub commit_interval: String,
    /// Worker threads per pod.
    pub workers: Option<u16>,
    /// Image of the job runtime.
    pub image: String,
    /// When it is pulled, in Kubernetes' words.
    pub image_pull_policy: Option<&'static str>,
    /// CPU and memory, if the user or the cluster says.
    pub resources: Option<ResourceRequirements>,
    /// Kafka of the StreamCluster.
    pub kafka: Option<KafkaSettings>,
    /// Secret with the Kafka client's credentials.
    pub kafka_secret: Option<String>,
    /// How the job takes snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<JobCheckpoint>,
    /// Memory for keyed state. Not written out if the user says nothing, so that a new default is no new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_memory: Option<String>,
    /// Where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointStorage>,
    /// Secret with the bucket's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3_secret: Option<String>,
    /// The rest of what the user says about the pods.
    pub template: PodTemplate,
}

/// Why a job cannot be built. It waits for an edit of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// What kind.
    pub reason: Reason,
    /// What to do.
    pub message: String,
}

/// Checks a job against what it refers to.
pub fn validate(job: &StreamJob, observed: &Observed, default_image: &str) -> Result<ValidatedJob, Invalid> {
    let cluster = cluster(job, observed)?;
    let sql = sql(job, observed)?;
    let spec = &job.spec;
    let name = job.metadata.name.clone().unwrap_or_default();
    if let Some(taken) = &observed.taken {
        return Err(Invalid {
            reason: Reason::NameTaken,
            message: format!("{taken} exists and does not belong to this job: delete or rename it, or rename the job"),
        });
    }
    let template = spec.template.clone().unwrap_or_default();
    let defaults = cluster.and_then(|cluster| cluster.spec.defaults.as_ref());
    let kafka = cluster.and_then(|cluster| cluster.spec.kafka.as_ref());
    let s3 = cluster
        .and_then(|cluster| cluster.spec.storage.as_ref())
        .and_then(|storage| storage.checkpoints.as_ref())
        .map(|checkpoints| &checkpoints.s3);
    if spec.checkpoint.is_some() && s3.is_none() {
        return Err(Invalid { reason: Reason::InvalidSpec, message: NO_STORAGE.to_owned() });
    }
    let definition = Definition {
        cluster: spec.cluster_ref.as_ref().map(|reference| reference.name.clone()),
        shards: spec.shards.unwrap_or(DEFAULT_SHARDS),
        commit_interval: spec
            .commit_interval
            .clone()
            .or_else(|| defaults.and_then(|defaults| defaults.commit_interval.clone()))
            .unwrap_or_else(|| DEFAULT_COMMIT_INTERVAL.to_owned()),
        workers: spec.workers,
        image: template
            .image
            .clone()
            .or_else(|| cluster.and_then(|cluster| cluster.spec.image.clone()))
            .unwrap_or_else(|| default_image.to_owned()),
        image_pull_policy: cluster.and_then(|cluster| cluster.spec.image_pull_policy).map(ImagePullPolicy::as_str),
        resources: template.resources.clone().or_else(|| defaults.and_then(|defaults| defaults.resources.clone())),
        kafka: kafka.map(kafka_settings),
        kafka_secret: kafka.and_then(|kafka| kafka.credentials_secret_ref.as_ref()).map(|secret| secret.name.clone()),
        checkpoint: spec.checkpoint.clone(),
        state_memory: spec.state_memory.clone(),
        checkpoints: s3.map(|s3| CheckpointStorage { s3: s3_settings(s3) }),
        s3_secret: s3.and_then(|s3| s3.credentials_secret_ref.as_ref()).map(|secret| secret.name.clone()),
        template,
        sql,
    };
    Ok(ValidatedJob {
        name,
        namespace: job.metadata.namespace.clone().unwrap_or_default(),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        state: spec.state.unwrap_or_default(),
        replicas: spec.replicas.unwrap_or(1),
        control: observed.access.clone(),
        restore_from: restore_from(job, observed)?,
        revision: definition.revision(),
        sql_hash: hash(definition.sql.as_bytes()),
        definition,
    })
}

fn cluster<'a>(job: &StreamJob, observed: &'a Observed) -> Result<Option<&'a StreamCluster>, Invalid> {
    match (&observed.cluster, &job.spec.cluster_ref) {
        (Referenced::Found(cluster), _) => Ok(Some(cluster)),
        (Referenced::NotNamed, _) => Ok(None),
        (Referenced::Missing, reference) => {
            let name = reference.as_ref().map(|reference| reference.name.as_str()).unwrap_or_default();
            Err(Invalid {
                reason: Reason::ClusterNotFound,
                message: format!(
                    "spec.clusterRef names StreamCluster {name}, which does not exist in this namespace: create it"
                ),
            })
        }
    }
}

/// The location of the savepoint that the job begins with. Once it is recorded, it holds without the Checkpoint.
fn restore_from(job: &StreamJob, observed: &Observed) -> Result<Option<String>, Invalid> {
    let Some(from) = &job.spec.restore_from else { return Ok(None) };
    if let Some(recorded) = job.status.as_ref().and_then(|status| status.restore_from.clone()) {
        return Ok(Some(recorded));
    }
    let name = match (&from.location, &from.checkpoint) {
        (Some(location), _) => return Ok(Some(location.clone())),
        (None, Some(name)) => name,
        (None, None) => {
            let message = "write exactly one of restoreFrom.checkpoint and restoreFrom.location".to_owned();
            return Err(Invalid { reason: Reason::InvalidSpec, message });
        }
    };
    let not_ready = |how: &str| Invalid {
        reason: Reason::CheckpointNotReady,
        message: format!("spec.restoreFrom names Checkpoint {name}, which {how}"),
    };
    match &observed.restore {
        Referenced::Found(found) => found.location.clone().map(Some).ok_or_else(|| {
            not_ready(if found.failed {
                "failed: its status says why; create another one"
            } else {
                "is not complete: the job begins when it is"
            })
        }),
        Referenced::Missing | Referenced::NotNamed => Err(Invalid {
            reason: Reason::CheckpointNotFound,
            message: format!(
                "spec.restoreFrom names Checkpoint {name}, which does not exist in this namespace: create it, or write its location"
            ),
        }),
    }
}

fn sql(job: &StreamJob, observed: &Observed) -> Result<String, Invalid> {
    match (&job.spec.sql, &job.spec.sql_from, &observed.sql) {
        (Some(sql), _, _) => Ok(sql.clone()),
        (None, Some(_), Referenced::Found(sql)) => Ok(sql.clone()),
        (None, Some(from), Referenced::Missing | Referenced::NotNamed) => Err(Invalid {
            reason: Reason::SqlNotFound,
            message: format!(
                "spec.sqlFrom names key {} of ConfigMap {}, which does not exist in this namespace: create it",
                from.config_map_key_ref.key, from.config_map_key_ref.name
            ),
        }),
        (None, None, _) => Err(Invalid {
            reason: Reason::InvalidSpec,
            message: "write exactly one of spec.sql and spec.sqlFrom".to_owned(),
        }),
    }
}

fn kafka_settings(kafka: &ClusterKafka) -> KafkaSettings {
    let replication = kafka
        .internal_topics
        .as_ref()
        .and_then(|topics| topics.replication_factor)
        .unwrap_or(DEFAULT_INTERNAL_TOPIC_REPLICATION);
    KafkaSettings {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        properties: kafka
            .properties
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        internal_topic_replication: i16::try_from(replication).unwrap_or(i16::MAX),
    }
}

fn s3_settings(s3: &S3Storage) -> S3Settings {
    S3Settings {
        bucket: s3.bucket.clone(),
        prefix: s3.prefix.clone().unwrap_or_default(),
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        path_style: s3.path_style.unwrap_or(s3.endpoint.is_some()),
    }
}

impl Definition {
    /// Name of this revision: a hash of all fields. Number of pods and `spec.state` are no part of it, they do not change what a pod does.
    fn revision(&self) -> String {
        let text =
            serde_json::to_vec(self).expect("a definition holds only strings, numbers and maps with string keys");
        hash(&text)
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("{:016x}", xxh3_64(bytes))
}
