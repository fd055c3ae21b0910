//! StreamCluster: what the jobs of a namespace share.
//!
//! It has no status: nothing runs for it.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::LocalRef;
use super::storage::ClusterStorage;
use crate::schema::{self, StringMap};

/// What the jobs of a namespace share: Kafka, image, defaults.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "millstream.io",
    version = "v1alpha1",
    kind = "StreamCluster",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    shortname = "sc",
    category = "millstream",
    doc = "What the StreamJobs of a namespace share: Kafka, image, defaults. A change replaces the pods of the jobs that name it.",
    printcolumn(
        name = "Kafka",
        type_ = "string",
        json_path = ".spec.kafka.bootstrapServers",
        description = "Kafka brokers to begin with"
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        description = "Image of the job runtime",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StreamClusterSpec {
    /// Image of the job runtime. The operator's default unless said otherwise.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9][-A-Za-z0-9._/:@]*$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When the image is pulled, as in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// The Kafka that jobs read, write and commit to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<ClusterKafka>,
    /// Where jobs keep what must outlive their pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ClusterStorage>,
    /// What holds for a job that does not say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<ClusterDefaults>,
}

/// The Kafka of a StreamCluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterKafka {
    /// Brokers to begin with, as `host:port,host:port`. The default of every table's `properties.bootstrap.servers`.
    #[schemars(
        length(min = 3, max = 2048),
        regex(pattern = r"^[A-Za-z0-9._\-\[\]:]+:[0-9]{1,5}(,[A-Za-z0-9._\-\[\]:]+:[0-9]{1,5})*$")
    )]
    pub bootstrap_servers: String,
    /// Client properties, such as `security.protocol`. Defaults for every table; the job's pod allows a fixed list and names one that is
    /// not on it. Secrets are refused here: they belong into `credentialsSecretRef`.
    #[schemars(schema_with = "schema::string_map::<64>")]
    #[x_kube(validation = Rule::new("self.all(key, !key.contains('password') && !key.contains('secret') && !key.contains('jaas') && !key.contains('.pem') && !key.contains('location') && !key.contains('plugin') && !key.contains('cmd'))")
        .message("a property that holds a secret, loads code or reads a file is not allowed: put username, password, ca.crt, tls.crt and tls.key into the Secret of credentialsSecretRef"))]
    #[serde(default, skip_serializing_if = "StringMap::is_empty")]
    pub properties: StringMap,
    /// Secret of this namespace with any of `username`, `password`, `ca.crt`, `tls.crt`, `tls.key`. The kubelet mounts it into the pods; the
    /// operator cannot read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<LocalRef>,
    /// The topics that jobs create for themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_topics: Option<InternalTopics>,
}

/// The topics that jobs create for themselves: changelog and control.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InternalTopics {
    /// Replication factor. 3 unless said otherwise; 1 is for trials, it loses state with its broker.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u16>,
}

/// What holds for a job that does not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDefaults {
    /// CPU and memory of a job's pod.
    #[schemars(schema_with = "schema::resources")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How often a job commits, as in `50ms`; from 10ms to 60s.
    #[schemars(length(min = 2, max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('60s')")
        .message("commitInterval must be from 10ms to 60s"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_interval: Option<String>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Before every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never; the node must have it.
    Never,
}

impl ImagePullPolicy {
    /// The policy as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
