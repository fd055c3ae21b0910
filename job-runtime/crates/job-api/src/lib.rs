//! The contract between the operator and a job's pods: what the operator puts into the pod, what the pod says of itself.
//!
//! Serde types and constants only. It does not open ports or files.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub mod control;
pub mod orders;

/// Directory of the mounted ConfigMap: `job.yaml` (the StreamJob as accepted) and `settings.yaml` ([`PodSettings`]).
pub const CONFIG_DIR: &str = "/etc/millstream";
/// File of the StreamJob below [`CONFIG_DIR`].
pub const JOB_FILE: &str = "job.yaml";
/// File of the settings below [`CONFIG_DIR`].
pub const SETTINGS_FILE: &str = "settings.yaml";
/// Directory of the Kafka client's Secret, mounted by the kubelet: `username`, `password`, `ca.crt`, `tls.crt`, `tls.key` as present.
pub const KAFKA_SECRET_DIR: &str = "/etc/millstream-secrets/kafka";
/// Directory of the state volume.
pub const STATE_DIR: &str = "/var/lib/millstream";
/// Port of `/healthz`, `/readyz`, `/startupz` and `/metrics`.
pub const HEALTH_PORT: u16 = 8080;
/// Port of `/status` ([`PodStatus`] as JSON) and of [`orders`]: HTTP/1.1 over TLS, see [`control`].
pub const CONTROL_PORT: u16 = 8443;
/// The pod writes its last error here as [`Termination`] in JSON before it exits; Kubernetes shows it as the termination message.
pub const TERMINATION_FILE: &str = "/dev/termination-log";
/// Layout version of [`PodSettings`], [`PodStatus`] and [`Termination`].
pub const VERSION: u32 = 1;

/// What the operator tells every pod of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSettings {
    /// [`VERSION`].
    pub version: u32,
    /// The StreamJob's `metadata.uid`: names transactional ids and internal topics, for ever.
    pub job_uid: String,
    /// The revision of the spec, for logs and metrics.
    pub revision: String,
    /// Number of pods.
    pub replicas: u16,
    /// Kafka of the StreamCluster, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSettings>,
    /// Where the job's snapshots go, if the StreamCluster names a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<CheckpointStorage>,
    /// Where a job without state of its own gets it from: [`orders::SavepointStatus::location`] of a savepoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<String>,
    /// Whose orders the pod takes; nobody's if it is not there. The pod reads the file again for it, so that a change restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<control::ControlAccess>,
}

/// Where snapshots go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointStorage {
    /// A bucket.
    pub s3: S3Settings,
}

/// A bucket and how to reach it. Credentials are not here: they are in the pod's environment or its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Settings {
    /// Name of the bucket.
    pub bucket: String,
    /// What all keys begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Address of the server; AWS unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `server/bucket/key` instead of `bucket.server/key`.
    #[serde(default)]
    pub path_style: bool,
}

/// Kafka of a StreamCluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSettings {
    /// `host:port,…`; the default of every table's `properties.bootstrap.servers`.
    pub bootstrap_servers: String,
    /// Client properties from the allow-list, without secrets. Defaults for every table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Replication factor of internal topics.
    pub internal_topic_replication: i16,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Reading the job, opening connectors, recovering state.
    Starting,
    /// Processing.
    Running,
    /// Bounded input is at its end and the last commit is made; the pod waits to be ended.
    Finished,
    /// The job cannot go on; the pod is about to exit.
    Failed,
}

/// What a pod says of itself on the control port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// [`VERSION`].
    pub version: u32,
    /// The revision that the pod runs.
    pub revision: String,
    /// Where it is.
    pub phase: PodPhase,
    /// Commits made by this process.
    pub commits: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z of the last commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit_ms: Option<u64>,
    /// Rows read and written by this process.
    pub rows_in: u64,
    /// See `rows_in`.
    pub rows_out: u64,
    /// Source rows that are there and not yet read, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_rows: Option<u64>,
    /// What the sources of the pod are held for, if another pod has not read what this one sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// The job's watermark in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// [`PodSettings::replicas`] as the pod would read it now. A pod that begins anew takes this number, so the operator waits for it before it
    /// orders an assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_replicas: Option<u16>,
    /// Snapshots of this process, if the job takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotStatus>,
    /// The stream operators, in the order of the plan; none before the job is planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<OperatorStatus>,
    /// Why the pod failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Termination>,
}

/// What one stream operator did in this process, over all workers of the pod. Counters only rise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorStatus {
    /// Its stable id.
    pub uid: String,
    /// Its name, as `millstream explain` shows it.
    pub name: String,
    /// Rows that it was given (a source: rows decoded).
    pub rows_in: u64,
    /// Rows that it gave on (a sink: rows encoded).
    pub rows_out: u64,
    /// Milliseconds that workers were in it, without those operators that it gives rows to. One worker can spend a second of it per second.
    pub busy_ms: u64,
    /// Its watermark in milliseconds since 1970-01-01T00:00:00Z, the least of all workers; not there before the first and at the end of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// Bytes of keyed state in memory, about.
    pub state_bytes: u64,
}

/// What a pod says of its snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Number of the last one, or of the one that the pod was restored from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// When the last one of this process was complete, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// Size of what it holds.
    pub bytes: u64,
    /// Milliseconds that it took.
    pub took_ms: u64,
    /// Snapshots taken by this process.
    pub taken: u64,
    /// Snapshots that failed in this process.
    pub failed: u64,
    /// Why the last try failed; not there when the last one succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A pod's last words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// [`VERSION`].
    pub version: u32,
    /// What kind of trouble.
    pub reason: TerminationReason,
    /// For people: the place, what is wrong, what to do. Never a secret.
    pub message: String,
}

/// Kinds of trouble, as condition reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TerminationReason {
    /// The job's text is wrong: nothing but an edit helps.
    InvalidJob,
    /// A connector cannot start: no broker, no topic, no right, no file.
    ConnectorFailed,
    /// A record could not be processed and the table's option is `fail`.
    RecordFailed,
    /// The state directory belongs to another job or cannot be read.
    StateFailed,
    /// A commit was refused or its outcome is unknown; the next start goes on from the log.
    CommitFailed,
    /// Another process of the job took over.
    Fenced,
    /// Asked to stop.
    Stopped,
    /// A bug of ours.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that operators wrote before pods took orders, and the status that pods gave.
    #[test]
    fn what_was_written_before_is_still_read() {
        let settings = r#"{"version": 1, "jobUid": "6d9d4d0c", "revision": "6f1c9a7e", "replicas": 2}"#;
        let read: PodSettings = serde_json::from_str(settings).expect("old settings are settings");
        assert_eq!((read.replicas, read.restore_from, read.control), (2, None, None));
        let status =
            r#"{"version": 1, "revision": "6f1c9a7e", "phase": "Running", "commits": 7, "rowsIn": 1, "rowsOut": 2}"#;
        let read: PodStatus = serde_json::from_str(status).expect("an old status is a status");
        assert_eq!((read.commits, read.settings_replicas, read.operators), (7, None, Vec::new()));
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let settings = PodSettings {
            version: VERSION,
            job_uid: "6d9d4d0c".to_owned(),
            revision: "6f1c9a7e".to_owned(),
            replicas: 2,
            kafka: None,
            checkpoints: None,
            restore_from: Some("s3://streams/team-a/delays/6d9d4d0c/savepoint/one".to_owned()),
            control: Some(control::ControlAccess {
                issuer: "https://kubernetes.default.svc".to_owned(),
                audience: control::audience("6d9d4d0c"),
                subject: "system:serviceaccount:millstream-system:millstream-operator".to_owned(),
                keys: vec![control::IssuerKey::Rsa { kid: "a".to_owned(), n: "AQAB".to_owned(), e: "AQAB".to_owned() }],
            }),
        };
        let text = serde_json::to_string(&settings).expect("settings are JSON");
        assert_eq!(serde_json::from_str::<PodSettings>(&text).expect("what was written is read"), settings);
    }
}
